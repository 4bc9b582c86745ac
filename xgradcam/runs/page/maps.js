// Signed maps: loaded from the scripts beside the page, unpacked, and made into heatmaps.

const FLAT = 1e-5; // heatmaps with less contrast are blank, as in the package
const KEPT = 200; // photographs whose maps stay in memory
const loaded = new Map(); // address of a script -> promise of its maps
const waiting = new Map(); // script element -> what is told of its content

window.xgradcamMaps = (header, data, small) => waiting.get(document.currentScript)?.({ header, data, small });
const canUnpack = typeof DecompressionStream === "function";

/** The maps of a photograph, a promise; a script works from disk, where a page may not read files. */
function mapsAt(url) {
  const known = loaded.get(url);
  const promise = known ?? run(url).then(unpacked);
  loaded.delete(url);
  loaded.set(url, promise); // the last used come last
  if (loaded.size > KEPT) loaded.delete(loaded.keys().next().value);
  return promise;
}

function run(url) {
  return new Promise((resolve, reject) => {
    const script = make("script");
    const end = () => { waiting.delete(script); script.remove(); };
    waiting.set(script, resolve);
    script.addEventListener("load", () => { reject(new Error("no maps")); end(); }); // unless they have come
    script.addEventListener("error", () => { reject(new Error("no script")); end(); });
    script.src = url;
    document.head.append(script);
  });
}

async function unpacked({ header, data, small }) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const planes = new Int8Array(await new Response(stream).arrayBuffer());
  return { ...header, planes, small: `data:image/jpeg;base64,${small}`, values: new Map() };
}

/** A map at its own size: height, width, values; null for one that is not finite, or of several layers. */
function signedMap(maps, place, method) {
  const entry = maps.views[place].maps?.[method];
  if (!entry) return null;
  const key = `${place} ${method}`;
  if (!maps.values.has(key)) maps.values.set(key, restored(entry, maps.planes));
  return maps.values.get(key);
}

function restored([height, width, bits, low, high, start, size], planes) {
  const cells = height * width, steps = 2 ** (bits - 1) - 1;
  const base = Math.max(low, 0), top = Math.min(high, 0);
  const values = new Float64Array(cells);
  for (let cell = 0; cell < cells; cell += 1) {
    let step = planes[start + cell];
    if (bits === 16) step = 256 * step + (planes[start + cells + cell] & 255);
    values[cell] = step > 0 ? base + (step / steps) * (high - base) : base + top + (step / steps) * (top - low);
  }
  return { height, width, values, size: size ?? [height, width] };
}

/** The two cells that each place of a longer or shorter side lies between, and the share of the second. */
function between(cells, places) {
  const first = new Int32Array(places), second = new Int32Array(places), share = new Float64Array(places);
  for (let place = 0; place < places; place += 1) {
    const at = Math.max(0, ((place + 0.5) * cells) / places - 0.5);
    first[place] = Math.min(cells - 1, Math.floor(at));
    second[place] = Math.min(cells - 1, first[place] + 1);
    share[place] = at - first[place];
  }
  return { first, second, share };
}

/** A map at another size by bilinear interpolation, half pixels apart from the edges; `change` first. */
function resized({ height, width, values }, rows, columns, change = (value) => value) {
  const down = between(height, rows), along = between(width, columns);
  const changed = values.map(change), line = new Float64Array(width), large = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row += 1) {
    const above = down.first[row] * width, below = down.second[row] * width, share = down.share[row];
    for (let cell = 0; cell < width; cell += 1) line[cell] = (1 - share) * changed[above + cell] + share * changed[below + cell];
    for (let column = 0; column < columns; column += 1) {
      const part = along.share[column];
      large[row * columns + column] = (1 - part) * line[along.first[column]] + part * line[along.second[column]];
    }
  }
  return { height: rows, width: columns, values: large };
}

function rangeOf(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

/** A map at the size of the input, less what lies over a detector's padding. */
function overInput(maps, place, map, rows, columns, change) {
  const share = maps.views[place].share;
  if (!share) return resized(map, rows, columns, change);
  const [tall, wide] = [Math.round(rows / share[0]), Math.round(columns / share[1])];
  const padded = resized(map, tall, wide, change);
  const values = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row += 1) values.set(padded.values.subarray(row * wide, row * wide + columns), row * columns);
  return { height: rows, width: columns, values };
}

/** ReLU, bilinear, minus minimum, over maximum: values in [0, 1], and the map's values at 0 and at 1.
 *
 * null for a blank map. Of several layers it is the maximum at each place, without such values. */
function heatmap(maps, place, method, rows, columns) {
  const { fused } = maps.views[place];
  if (fused) {
    const parts = fused.map((part) => heatmap(maps, part, method, rows, columns)).filter(Boolean);
    if (!parts.length) return null;
    return { values: parts[0].values.map((_, index) => Math.max(...parts.map((part) => part.values[index]))) };
  }
  const map = signedMap(maps, place, method);
  if (!map) return null;
  const { values } = overInput(maps, place, map, rows, columns, (value) => Math.max(value, 0));
  const [low, high] = rangeOf(values);
  if (!(high - low > FLAT * high)) return null;
  return { values: values.map((value) => (value - low) / (high - low)), low, high };
}

/** A signed map at the input's size, and the value at full colour: all but a few outliers are below it. */
function signedHeatmap(maps, place, method, rows, columns) {
  const map = signedMap(maps, place, method);
  if (!map) return null;
  const { values } = overInput(maps, place, map, rows, columns);
  const sizes = Float64Array.from(values, Math.abs).sort();
  const full = quantile(sizes, 0.995) || sizes.at(-1);
  return full ? { values: values.map((value) => Math.max(-1, Math.min(1, value / full))), low: -full, high: full } : null;
}

function quantile(sorted, share) {
  const at = share * (sorted.length - 1), first = Math.floor(at);
  return sorted[first] + (at - first) * (sorted[Math.min(first + 1, sorted.length - 1)] - sorted[first]);
}
