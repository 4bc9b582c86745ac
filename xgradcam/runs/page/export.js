// Export of the chosen cards, or of all that are shown: a table as CSV, a sheet as PNG.

const TILE = 320, TILE_TEXT = 58, TILE_GAP = 16; // pixels of a card on the sheet
const MOST_TILES = 100;
const chosen = new Set();

const exported = () => (chosen.size ? shown.filter((card) => chosen.has(card)) : shown);

function chooseCard(card, isChosen) {
  if (isChosen) chosen.add(card);
  else chosen.delete(card);
  tellChosen();
}

function tellChosen() {
  const count = exported().length;
  find("export-said").textContent = chosen.size ? `${whole(count)} chosen` : `all ${whole(count)} shown`;
  grid.classList.toggle("choosing", chosen.size > 0);
}

/** A cell of a CSV file. What a spreadsheet would take for a formula gets an apostrophe. */
function cell(value) {
  if (value === null || value === undefined) return "";
  if (isNumber(value)) return String(value);
  const text = /^[\s]*[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n;]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const COLUMNS = {
  image: (record) => record.image,
  class_index: (record) => record.class_index,
  class: (record) => record.interest ?? record.class_name,
  role: (record) => record.role,
  true_class: (record) => record.truth?.name,
  predicted_class: (record) => record.prediction?.name,
  prediction: verdictOf,
  score: (record) => record.score,
  probability: (record) => record.probability,
  rank: (record) => record.rank,
  model: (record) => record.model,
  layer: (record) => record.layer,
  method: (_, method) => method,
  conservation_error: (record, method) => record.conservation_error?.[method],
  sensitivity_error: (record, method) => record.sensitivity_error?.[method],
  disagreement: (record) => record.disagreement,
  in_features: (record) => shareOf(record, "feature"),
  nowhere: (record) => shareOf(record, "nowhere"),
  notes: (record, method) => notesOn(record, method).join(" | "),
};

/** A row for each chosen card, layer and method. */
function csv() {
  const rows = [Object.keys(COLUMNS)];
  for (const card of exported()) {
    for (const record of card.layers.values()) {
      for (const method of methodsOf(record)) rows.push(Object.values(COLUMNS).map((value) => value(record, method)));
    }
  }
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function save(blob, name) {
  const link = Object.assign(make("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const saveCsv = () => save(new Blob(["\ufeff", csv()], { type: "text/csv;charset=utf-8" }), "maps.csv");

function picture(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.addEventListener("load", () => resolve(image));
    image.addEventListener("error", reject);
    image.src = url;
  });
}

/** The photograph of a card with the map of the layer and method in the colours that are set, and its legend. */
async function tileOf(card, most) {
  const record = anyRecordOf(card), maps = await mapsAt(record.page_maps), photograph = await picture(maps.small);
  const scale = Math.min(most / photograph.width, most / photograph.height);
  const tile = Object.assign(make("canvas"), { width: Math.round(scale * photograph.width), height: Math.round(scale * photograph.height) });
  const drawing = tile.getContext("2d");
  drawing.filter = look.signed ? "grayscale(1)" : "none";
  drawing.drawImage(photograph, 0, 0, tile.width, tile.height);
  drawing.filter = "none";
  if (look.signed) {
    drawing.fillStyle = "rgb(255 255 255 / 45%)";
    drawing.fillRect(0, 0, tile.width, tile.height);
  }
  if (!methodsOf(record).includes(state.method)) return { tile, range: "" };
  const [top, left, bottom, right] = maps.window, [rows, columns] = maps.size;
  const heat = heatOf(maps, record.place, state.method, rows, columns);
  const map = Object.assign(make("canvas"), { width: columns, height: rows });
  if (heat) map.getContext("2d").putImageData(coloured(heat, rows, columns), 0, 0);
  outline(map.getContext("2d"), maps.outline, rows, columns);
  const window = [left * tile.width, top * tile.height, (right - left) * tile.width, (bottom - top) * tile.height];
  drawing.drawImage(map, ...window);
  drawing.fillStyle = "rgb(0 0 0 / 65%)"; // dims what the network did not see
  drawing.beginPath();
  drawing.rect(0, 0, tile.width, tile.height);
  drawing.rect(...window);
  drawing.fill("evenodd");
  const { low, high } = legendOf(record, state.method, heat);
  return { tile, range: low ? `: ${low} to ${high}` : "" };
}

function fitted(drawing, text, width) {
  if (drawing.measureText(text).width <= width) return text;
  let kept = text;
  while (kept && drawing.measureText(`${kept}…`).width > width) kept = kept.slice(0, -1);
  return `${kept}…`;
}

/** One picture of the chosen cards, each with its class, probability, photograph, method and layer. */
async function sheet() {
  const every = exported().filter((card) => anyRecordOf(card).page_maps && canUnpack), some = every.slice(0, MOST_TILES);
  const columns = Math.max(1, Math.ceil(Math.sqrt(some.length))), rows = Math.max(1, Math.ceil(some.length / columns));
  const size = (count, side) => TILE_GAP + count * (side + TILE_GAP);
  const canvas = Object.assign(make("canvas"), { width: size(columns, TILE), height: size(rows, TILE + TILE_TEXT) });
  const drawing = canvas.getContext("2d");
  drawing.fillStyle = "#fff";
  drawing.fillRect(0, 0, canvas.width, canvas.height);
  for (const [index, card] of some.entries()) {
    const x = TILE_GAP + (index % columns) * (TILE + TILE_GAP), y = TILE_GAP + Math.floor(index / columns) * (TILE + TILE_TEXT + TILE_GAP);
    const { tile, range } = await tileOf(card, TILE), record = anyRecordOf(card);
    const probability = isNumber(record.probability) ? `  ${percent(record.probability)}` : "";
    drawing.drawImage(tile, x + (TILE - tile.width) / 2, y + TILE - tile.height);
    drawing.fillStyle = "#1c2024";
    drawing.font = "600 15px system-ui, sans-serif";
    drawing.fillText(fitted(drawing, `${wordsOf(record)}${probability}`, TILE), x, y + TILE + 20);
    drawing.fillStyle = "#596069";
    drawing.font = "13px system-ui, sans-serif";
    drawing.fillText(fitted(drawing, record.image, TILE), x, y + TILE + 38);
    drawing.fillText(fitted(drawing, `${titleOf(state.method)}, ${record.layer}${range}`, TILE), x, y + TILE + 54);
  }
  return { canvas, left: every.length - some.length, without: exported().length - every.length };
}

async function savePng() {
  const said = find("export-said");
  try {
    const { canvas, left, without } = await sheet();
    const blob = await new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
    save(blob, "maps.png");
    said.textContent = [
      "saved maps.png",
      left ? `the first ${MOST_TILES}: choose others to have them` : "",
      without ? `${counted(without, "card")} without stored maps left out` : "",
    ].filter(Boolean).join("; ");
  } catch {
    said.textContent = "the maps' files cannot be loaded: are they still beside this page?";
  }
}
