// One picture: the photograph, the map over it to the right of the divider, zoom and pan.

const all = find("all");
const MOST = 1024; // pixels of a map's longer side in the large view
const NEVER = "a picture cannot be loaded: is it still beside this page?";

function newPicture(stage, lazy) {
  const picture = find("picture").content.firstElementChild.cloneNode(true);
  if (lazy) for (const image of picture.querySelectorAll("img")) image.loading = "lazy";
  stage.append(picture);
  return picture;
}

const part = (picture, name) => picture.querySelector(`.${name}`);

/** Show a photograph, and a map of it by a method: coloured here, or as the run drew it.
 *
 * of: any record of the photograph. record: that of the map, undefined where the layer has none. */
function showPicture(picture, of, record, method, fine = false) {
  const photo = part(picture, "photo");
  const has = record !== undefined && methodsOf(record).includes(method);
  picture.classList.toggle("lacks", !has);
  lack(picture, has ? "" : record ? `no ${titleOf(method)} map here` : "no map of this layer here");
  if (photo.getAttribute("src") !== of.photograph) photo.src = of.photograph;
  photo.alt = `Photograph ${of.image}`;
  badge(picture, has && blankNote(record, method));
  if (!has) {
    picture.wanted = null;
    fillScale(picture, null);
    return;
  }
  const words = `${titleOf(method)} of ${wordsOf(record)} over the photograph`;
  picture.wanted = { record, method, fine, words };
  if (record.page_maps && canUnpack) drawLive(picture);
  else showDrawn(picture);
}

function lack(picture, words) {
  const lacking = part(picture, "lacking");
  lacking.hidden = !words;
  lacking.textContent = words;
}

function badge(picture, note) {
  const mark = part(picture, "badge");
  mark.hidden = !note;
  mark.textContent = note ? "blank" : "";
  mark.title = note || "";
}

/** The overlay that the run wrote; its colours are fixed. */
function showDrawn(picture) {
  const { record, method, words } = picture.wanted, url = record.files[method];
  const image = picture.querySelector("img.map") ?? pane(picture, make("img", "", "map"));
  image.decoding = "async";
  image.draggable = false;
  image.alt = words;
  picture.classList.remove("live", "signed");
  fillScale(picture, null);
  if (url === undefined) {
    picture.classList.add("lacks");
    lack(picture, `the colours of ${titleOf(method)} cannot be computed in this browser`);
  } else if (image.getAttribute("src") !== url) {
    image.src = url;
  }
}

/** Put a map's element in the place of the one that is there. */
function pane(picture, element) {
  part(picture, "pane").replaceChildren(element);
  return element;
}

async function drawLive(picture) {
  const { wanted } = picture;
  try {
    const maps = await mapsAt(wanted.record.page_maps);
    if (picture.wanted === wanted) paint(picture, maps);
  } catch {
    if (picture.wanted !== wanted) return;
    if (wanted.record.files[wanted.method] !== undefined) showDrawn(picture);
    else lack(picture, NEVER);
  }
}

function paint(picture, maps) {
  const { record, method, fine, words } = picture.wanted;
  const [rows, columns] = fine ? fineSize(picture, maps) : maps.size;
  const heat = heatOf(maps, record.place, method, rows, columns);
  const canvas = picture.querySelector("canvas.map") ?? pane(picture, make("canvas", "", "map"));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", words);
  Object.assign(canvas, { width: columns, height: rows });
  const [top, left, bottom, right] = maps.window;
  for (const [name, value] of Object.entries({ top, left, width: right - left, height: bottom - top })) {
    canvas.style[name] = `${100 * value}%`;
  }
  const drawing = canvas.getContext("2d");
  if (heat) drawing.putImageData(coloured(heat, rows, columns), 0, 0);
  outline(drawing, maps.outline, rows, columns);
  picture.classList.add("live");
  picture.classList.toggle("signed", look.signed);
  badge(picture, !heat && (blankNote(record, method) ?? `no contrast: the ${method} map is blank`));
  const map = signedMap(maps, record.place, method);
  fillScale(picture, legendOf(record, method, heat, map?.size));
}

/** Height and width of a map in the large view: as many pixels as are seen. */
function fineSize(picture, maps) {
  const box = picture.getBoundingClientRect();
  const [top, left, bottom, right] = maps.window;
  const height = (bottom - top) * box.height * devicePixelRatio, width = (right - left) * box.width * devicePixelRatio;
  const scale = Math.min(1, MOST / Math.max(height, width, 1));
  return height < 1 || width < 1 ? maps.size : [Math.max(1, Math.round(scale * height)), Math.max(1, Math.round(scale * width))];
}

/** Closed lines around what is explained: white between black. */
function outline(drawing, lines, rows, columns) {
  const thin = Math.max(1, Math.min(rows, columns) / 200);
  for (const [colour, width] of [["#000", thin + 2], ["#fff", thin]]) {
    for (const line of lines) {
      drawing.beginPath();
      for (let at = 0; at < line.length; at += 2) drawing.lineTo(line[at] * columns, line[at + 1] * rows);
      drawing.closePath();
      Object.assign(drawing, { strokeStyle: colour, lineWidth: width });
      drawing.stroke();
    }
  }
}

/** The legend under a picture: the colours, and the values at both ends. */
function fillScale(picture, legend) {
  const scale = picture.scale;
  if (!scale) return;
  scale.hidden = !legend;
  if (!legend) return;
  scale.classList.toggle("of-none", !legend.low);
  part(scale, "low").textContent = legend.low;
  part(scale, "high").textContent = legend.high;
  scale.title = [legend.title, legend.unit].filter(Boolean).join(", ");
  const told = scale.querySelector(".told");
  if (told) told.textContent = legend.title;
  const unit = scale.querySelector(".unit");
  if (unit) unit.textContent = legend.unit;
}

/** Free the memory of a picture that is far away. */
function release(picture) {
  const canvas = picture.querySelector("canvas.map");
  if (canvas) canvas.width = canvas.height = 0;
}

// The divider: photograph to its left, map to its right

const common = () => 100 - all.valueAsNumber; // the more map, the farther left the divider

function tellDivider(picture, position) {
  const divider = part(picture, "divider");
  if (!divider.hasAttribute("role")) return; // of a grid one tells for all
  const rounded = Math.round(position);
  divider.setAttribute("aria-valuenow", rounded);
  divider.setAttribute("aria-valuetext", `${rounded}% photograph, ${100 - rounded}% map`);
}

// Zoom and pan, in shares of the picture: its left upper corner lies at (x, y)

const FARTHEST = 16;

function zoomed(zoom, factor, x = 0.5, y = 0.5) {
  const scale = Math.min(FARTHEST, Math.max(1, zoom.scale * factor)), ratio = scale / zoom.scale;
  return bounded({ scale, x: x - ratio * (x - zoom.x), y: y - ratio * (y - zoom.y) });
}

const bounded = ({ scale, x, y }) => ({ scale, x: Math.min(0, Math.max(1 - scale, x)), y: Math.min(0, Math.max(1 - scale, y)) });
const UNZOOMED = { scale: 1, x: 0, y: 0 };

function applyZoom(element, zoom) {
  for (const [name, value] of Object.entries({ "--z": zoom.scale, "--x": 100 * zoom.x, "--y": 100 * zoom.y })) {
    if (zoom.scale === 1) element.style.removeProperty(name);
    else element.style.setProperty(name, value);
  }
  element.classList.toggle("zoomed", zoom.scale > 1);
}
