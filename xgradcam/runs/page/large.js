// The large view of one card.

const large = find("large"), largeStage = part(large, "stage");
let opened = null; // the card in the large view
let largePictures = [];

function open(card, isNew = true) {
  opened = card;
  if (!large.open) large.showModal();
  fillLarge();
  find("large-title").focus();
  noteState(isNew);
}

function close() {
  large.close();
}

function fillLarge() {
  const record = anyRecordOf(opened), place = shown.indexOf(opened);
  find("large-title").textContent = wordsOf(record);
  part(large, "file").textContent = several && state.view === "single" ? `${record.layer} · ${record.image}` : record.image;
  part(large, "place").textContent = `${whole(place + 1)} of ${whole(shown.length)}`;
  find("previous").disabled = place <= 0;
  find("next").disabled = place >= shown.length - 1;
  fillVerdict(part(large, "verdict"), opened);
  large.classList.toggle("of-grid", state.view === "grid");
  large.style.setProperty("--at", positionOf(opened));
  large.style.setProperty("--ratio", opened.node.style.getPropertyValue("--ratio") || "1.3333");
  largePictures = fillStage(largeStage, opened, largePictures, find("large-scale"), false);
  for (const picture of largePictures) {
    picture.style.removeProperty("--ratio");
    tellDivider(picture, positionOf(opened));
  }
  applyZoom(largeStage, opened.zoom);
  fillNotes(part(large, "notes"), opened);
  part(large, "facts").replaceChildren(...factsOf(record).flatMap(([term, value]) => [make("dt", term), make("dd", String(value ?? "–"))]));
  preload(place);
}

function factsOf(record) {
  const of = (errors) => Object.entries(errors ?? {}).filter(([name]) => name === state.method).map(([, value]) => digits(value));
  const share = (part) => shareOf(record, part);
  return [
    ...(record.interest === undefined
      ? [["class", record.class_name], ["class index", record.class_index], ["probability", percent(record.probability)]]
      : [[record.what, record.interest]]),
    ["score", decimals(record.score)],
    ...(record.interest === undefined ? [["rank", record.rank]] : []),
    ...(record.truth ? [["true class", record.truth.name]] : []),
    ...(record.prediction ? [["predicted", `${record.prediction.name}, ${percent(record.prediction.probability)}`]] : []),
    ["model", record.model],
    ["layer", record.layer],
    ...of(record.conservation_error).map((value) => ["conservation error", value]),
    ...of(record.sensitivity_error).map((value) => ["sensitivity error", value]),
    ...(isNumber(record.disagreement) ? [["methods disagree", digits(record.disagreement)]] : []),
    ...(share("feature") === null ? [] : [["in the features", percent(share("feature"))]]),
    ...(share("nowhere") === null ? [] : [["nowhere", percent(share("nowhere"))]]),
  ];
}

/** Load what the next and the previous card show. */
function preload(place) {
  for (const near of [shown[place + 1], shown[place - 1]]) {
    if (!near) continue;
    const record = anyRecordOf(near);
    const drawn = record.page_maps && canUnpack ? undefined : record.files[state.method];
    for (const url of [record.photograph, drawn]) if (url) new Image().src = url;
    if (record.page_maps && canUnpack) mapsAt(record.page_maps).catch(() => {});
  }
}

function step(by) {
  const card = shown[shown.indexOf(opened) + by];
  if (!card) return;
  opened = card;
  fillLarge();
  noteState();
  if (document.activeElement.disabled || !large.contains(document.activeElement)) find("large-title").focus();
}
