// Cards: one for each photograph and class, with one picture or a grid of methods and layers.

const grid = find("grid");
const state = { method: methods[0], layer: layers[0] ?? "", rows: "", view: "single" }; // rows: the layers of a grid, "" for all
let current = null; // the card that Tab reaches

const recordOf = (card) => card.group.layers.get(state.layer);
const anyRecordOf = (card) => recordOf(card) ?? card.group.first;
const several = layers.length > 1;
const placeOf = (record) => record.image;

/** Records of a card that are seen: of the layer, or of the rows of a grid. */
function seenRecords(card) {
  if (state.view === "single") return [recordOf(card)].filter(Boolean);
  return [...card.group.layers.values()].filter((record) => !state.rows || record.layer === state.rows);
}

/** A card without its content, which it has from when it first comes near: thousands are there at once. */
function newCard(group) {
  return { group, node: make("li", "", "card"), stage: null, pictures: [], at: null, zoom: UNZOOMED, near: false, ...group };
}

function build(card) {
  if (card.stage) return;
  const { node } = card, record = card.first;
  node.append(find("card").content.cloneNode(true));
  const text = (selector, value) => {
    const element = node.querySelector(selector);
    element.textContent = value;
    return element;
  };
  text(".open", wordsOf(record)).setAttribute("aria-label", `${wordsOf(record)}, ${placeOf(record)}: large view`);
  text(".file", placeOf(record)).title = placeOf(record);
  text(".probability", isNumber(record.probability) || record.interest === undefined ? percent(record.probability) : "").title = "probability";
  text(".score", `score ${decimals(record.score)}${record.interest === undefined ? ` · rank ${record.rank ?? "–"}` : ""}`);
  card.stage = part(node, "stage");
  fillVerdict(part(node, "verdict"), card);
  part(node, "choose").setAttribute("aria-label", `Choose ${wordsOf(record)}, ${placeOf(record)} for export`);
}

/** Fill the stage of a card that comes near the window, and what depends on method and layer. */
function fillCard(card) {
  card.node.classList.toggle("wide", state.view === "grid");
  if (!card.near) return;
  build(card);
  fillNotes(part(card.node, "notes"), card);
  card.pictures = fillStage(card.stage, card, card.pictures, part(card.node, "scale"), true);
  for (const picture of card.pictures) tellDivider(picture, positionOf(card));
  if (card.at !== null) card.node.style.setProperty("--at", card.at);
  if (card === current) makeCurrent(card);
}

/** The pictures of a card in a stage: one, or a grid; those that are there already are used again. */
function fillStage(stage, card, before, scale, lazy) {
  const alone = state.view === "single", first = card.group.first;
  const shape = alone ? "single" : `${card.group.key} ${state.rows}`;
  const pictures = stage.dataset.shape === shape ? before : alone ? single(stage, lazy) : matrix(stage, card, lazy);
  stage.dataset.shape = shape;
  if (alone) {
    pictures[0].scale = scale;
    showPicture(pictures[0], first, recordOf(card), state.method, !lazy);
  } else {
    scale.hidden = true;
    for (const picture of pictures) showPicture(picture, first, picture.record, picture.method);
  }
  return pictures;
}

function single(stage, lazy) {
  stage.replaceChildren();
  for (const name of ["tabindex", "role", "aria-label"]) stage.removeAttribute(name);
  return [newPicture(stage, lazy)];
}

/** A heading of a grid: a button that shows this method, or layer, alone. */
function heading(scope, words, alone) {
  const head = Object.assign(make("th"), { scope }), button = Object.assign(make("button"), { type: "button" });
  for (const piece of words.split(/(?<=[._/ -])/)) button.append(piece, make("wbr")); // long names break there
  button.tabIndex = -1; // keys choose method and layer
  button.title = "show alone";
  Object.assign(button.dataset, alone);
  head.append(button);
  return head;
}

/** A table of pictures, methods across and layers down; the first has the divider of all. */
function matrix(stage, card, lazy) {
  const table = make("table", "", "matrix"), head = make("tr"), pictures = [];
  const shown = methods.filter((method) => seenRecords(card).some((record) => methodsOf(record).includes(method)));
  const corner = make("td");
  head.append(corner, ...shown.map((method) => heading("col", titleOf(method), { method })));
  table.append(make("thead"), make("tbody"));
  table.tHead.append(head);
  for (const record of seenRecords(card)) {
    const row = make("tr");
    row.append(heading("row", isFused(record) ? "all layers fused" : record.layer, { layer: record.layer }));
    for (const method of shown) {
      const cell = make("td"), picture = newPicture(cell, lazy), scale = find("scale").content.firstElementChild.cloneNode(true);
      Object.assign(picture, { record, method, scale });
      cell.append(scale);
      if (pictures.length) {
        for (const name of ["role", "tabindex", "aria-label", "aria-valuemin", "aria-valuemax", "aria-valuenow"]) part(picture, "divider").removeAttribute(name);
      }
      row.append(cell);
      pictures.push(picture);
    }
    table.tBodies[0].append(row);
  }
  table.style.setProperty("--columns", shown.length);
  const words = `Methods and layers of ${wordsOf(card.first)}, ${placeOf(card.first)}`;
  for (const [name, value] of Object.entries({ tabindex: 0, role: "group", "aria-label": words })) stage.setAttribute(name, value); // it scrolls
  stage.replaceChildren(table);
  return pictures;
}

/** A note's words before the colon carry it; the rest explains. One on a method is tied to it. */
function noteItem(note, record) {
  const item = make("li"), method = methodIn(note), colon = note.indexOf(": ");
  if (state.view === "grid" && several) item.append(make("span", isFused(record) ? "fused" : record.layer, "tag"), " ");
  if (method) item.append(make("span", titleOf(method), "tag"), " ");
  item.append(make("strong", colon < 0 ? note : note.slice(0, colon)), colon < 0 ? "" : note.slice(colon));
  return item;
}

function fillNotes(list, card) {
  const notes = seenRecords(card).flatMap((record) =>
    (state.view === "grid" ? record.notes ?? [] : notesOn(record, state.method)).map((note) => [note, record]));
  list.replaceChildren(...notes.map(([note, record]) => noteItem(note, record)));
}

function makeCurrent(card) {
  const stops = (one, tabindex) => {
    for (const stop of one.node.querySelectorAll(".open, .choose, .divider[role]")) stop.tabIndex = tabindex;
  };
  if (current && current !== card) stops(current, -1);
  current = card;
  if (current) stops(current, 0);
}

function focusCard(card) {
  build(card);
  makeCurrent(card);
  part(card.node, "open").focus({ preventScroll: true });
  card.node.scrollIntoView({ block: "nearest" });
}

const positionOf = (card) => card.at ?? common();

function moveDivider(card, position) {
  card.at = Math.min(100, Math.max(0, position));
  card.node.style.setProperty("--at", card.at);
  const pictures = opened === card ? [...card.pictures, ...largePictures] : card.pictures;
  if (opened === card) large.style.setProperty("--at", card.at);
  for (const picture of pictures) tellDivider(picture, card.at);
}

function moveAllDividers() {
  document.documentElement.style.setProperty("--at", common());
  for (const card of cards) {
    card.at = null;
    card.node.style.removeProperty("--at");
    for (const picture of card.pictures) tellDivider(picture, common());
  }
  noteState();
}

function zoomCard(card, zoom) {
  card.zoom = zoom;
  applyZoom(card.stage, zoom);
  if (opened === card) applyZoom(largeStage, zoom);
}

/** Cards near the window have their pictures; those far away give the memory back. */
function watch(entries) {
  for (const { target, isIntersecting } of entries) {
    const card = byNode.get(target);
    if (card.near === isIntersecting) continue;
    card.near = isIntersecting;
    if (isIntersecting) fillCard(card);
    else card.pictures.forEach(release);
  }
}

const cards = groups.map(newCard);
const byNode = new Map(cards.map((card) => [card.node, card]));
const cardOf = (element) => byNode.get(element.closest(".card")) ?? null;
