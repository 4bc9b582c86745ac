// The state of the page in its address, so that a view can be sent, and the back button closes the large view.

const PAUSE = 200; // milliseconds before a change is in the address: browsers limit how often
const COMMON_DIVIDER = all.value;
let ready = false; // after the first state is read
let leaving = false; // the large view was closed, and its entry in the history is left
let pending = 0;

function stateWords() {
  const words = new URLSearchParams();
  const put = (name, value, usual) => { if (String(value) !== String(usual)) words.set(name, value); };
  for (const id of FIELDS) put(id, filters[id].value, { measure: "probability", order: "run" }[id] ?? "");
  put("pair", pair ?? "", "");
  put("method", state.method, methods[0]);
  put("layer", state.layer, layers[0]);
  put("rows", state.rows, "");
  put("view", state.view, "single");
  put("colours", look.colours, DEFAULT_LOOK.colours);
  put("opacity", look.opacity, DEFAULT_LOOK.opacity);
  put("threshold", look.threshold, DEFAULT_LOOK.threshold);
  put("signed", look.signed ? 1 : 0, DEFAULT_LOOK.signed ? 1 : 0);
  put("map", all.value, COMMON_DIVIDER);
  if (opened) {
    words.set("photograph", opened.first.image);
    words.set("of", opened.class);
    if (opened.first.role) words.set("role", opened.first.role);
    if (opened.at !== null) put("at", Math.round(opened.at), "");
  }
  return words.toString();
}

/** Put the state into the address; isNew: as a new entry of the history. */
function noteState(isNew = false) {
  if (!ready || leaving) return;
  clearTimeout(pending);
  const note = (how) => history[how](opened ? { opened: true } : null, "", `#${stateWords()}`);
  if (isNew) {
    const card = opened;
    opened = null; // the entry before is that of the page without it
    note("replaceState");
    opened = card;
    note("pushState");
  } else {
    pending = setTimeout(() => note("replaceState"), PAUSE);
  }
}

const choice = (list, value, usual) => (list.includes(value) ? value : usual);
const within = (value, low, high, usual) => {
  const number = value === null || value === "" ? NaN : Number(value);
  return number >= low && number <= high ? number : usual;
};

/** Take the state from the address; what it does not say is as at the beginning, and what is unknown is left out. */
function readState() {
  const words = new URLSearchParams(location.hash.slice(1)), said = (name) => words.get(name) ?? "";
  ready = false;
  for (const id of FIELDS) {
    const field = filters[id], value = said(id);
    if (!field.options) field.value = value;
    else field.value = choice([...field.options].map((option) => option.value), value, field.options[0].value);
  }
  showRange();
  pair = /^\d+:\d+$/.test(said("pair")) && judged ? said("pair") : null;
  markPair();
  state.method = choice(methods, said("method"), methods[0]);
  state.layer = choice(layers, said("layer"), layers[0] ?? "");
  state.rows = choice(layers, said("rows"), "");
  state.view = choice(["single", "grid"], said("view"), "single");
  look.colours = choice(Object.keys(TABLES), said("colours"), DEFAULT_LOOK.colours);
  look.opacity = within(said("opacity"), 0, 100, DEFAULT_LOOK.opacity);
  look.threshold = within(said("threshold"), 0, 99, DEFAULT_LOOK.threshold);
  look.signed = words.has("signed") ? said("signed") === "1" : DEFAULT_LOOK.signed;
  all.value = within(said("map"), 0, 100, COMMON_DIVIDER);
  moveAllDividers();
  refresh();
  const card = cards.find((one) => one.first.image === said("photograph") && one.class === said("of") && (one.first.role ?? "") === said("role"));
  if (words.has("photograph") && card) {
    const at = within(said("at"), 0, 100, null);
    if (at !== null) moveDivider(card, at);
    open(card, false);
  } else if (large.open) {
    opened = null;
    large.close();
  }
  ready = true;
}

function onClose() {
  const card = opened;
  opened = null;
  if (card && shown.includes(card)) focusCard(card);
  if (card && history.state?.opened) {
    leaving = true;
    history.back();
  } else {
    noteState();
  }
}

function onTravel() {
  if (leaving) {
    leaving = false;
    noteState();
  } else {
    readState();
  }
}
