// The run: its records, put together by photograph and class, and words for what they hold.

const find = (id) => document.getElementById(id);
const make = (tag, text = "", classes = "") => {
  const element = document.createElement(tag);
  if (text !== "") element.textContent = text;
  if (classes) element.className = classes;
  return element;
};

const records = JSON.parse(find("records").textContent);
const METHODS = JSON.parse(find("methods").textContent); // name -> its title, and whether its maps are parts of the logit
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

const methodsOf = (record) => record.methods ?? Object.keys(record.files);
const methods = [...new Set(records.flatMap(methodsOf))];
const layers = [...new Set(records.map((record) => record.layer))];
const titleOf = (method) => METHODS[method]?.title ?? method;
const withoutId = (name) => name.replace(/(^|\s)n\d{8} /g, "$1");
const wordsOf = (record) => withoutId(record.interest ?? record.class_name);
const classKey = (record) => record.interest ?? `${record.class_index} ${record.class_name}`;
const fold = (text) => text.normalize().toLowerCase();
const isFused = (record) => record.layer.includes(" + ") && !record.conservation_error;

// Numbers

const isNumber = (value) => typeof value === "number";
const digits = (value) => (isNumber(value) ? String(Number(value.toPrecision(3))) : "–");
/** At most seven letters. */
function brief(value) {
  const size = Math.abs(value);
  return size && (size < 1e-3 || size >= 1e4) ? value.toExponential(1) : digits(value);
}
const decimals = (value) => (isNumber(value) ? value.toFixed(2) : "–");
const whole = (number) => number.toLocaleString("en");
const counted = (number, noun, plural = `${noun}s`) => `${whole(number)} ${number === 1 ? noun : plural}`;
function percent(value) {
  if (!isNumber(value)) return "–";
  if (value > 0 && value < 0.0001) return "< 0.01%";
  return `${(100 * value).toFixed(Math.abs(value) < 0.1 ? 2 : 1)}%`;
}

/** The share of the score that a part of it is; null where it is not known. */
function shareOf(record, part) {
  const value = record.budget?.[part];
  return isNumber(value) && record.score ? value / record.score : null;
}

// Notes

const BLANK = /^(no positive evidence|no contrast|not finite): the (\S+) map /;
const leadOf = (note) => note.split(": ")[0];

/** The method that a note is about; null for one on the whole record. */
function methodIn(note) {
  const method = BLANK.exec(note)?.[2];
  return methods.includes(method) ? method : null;
}

const notesOn = (record, method) => (record.notes ?? []).filter((note) => [null, method].includes(methodIn(note)));
const blankNote = (record, method) => (record.notes ?? []).find((note) => methodIn(note) === method && BLANK.test(note));

// Groups: the records of one photograph and class, one for each layer

function groupsOf() {
  const groups = new Map(), places = new Map();
  for (const record of records) {
    if (record.page_maps) {
      record.place = places.get(record.page_maps) ?? 0; // of its maps in the photograph's script
      places.set(record.page_maps, record.place + 1);
    }
    let key = JSON.stringify([record.image, classKey(record), record.role ?? ""]);
    while (groups.get(key)?.layers.has(record.layer)) key += "+"; // the same photograph under two names
    const group = groups.get(key) ?? { key, layers: new Map(), first: record, text: fold(record.image), class: classKey(record) };
    group.layers.set(record.layer, record);
    groups.set(key, group);
  }
  return [...groups.values()];
}

const groups = groupsOf();
