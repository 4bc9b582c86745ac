// Filters and order.

const FIELDS = ["name", "class", "notes", "verdict", "measure", "low", "high", "order"];
const filters = Object.fromEntries(FIELDS.map((id) => [id, find(id)]));
const CLEARED = ["name", "class", "notes", "verdict", "low", "high"];
let shown = []; // the cards that pass the filters, in their order

const MEASURES = {
  probability: (record) => (isNumber(record.probability) ? 100 * record.probability : null),
  score: (record) => (isNumber(record.score) ? record.score : null),
};
const numberOr = (value) => (isNumber(value) ? value : null);
// What cards are put in order by: of the class, or of the map that is shown.
const ORDERS = {
  ...Object.fromEntries(Object.entries(MEASURES).map(([name, measure]) => [name, (card) => measure(card.first)])),
  conservation: (card) => numberOr(anyRecordOf(card).conservation_error?.[state.method]),
  disagreement: (card) => numberOr(anyRecordOf(card).disagreement),
  feature: (card) => shareOf(anyRecordOf(card), "feature"),
  nowhere: (card) => shareOf(anyRecordOf(card), "nowhere"),
  mistake,
};

/** Whether a card has a note of a kind, on what is seen of it. */
function hasNote(card, kind) {
  const notes = seenRecords(card).flatMap((record) => (state.view === "grid" ? record.notes ?? [] : notesOn(record, state.method)));
  if (kind === "none") return !notes.length;
  return kind === "any" ? notes.length > 0 : notes.some((note) => leadOf(note) === kind.slice(1));
}

function passes() {
  const name = fold(filters.name.value.trim());
  const measure = MEASURES[filters.measure.value];
  const [low, high] = [filters.low.valueAsNumber, filters.high.valueAsNumber];
  const ranged = !(Number.isNaN(low) && Number.isNaN(high));
  return (card) => {
    const value = measure(card.first);
    return card.text.includes(name)
      && (!filters.class.value || card.class === filters.class.value)
      && (!ranged || (value !== null && !(value < low) && !(value > high)))
      && (!filters.notes.value || hasNote(card, filters.notes.value))
      && (!filters.verdict.value || verdictOf(card.first) === filters.verdict.value)
      && (pair === null || (verdictOf(card.first) && pairOf(card.first) === pair))
      && (state.view === "single" || !state.rows || card.layers.has(state.rows));
  };
}

function inOrder(some) {
  const [key, direction] = filters.order.value.split("-");
  if (key === "run") return some;
  if (key === "name") return some.sort((a, b) => collator.compare(a.first.image, b.first.image));
  const measure = ORDERS[key], sign = direction === "down" ? -1 : 1;
  const places = new Map(some.map((card) => [card, measure(card) ?? sign * Infinity])); // what has no number comes last
  return some.sort((a, b) => (places.get(a) === places.get(b) ? 0 : sign * (places.get(a) - places.get(b))));
}

function update() {
  shown = inOrder(cards.filter(passes()));
  grid.replaceChildren(...shown.map((card) => card.node));
  find("count").textContent = `${whole(shown.length)} of ${whole(cards.length)} shown`;
  find("clear").hidden = pair === null && !CLEARED.some((id) => filters[id].value);
  const empty = find("empty");
  empty.hidden = shown.length > 0;
  empty.textContent = cards.length ? "Nothing passes these filters." : "This run has no maps: no photograph was explained.";
  if (!shown.includes(current)) makeCurrent(shown[0] ?? null);
  tellChosen();
  noteState();
}

function clearFilters() {
  for (const id of CLEARED) filters[id].value = "";
  pair = null;
  markPair();
  update();
  if (shown.length) focusCard(shown[0]);
}

function fillClasses() {
  const counts = new Map();
  for (const group of groups) {
    const entry = counts.get(group.class) ?? { words: wordsOf(group.first), count: 0 };
    entry.count += 1;
    counts.set(group.class, entry);
  }
  const entries = [...counts].sort((a, b) => collator.compare(a[1].words, b[1].words));
  filters.class.options[0].textContent = `all classes (${whole(counts.size)})`;
  filters.class.append(...entries.map(([key, { words, count }]) => new Option(`${words} (${count})`, key)));
}

function fillNoteFilter() {
  const kinds = [...new Set(records.flatMap((record) => record.notes ?? []).map(leadOf))].sort(collator.compare);
  find("notes-field").hidden = !kinds.length;
  filters.notes.append(...kinds.map((kind) => new Option(kind, `=${kind}`)));
}

/** Leave out the orders and filters of what this run does not know. */
function leaveOut() {
  const known = {
    conservation: records.some((record) => record.conservation_error),
    disagreement: records.some((record) => isNumber(record.disagreement)),
    feature: records.some((record) => isNumber(record.budget?.feature)),
    nowhere: records.some((record) => isNumber(record.budget?.nowhere)),
    mistake: judged,
  };
  for (const option of [...filters.order.options]) {
    if (known[option.value.split("-")[0]] === false) option.remove();
  }
  find("verdict-field").hidden = !judged;
}

function showRange() {
  const values = groups.map(({ first }) => MEASURES[filters.measure.value](first)).filter((value) => value !== null);
  const show = (value) => (values.length ? String(Number(value.toFixed(2))) : "");
  filters.low.placeholder = show(values.reduce((a, b) => Math.min(a, b), Infinity));
  filters.high.placeholder = show(values.reduce((a, b) => Math.max(a, b), -Infinity));
}
