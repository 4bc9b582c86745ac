// Keys and pointers.

const STEP = 5; // per cent of the width that a key moves the divider
const SLIP = 4; // pixels that a click may move before it is a drag
const ZOOM_STEP = 1.5;

const DIVIDER_KEYS = {
  ArrowLeft: (at) => at - STEP, ArrowDown: (at) => at - STEP, ArrowRight: (at) => at + STEP, ArrowUp: (at) => at + STEP,
  PageDown: (at) => at - 4 * STEP, PageUp: (at) => at + 4 * STEP, Home: () => 0, End: () => 100,
};

/** Move the divider where this key does so: on the divider itself, elsewhere with Shift. */
function keyMovesDivider(event, card) {
  const move = DIVIDER_KEYS[event.key];
  const sideways = event.key === "ArrowLeft" || event.key === "ArrowRight";
  if (!move || !(event.target.matches(".divider") || (event.shiftKey && sideways))) return false;
  moveDivider(card, move(positionOf(card)));
  event.preventDefault();
  return true;
}

const plain = (event) => !(event.ctrlKey || event.altKey || event.metaKey || event.isComposing);

/** Zoom where this key does so, or pan with Alt and an arrow. */
function keyZooms(event, card) {
  const factor = { "+": ZOOM_STEP, "=": ZOOM_STEP, "-": 1 / ZOOM_STEP, 0: 0 }[event.key];
  if (factor === undefined || !card) return false;
  zoomCard(card, factor ? zoomed(card.zoom, factor) : UNZOOMED);
  event.preventDefault();
  return true;
}

const PANS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function keyPans(event, card) {
  const way = PANS[event.key];
  if (!event.altKey || event.ctrlKey || event.metaKey || !way || !card || card.zoom.scale === 1) return false;
  zoomCard(card, bounded({ ...card.zoom, x: card.zoom.x + 0.25 * way[0], y: card.zoom.y + 0.25 * way[1] }));
  event.preventDefault();
  return true;
}

const scrolls = (event) => event.target.matches(".stage, .scroll, .side") && event.key.startsWith("Arrow") && !event.shiftKey;

function onGridKey(event) {
  const card = scrolls(event) ? null : cardOf(event.target);
  if (!card) {
    if (current && event.target === document.body && /^Arrow(Left|Right)$/.test(event.key)) focusCard(current);
    return;
  }
  if (keyMovesDivider(event, card) || keyZooms(event, card)) return;
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -Infinity, End: Infinity }[event.key];
  if (by === undefined || event.shiftKey) return;
  const there = Number.isFinite(by) ? shown[shown.indexOf(card) + by] : shown.at(by < 0 ? 0 : -1);
  if (!there) return;
  event.preventDefault();
  focusCard(there);
}

function onLargeKey(event) {
  if (scrolls(event) || keyMovesDivider(event, opened) || event.target.matches("input") || keyZooms(event, opened)) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by === undefined || event.shiftKey) return;
  event.preventDefault();
  step(by);
}

const next = (list, one) => list[(list.indexOf(one) + 1) % list.length];

const COMMANDS = {
  m: () => methods.length > 1 && chooseMethod(next(methods, state.method)),
  l: () => several && chooseLayer(state.view === "single" ? next(layers, state.layer) : next(["", ...layers], state.rows)),
  g: () => (methods.length > 1 || several) && chooseView(state.view === "single" ? "grid" : "single"),
};

function onKey(event) {
  if (keyPans(event, opened ?? cardOf(event.target))) return;
  if (!plain(event) || event.target.matches("select, input:not([type=radio], [type=range], [type=checkbox])")) return;
  if (large.open) onLargeKey(event);
  else onGridKey(event);
  if (cards.length && !event.shiftKey) COMMANDS[event.key]?.();
  if (event.key === "/" && !large.open && cards.length) {
    event.preventDefault();
    find("fold").open = true;
    filters.name.focus();
    filters.name.select();
  }
}

// Pointer: dragging moves the divider, or the picture where it is zoomed; a click on a card opens it, a click in the
// large view sets the divider

let drag = null;
let pressed = null; // where the last press began: dragging out of the large view does not close it

const fingers = new Map(); // on pictures: where each is
let pinch = null; // two of them zoom

function startPinch(picture, card) {
  const [one, other] = [...fingers.values()];
  pinch = { picture, card, zoom: card.zoom, apart: Math.hypot(one[0] - other[0], one[1] - other[1]) };
  drag = null;
}

function movePinch() {
  const [one, other] = [...fingers.values()], box = pinch.picture.getBoundingClientRect();
  const factor = Math.hypot(one[0] - other[0], one[1] - other[1]) / Math.max(1, pinch.apart);
  const middle = [(one[0] + other[0]) / 2 - box.left, (one[1] + other[1]) / 2 - box.top];
  zoomCard(pinch.card, zoomed(pinch.zoom, factor, middle[0] / box.width, middle[1] / box.height));
}

function onPointerDown(event) {
  pressed = event.target;
  const picture = event.target.closest(".compare");
  const inLarge = picture?.closest(".large") !== null;
  if (!picture || event.button !== 0 || (picture.classList.contains("lacks") && inLarge)) return;
  const card = inLarge ? opened : cardOf(picture), onDivider = event.target.matches(".divider");
  if (event.pointerType === "touch") fingers.set(event.pointerId, [event.clientX, event.clientY]);
  if (fingers.size === 2) {
    startPinch(picture, card);
    return;
  }
  const pans = !onDivider && card.zoom.scale > 1;
  drag = { picture, card, pans, inLarge, from: [event.clientX, event.clientY], zoom: card.zoom, moves: !pans && (inLarge || onDivider) };
  onPointerMove(event);
}

function onPointerMove(event) {
  if (fingers.has(event.pointerId)) fingers.set(event.pointerId, [event.clientX, event.clientY]);
  if (pinch) movePinch();
  if (!drag) return;
  const [right, down] = [event.clientX - drag.from[0], event.clientY - drag.from[1]];
  drag.moves ||= Math.abs(right) > SLIP || (drag.pans && Math.abs(down) > SLIP);
  if (!drag.moves) return;
  const box = drag.picture.getBoundingClientRect();
  if (drag.pans) {
    zoomCard(drag.card, bounded({ ...drag.zoom, x: drag.zoom.x + right / box.width, y: drag.zoom.y + down / box.height }));
  } else {
    moveDivider(drag.card, (100 * (event.clientX - box.left)) / box.width);
  }
}

function onPointerCancel(event) {
  fingers.delete(event.pointerId);
  if (fingers.size < 2) pinch = null;
  drag = null;
}

function onPointerUp(event) {
  if (drag && !drag.moves && !drag.inLarge) open(drag.card);
  onPointerCancel(event);
}

/** The wheel zooms in the large view, and with Ctrl (two fingers on a pad) on a card. */
function onWheel(event) {
  const picture = event.target.closest?.(".compare");
  const inLarge = Boolean(picture?.closest(".large"));
  if (!picture || !(inLarge || event.ctrlKey)) return;
  event.preventDefault();
  const card = inLarge ? opened : cardOf(picture), box = picture.getBoundingClientRect();
  const factor = Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002) * (event.ctrlKey ? 4 : 1));
  zoomCard(card, zoomed(card.zoom, factor, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height));
}
