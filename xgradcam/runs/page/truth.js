// Right and wrong, where the run knows the true classes: marks, accuracy, a confusion matrix that filters.

const MOST_CLASSES = 24; // of the confusion matrix
const judged = records.some((record) => record.truth && record.prediction);
const isRight = (record) => record.truth.index === record.prediction.index;
const verdictOf = (record) => (record.truth && record.prediction ? (isRight(record) ? "right" : "wrong") : "");
const ROLES = { predicted: "predicted class", true: "true class", contrast: "contrast" };

/** Sort key: the most confident mistakes first, then what is right by how little sure the model was. */
function mistake({ first }) {
  const verdict = verdictOf(first);
  if (!verdict) return null;
  return verdict === "wrong" ? 1 + (first.prediction.probability ?? 0) : -(first.prediction.probability ?? 0);
}

function fillVerdict(line, { group }) {
  const record = group.first, verdict = verdictOf(record);
  line.hidden = !verdict && !record.role;
  if (line.hidden) return;
  line.classList.add(verdict || "unknown");
  const words = verdict === "wrong"
    ? `wrong: ${withoutId(record.prediction.name)}, ${percent(record.prediction.probability)}, not ${withoutId(record.truth.name)}`
    : verdict;
  const role = verdict === "right" ? "" : ROLES[record.role] ?? record.role ?? ""; // what is right has one only
  line.replaceChildren(make("span", role, "role"), make("span", words, "said"));
}

/** One record for each photograph whose true class is known. */
function verdicts() {
  const photographs = new Map();
  for (const record of records) {
    if (verdictOf(record) && !photographs.has(record.image)) photographs.set(record.image, record);
  }
  return [...photographs.values()];
}

function accuracy() {
  const all = verdicts(), right = all.filter(isRight).length;
  return all.length ? `accuracy ${percent(right / all.length)} (${whole(right)} of ${whole(all.length)} right)` : "";
}

let pair = null; // the cell of the confusion matrix that filters: indices of truth and prediction
const pairOf = (record) => `${record.truth.index}:${record.prediction.index}`;

/** Classes of the matrix, bounded: those in mistakes, the most first, before those that occur most; by name. */
function classesOf(photographs) {
  const classes = new Map();
  for (const record of photographs) {
    for (const one of [record.truth, record.prediction]) {
      const entry = classes.get(one.index) ?? { index: one.index, name: withoutId(one.name), mistakes: 0, count: 0 };
      entry.count += 1;
      entry.mistakes += isRight(record) ? 0 : 1;
      classes.set(one.index, entry);
    }
  }
  const most = [...classes.values()].sort((a, b) => b.mistakes - a.mistakes || b.count - a.count || a.index - b.index);
  const byName = (a, b) => (b.mistakes > 0) - (a.mistakes > 0) || collator.compare(a.name, b.name) || a.index - b.index;
  return [most.slice(0, MOST_CLASSES).sort(byName), most.length];
}

function fillConfusion() {
  if (!judged) return;
  const photographs = verdicts(), [classes, total] = classesOf(photographs), counts = new Map();
  for (const record of photographs) counts.set(pairOf(record), (counts.get(pairOf(record)) ?? 0) + 1);
  const most = Math.max(...counts.values()), table = make("table", "", "confusion");
  const head = make("tr");
  head.append(make("td", "true ↓ predicted →", "quiet"), ...classes.map(({ name }) => {
    const cell = Object.assign(make("th"), { scope: "col" });
    cell.append(make("span", name));
    return cell;
  }));
  table.append(make("thead"), make("tbody"));
  table.tHead.append(head);
  for (const truth of classes) {
    const row = make("tr");
    row.append(Object.assign(make("th", truth.name), { scope: "row" }));
    for (const predicted of classes) {
      const cell = make("td"), key = `${truth.index}:${predicted.index}`, number = counts.get(key) ?? 0;
      if (number) {
        const button = Object.assign(make("button", whole(number), truth.index === predicted.index ? "right" : "wrong"), { type: "button" });
        button.dataset.pair = key;
        button.style.setProperty("--share", (0.15 + 0.85 * (number / most)).toFixed(3));
        button.setAttribute("aria-pressed", "false");
        button.setAttribute("aria-label", `true ${truth.name}, predicted ${predicted.name}: ${counted(number, "photograph")}`);
        cell.append(button);
      }
      row.append(cell);
    }
    table.tBodies[0].append(row);
  }
  find("matrix").replaceChildren(table);
  find("matrix-said").textContent = total > classes.length
    ? `The ${classes.length} classes in the most mistakes, of ${whole(total)} that occur. A number shows its photographs.`
    : "A number shows its photographs.";
  find("confusion").hidden = false;
}

function choosePair(key) {
  pair = pair === key ? null : key;
  markPair();
  update();
}

function markPair() {
  for (const button of find("matrix").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.pair === pair));
}
