"use strict";
(() => {
  const NAMES = JSON.parse(document.getElementById("titles").textContent);
  const STEP = 5; // per cent of the width that a key moves the divider
  const SLIP = 4; // pixels that a click may move before it is a drag

  const find = (id) => document.getElementById(id);
  const records = JSON.parse(find("records").textContent);
  const grid = find("grid"), large = find("large"), all = find("all");
  const filters = Object.fromEntries(["name", "class", "measure", "low", "high", "order"].map((id) => [id, find(id)]));
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  const methods = [...new Set(records.flatMap((record) => Object.keys(record.files)))];
  const nameOf = (method) => NAMES[method] ?? method;
  const wordsOf = (record) => (record.interest ?? record.class_name).replace(/^n\d{8} /, "");
  const severalLayers = new Set(records.map((record) => record.layer)).size > 1;
  const placeOf = (record) => (severalLayers ? `${record.layer} · ${record.image}` : record.image);
  const fold = (text) => text.normalize().toLowerCase();

  let method = methods[0];
  let shown = []; // the cards that pass the filters, in their order
  let current = null; // the card that Tab reaches
  let opened = null; // the card in the large view

  // Numbers

  const isNumber = (value) => typeof value === "number";
  const digits = (value) => (isNumber(value) ? String(Number(value.toPrecision(3))) : "–");
  const decimals = (value) => (isNumber(value) ? value.toFixed(2) : "–");
  const count = (number, noun, plural = `${noun}s`) => `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;
  function percent(value) {
    if (!isNumber(value)) return "–";
    if (value > 0 && value < 0.0001) return "< 0.01%";
    return `${(100 * value).toFixed(value < 0.1 ? 2 : 1)}%`;
  }

  // The divider: photograph to its left, map to its right

  function newCompare(stage, lazy) {
    const compare = find("compare").content.firstElementChild.cloneNode(true);
    if (lazy) for (const image of compare.querySelectorAll("img")) image.loading = "lazy";
    stage.append(compare);
    return compare;
  }

  const common = () => 100 - all.valueAsNumber; // the more map, the farther left the divider
  const positionOf = (card) => card.at ?? common();

  function paint(compare, position) {
    const divider = compare.querySelector(".divider");
    const rounded = Math.round(position);
    divider.setAttribute("aria-valuenow", rounded);
    divider.setAttribute("aria-valuetext", `${rounded}% photograph, ${100 - rounded}% map`);
  }

  function moveDivider(card, position) {
    card.at = Math.min(100, Math.max(0, position));
    for (const compare of opened === card ? [card.compare, largeCompare] : [card.compare]) {
      compare.style.setProperty("--at", card.at);
      paint(compare, card.at);
    }
  }

  function moveAllDividers() {
    document.documentElement.style.setProperty("--at", common());
    for (const card of cards) {
      card.at = null;
      card.compare.style.removeProperty("--at");
      paint(card.compare, common());
    }
  }

  function showPictures(compare, record) {
    const [photo, map] = compare.querySelectorAll("img");
    const url = record.files[method];
    const lacking = compare.querySelector(".lacking");
    compare.classList.toggle("lacks", url === undefined);
    lacking.hidden = url !== undefined;
    lacking.textContent = `no ${nameOf(method)} map here`;
    if (photo.getAttribute("src") !== record.photograph) photo.src = record.photograph;
    photo.alt = `Photograph ${record.image}`;
    map.alt = `${nameOf(method)} of ${wordsOf(record)} over the photograph`;
    if (url === undefined) map.removeAttribute("src");
    else if (map.getAttribute("src") !== url) map.src = url;
  }

  // Cards

  function newCard(record) {
    const node = find("card").content.firstElementChild.cloneNode(true);
    const text = (selector, value) => {
      const element = node.querySelector(selector);
      element.textContent = value;
      return element;
    };
    const compare = newCompare(node.querySelector(".stage"), true);
    text(".open", wordsOf(record)).setAttribute("aria-label", `${wordsOf(record)}, ${placeOf(record)}: large view`);
    text(".file", placeOf(record)).title = placeOf(record);
    text(".probability", percent(record.probability)).title = "probability";
    text(".score", `score ${decimals(record.score)}${record.interest === undefined ? ` · rank ${record.rank ?? "–"}` : ""}`);
    fillNotes(node.querySelector(".notes"), record);
    showPictures(compare, record);
    paint(compare, common());
    return { record, node, compare, at: null, text: fold(record.image), class: classKey(record) };
  }

  /** A note's words before the colon carry it; the rest explains. */
  function fillNotes(list, record) {
    list.replaceChildren(...(record.notes ?? []).map((note) => {
      const item = document.createElement("li");
      const lead = document.createElement("strong");
      const colon = note.indexOf(": ");
      lead.textContent = colon < 0 ? note : note.slice(0, colon);
      item.append(lead, colon < 0 ? "" : note.slice(colon));
      return item;
    }));
  }

  const classKey = (record) => record.interest ?? `${record.class_index} ${record.class_name}`;
  const cardOf = (element) => byNode.get(element.closest(".card")) ?? null;

  function makeCurrent(card) {
    const stops = (one, tabindex) => {
      for (const stop of one.node.querySelectorAll(".open, .divider")) stop.tabIndex = tabindex;
    };
    if (current) stops(current, -1);
    current = card;
    if (current) stops(current, 0);
  }

  function focusCard(card) {
    makeCurrent(card);
    card.node.querySelector(".open").focus({ preventScroll: true });
    card.node.scrollIntoView({ block: "nearest" });
  }

  // Filters and order

  const MEASURES = {
    probability: (record) => (isNumber(record.probability) ? 100 * record.probability : null),
    score: (record) => (isNumber(record.score) ? record.score : null),
  };

  function passes() {
    const name = fold(filters.name.value.trim());
    const measure = MEASURES[filters.measure.value];
    const [low, high] = [filters.low.valueAsNumber, filters.high.valueAsNumber];
    const ranged = !(Number.isNaN(low) && Number.isNaN(high));
    return (card) => {
      const value = measure(card.record);
      return card.text.includes(name)
        && (!filters.class.value || card.class === filters.class.value)
        && (!ranged || (value !== null && !(value < low) && !(value > high)));
    };
  }

  function inOrder(some) {
    const [key, direction] = filters.order.value.split("-");
    if (key === "run") return some;
    if (key === "name") return some.sort((a, b) => collator.compare(a.record.image, b.record.image));
    const measure = MEASURES[key], sign = direction === "down" ? -1 : 1;
    const place = (card) => measure(card.record) ?? sign * Infinity; // what has no number comes last
    return some.sort((a, b) => (place(a) === place(b) ? 0 : sign * (place(a) - place(b))));
  }

  function update() {
    shown = inOrder(cards.filter(passes()));
    grid.replaceChildren(...shown.map((card) => card.node));
    find("count").textContent = `${shown.length.toLocaleString("en")} of ${cards.length.toLocaleString("en")} shown`;
    find("clear").hidden = !["name", "class", "low", "high"].some((id) => filters[id].value);
    const empty = find("empty");
    empty.hidden = shown.length > 0;
    empty.textContent = cards.length ? "Nothing passes these filters." : "This run has no maps: no photograph was explained.";
    if (!shown.includes(current)) makeCurrent(shown[0] ?? null);
  }

  function clearFilters() {
    for (const id of ["name", "class", "low", "high"]) filters[id].value = "";
    update();
    find("grid").querySelector(".open")?.focus();
  }

  function fillClasses() {
    const counts = new Map();
    for (const record of records) {
      const entry = counts.get(classKey(record)) ?? { words: wordsOf(record), count: 0 };
      entry.count += 1;
      counts.set(classKey(record), entry);
    }
    const entries = [...counts].sort((a, b) => collator.compare(a[1].words, b[1].words));
    filters.class.options[0].textContent = `all classes (${counts.size.toLocaleString("en")})`;
    filters.class.append(...entries.map(([key, { words, count }]) => new Option(`${words} (${count})`, key)));
  }

  function showRange() {
    const values = records.map(MEASURES[filters.measure.value]).filter((value) => value !== null);
    const show = (value) => (values.length ? String(Number(value.toFixed(2))) : "");
    filters.low.placeholder = show(values.reduce((a, b) => Math.min(a, b), Infinity));
    filters.high.placeholder = show(values.reduce((a, b) => Math.max(a, b), -Infinity));
  }

  // Methods

  function fillMethods() {
    for (const group of document.querySelectorAll(".methods")) {
      group.setAttribute("role", "radiogroup");
      group.setAttribute("aria-label", "Method");
      for (const name of methods) {
        const label = document.createElement("label"), radio = document.createElement("input");
        Object.assign(radio, { type: "radio", name: `method-${group.dataset.group}`, value: name, checked: name === method });
        const text = document.createElement("span");
        text.textContent = nameOf(name);
        radio.addEventListener("change", () => choose(name));
        label.append(radio, text);
        group.append(label);
      }
    }
  }

  function choose(name) {
    method = name;
    for (const radio of document.querySelectorAll(".methods input")) radio.checked = radio.value === name;
    for (const card of cards) showPictures(card.compare, card.record);
    if (opened) fillLarge();
  }

  // Large view

  const largeCompare = newCompare(large.querySelector(".stage"), false);

  function open(card) {
    opened = card;
    fillLarge();
    if (!large.open) large.showModal();
    find("large-title").focus();
  }

  function fillLarge() {
    const { record } = opened, place = shown.indexOf(opened);
    find("large-title").textContent = wordsOf(record);
    large.querySelector(".file").textContent = placeOf(record);
    large.querySelector(".place").textContent = `${(place + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`;
    find("previous").disabled = place <= 0;
    find("next").disabled = place >= shown.length - 1;
    largeCompare.style.setProperty("--at", positionOf(opened));
    largeCompare.style.setProperty("--ratio", opened.compare.style.getPropertyValue("--ratio") || "1.3333");
    paint(largeCompare, positionOf(opened));
    showPictures(largeCompare, record);
    fillNotes(large.querySelector(".notes"), record);
    const facts = [
      ...(record.interest === undefined
        ? [["class", record.class_name], ["class index", record.class_index], ["probability", percent(record.probability)]]
        : [[record.what, record.interest]]),
      ["score", decimals(record.score)],
      ...(record.interest === undefined ? [["rank", record.rank]] : []),
      ["model", record.model],
      ["layer", record.layer],
      ...Object.entries(record.conservation_error ?? {})
        .filter(([name]) => name === method)
        .map(([, value]) => ["conservation error", digits(value)]),
      ...Object.entries(record.sensitivity_error ?? {})
        .filter(([name]) => name === method)
        .map(([, value]) => ["sensitivity error", digits(value)]),
    ];
    large.querySelector(".facts").replaceChildren(...facts.flatMap(([term, value]) => {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      dt.textContent = term;
      dd.textContent = value ?? "–";
      return [dt, dd];
    }));
    for (const near of [shown[place + 1], shown[place - 1]]) {
      if (near) for (const url of [near.record.photograph, near.record.files[method]]) if (url) new Image().src = url;
    }
  }

  function step(by) {
    const card = shown[shown.indexOf(opened) + by];
    if (!card) return;
    opened = card;
    fillLarge();
    if (document.activeElement.disabled || !large.contains(document.activeElement)) find("large-title").focus();
  }

  // Keys

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

  function onGridKey(event) {
    const card = cardOf(event.target);
    if (!card) {
      if (current && event.target === document.body && /^Arrow(Left|Right)$/.test(event.key)) focusCard(current);
      return;
    }
    if (keyMovesDivider(event, card)) return;
    const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || event.shiftKey) return;
    const there = Number.isFinite(by) ? shown[shown.indexOf(card) + by] : shown.at(by < 0 ? 0 : -1);
    if (!there) return;
    event.preventDefault();
    focusCard(there);
  }

  function onLargeKey(event) {
    if (keyMovesDivider(event, opened) || event.target.matches("input")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by === undefined || event.shiftKey) return;
    event.preventDefault();
    step(by);
  }

  function onKey(event) {
    if (!plain(event) || event.target.matches("select, input:not([type=radio], [type=range])")) return;
    if (large.open) onLargeKey(event);
    else onGridKey(event);
    if (event.key === "m" && methods.length > 1) {
      choose(methods[(methods.indexOf(method) + 1) % methods.length]);
    } else if (event.key === "/" && !large.open && cards.length) {
      event.preventDefault();
      find("fold").open = true;
      filters.name.focus();
      filters.name.select();
    }
  }

  // Pointer: dragging moves the divider, a click on a card opens it, a click in the large view sets the divider

  let drag = null;
  let pressed = null; // where the last press began: dragging out of the large view does not close it

  function onPointerDown(event) {
    pressed = event.target;
    const compare = event.target.closest(".compare");
    if (!compare || event.button !== 0 || compare.classList.contains("lacks") && compare === largeCompare) return;
    const card = compare === largeCompare ? opened : cardOf(compare);
    drag = { compare, card, from: event.clientX, moves: compare === largeCompare || event.target.matches(".divider") };
    onPointerMove(event);
  }

  function onPointerMove(event) {
    if (!drag) return;
    drag.moves ||= Math.abs(event.clientX - drag.from) > SLIP;
    if (!drag.moves) return;
    const box = drag.compare.getBoundingClientRect();
    moveDivider(drag.card, 100 * (event.clientX - box.left) / box.width);
  }

  function onPointerUp() {
    if (drag && !drag.moves) open(drag.card);
    drag = null;
  }

  // Pictures tell their shape when they come

  function onLoad(event) {
    const compare = event.target.closest?.(".compare");
    if (!compare || !event.target.matches(".photo")) return;
    compare.style.setProperty("--ratio", event.target.naturalWidth / event.target.naturalHeight);
  }

  function onError(event) {
    const compare = event.target.closest?.(".compare");
    if (!compare) return;
    const lacking = compare.querySelector(".lacking");
    lacking.textContent = "a picture cannot be loaded: is it still beside this page?";
    lacking.hidden = false;
  }

  function summarise() {
    const distinct = (key) => [...new Set(records.map((record) => record[key]))];
    const one = (key, plural) => (distinct(key).length === 1 ? `${key} ${distinct(key)[0]}` : count(distinct(key).length, key, plural));
    find("summary").textContent = [
      count(distinct("image").length, "photograph"),
      count(new Set(records.map(classKey)).size, "class", "classes"),
      one("model"),
      one("layer"),
    ].join(" · ");
  }

  document.documentElement.style.setProperty("--at", common());
  const cards = records.map(newCard);
  const byNode = new Map(cards.map((card) => [card.node, card]));

  document.addEventListener("load", onLoad, true);
  document.addEventListener("error", onError, true);
  if (cards.length) {
    fillMethods();
    fillClasses();
    showRange();
    summarise();
    for (const id of ["fold", "bar", "help"]) find(id).hidden = false;
    const wide = matchMedia("(min-width: 48.01rem)"); // where the style sheet leaves the fold's heading out
    const unfold = () => { find("fold").open = wide.matches; };
    wide.addEventListener("change", unfold);
    unfold();
    filters.measure.addEventListener("input", () => {
      filters.low.value = filters.high.value = "";
      showRange();
    });
  }
  update();

  find("filters").addEventListener("input", update);
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("clear").addEventListener("click", clearFilters);
  all.addEventListener("input", moveAllDividers);
  grid.addEventListener("focusin", (event) => makeCurrent(cardOf(event.target)));
  grid.addEventListener("click", (event) => event.target.matches(".open") && open(cardOf(event.target)));
  large.addEventListener("click", (event) => event.target === large && pressed === large && large.close());
  large.addEventListener("close", () => {
    const card = opened;
    opened = null;
    if (shown.includes(card)) focusCard(card);
  });
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("close").addEventListener("click", () => large.close());
  document.addEventListener("keydown", onKey);
  document.addEventListener("pointerdown", onPointerDown);
  document.addEventListener("pointermove", onPointerMove);
  document.addEventListener("pointerup", onPointerUp);
  document.addEventListener("pointercancel", () => { drag = null; });
})();
