// Colours of a map over its photograph, as the reader sets them.

const TABLES = JSON.parse(find("colours").textContent); // name -> 256 colours, base64
const BEGIN = JSON.parse(find("look-at-first").textContent); // what the run was told
const DEFAULT_LOOK = { colours: BEGIN.colours, opacity: BEGIN.opacity, threshold: 0, signed: BEGIN.signed };
const look = { ...DEFAULT_LOOK };
const FOR = [202, 0, 32], AGAINST = [5, 97, 206]; // as in the package's signed pictures
const COVER = 1.5; // full colours of a signed map over its opacity: they fade towards 0 anyway

const tables = new Map();
function tableOf(name) {
  if (!tables.has(name)) tables.set(name, Uint8Array.from(atob(TABLES[name]), (letter) => letter.charCodeAt(0)));
  return tables.get(name);
}

/** What is drawn of a map: its heatmap, or its signed values; of several layers there is evidence for alone. */
const heatOf = (maps, place, ...of) =>
  (look.signed && !maps.views[place].fused ? signedHeatmap : heatmap)(maps, place, ...of);

/** The colour of a value from -1 to 1: red or blue, or of the colour map that the run was told. */
function signedColour(value) {
  if (!BEGIN.table) return value > 0 ? FOR : AGAINST;
  const level = 3 * Math.round(127.5 + 127.5 * value);
  return tableOf(BEGIN.table).subarray(level, level + 3);
}

/** The pixels of a heatmap, or of a signed one, in the colours that are set. */
function coloured(heat, rows, columns) {
  const image = new ImageData(columns, rows), pixels = image.data;
  const table = tableOf(look.colours), opacity = look.opacity / 100, least = look.threshold / 100;
  for (let place = 0; place < heat.values.length; place += 1) {
    const value = heat.values[place], strength = Math.abs(value);
    if (strength < least) continue;
    if (look.signed) {
      pixels.set(signedColour(value), 4 * place);
      pixels[4 * place + 3] = 255 * Math.min(1, COVER * opacity) * strength;
    } else {
      const level = 3 * Math.floor(255 * value);
      pixels[4 * place] = table[level];
      pixels[4 * place + 1] = table[level + 1];
      pixels[4 * place + 2] = table[level + 2];
      pixels[4 * place + 3] = 255 * opacity;
    }
  }
  return image;
}

const STOPS = 16;
/** The colours from the lowest to the highest value, as a gradient of the style sheet. */
function ramp() {
  const rgb = (colour) => `rgb(${colour.join(" ")})`;
  if (look.signed && !BEGIN.table) return `linear-gradient(90deg, ${rgb(AGAINST)}, #f2f2f2, ${rgb(FOR)})`;
  const table = tableOf(look.signed ? BEGIN.table : look.colours);
  const stops = Array.from({ length: STOPS + 1 }, (_, stop) => {
    const level = Math.round((255 * stop) / STOPS);
    return rgb([...table.subarray(3 * level, 3 * level + 3)]);
  });
  return `linear-gradient(90deg, ${stops.join(", ")})`;
}

/** Words for what a colour means: the values at both ends, and their unit. */
function legendOf(record, method, heat, cells) {
  if (!heat) return { low: "", high: "", title: "blank map", unit: "" };
  const both = BEGIN.table ? "evidence against and for" : "evidence against (blue) and for (red)";
  const title = `${look.signed ? both : "evidence for"} ${wordsOf(record)}`;
  if (heat.low === undefined && look.signed) return { low: "", high: "", title: `evidence for ${wordsOf(record)}`, unit: "of any layer" };
  if (heat.low === undefined) return { low: "least", high: "most", title, unit: "of any layer, each on a scale of its own" };
  const score = record.interest === undefined ? "logit" : "score";
  const unit = METHODS[method]?.logit ? `in units of the ${score}` : `on ${titleOf(method)}’s own scale`;
  const grid = cells ? `, each cell of ${cells[0]} × ${cells[1]}` : "";
  const low = Math.abs(heat.low) < 1e-3 * heat.high ? 0 : heat.low;
  return { low: brief(low), high: brief(heat.high), title, unit: `${unit}${grid}` };
}
