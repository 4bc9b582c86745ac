// What happens when, and the beginning.

/** Pictures tell their shape when they come. */
function onLoad(event) {
  const picture = event.target.closest?.(".compare");
  if (!picture || !event.target.matches(".photo")) return;
  const ratio = event.target.naturalWidth / event.target.naturalHeight, card = cardOf(picture);
  (card ? card.node : large).style.setProperty("--ratio", ratio);
  if (!card && picture.wanted?.record.page_maps && canUnpack) drawLive(picture);
}

function onError(event) {
  const picture = event.target.closest?.(".compare");
  if (picture) lack(picture, NEVER);
}

function summarise() {
  const distinct = (key) => [...new Set(records.map((record) => record[key]))];
  const one = (key, plural) => (distinct(key).length === 1 ? `${key} ${distinct(key)[0]}` : counted(distinct(key).length, key, plural));
  const known = layers.filter((layer) => !records.some((record) => record.layer === layer && isFused(record)));
  find("summary").textContent = [
    counted(distinct("image").length, "photograph"),
    counted(new Set(records.map(classKey)).size, "class", "classes"),
    one("model"),
    known.length === 1 ? `layer ${known[0]}` : counted(known.length || layers.length, "layer"),
    accuracy(),
  ].filter(Boolean).join(" · ");
}

/** The fold of the filters is open where the style sheet leaves its heading out. */
function followWidth() {
  const wide = matchMedia("(min-width: 48.01rem)");
  const unfold = () => { find("fold").open = wide.matches; };
  wide.addEventListener("change", unfold);
  unfold();
}

function begin() {
  document.documentElement.style.setProperty("--at", common());
  document.addEventListener("load", onLoad, true);
  document.addEventListener("error", onError, true);
  const watcher = new IntersectionObserver(watch, { rootMargin: "400px 0px" });
  for (const card of cards) watcher.observe(card.node);
  if (cards.length) {
    fillChoices();
    fillClasses();
    fillNoteFilter();
    leaveOut();
    fillConfusion();
    summarise();
    followWidth();
    for (const id of ["fold", "bar", "help"]) find(id).hidden = false;
  }
  listen();
  if (cards.length) readState();
  else update();
}

function listen() {
  filters.measure.addEventListener("input", () => {
    filters.low.value = filters.high.value = "";
    showRange();
  });
  find("filters").addEventListener("input", update);
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("clear").addEventListener("click", clearFilters);
  find("matrix").addEventListener("click", (event) => event.target.dataset.pair && choosePair(event.target.dataset.pair));
  find("csv").addEventListener("click", saveCsv);
  find("png").addEventListener("click", savePng);
  all.addEventListener("input", moveAllDividers);
  grid.addEventListener("focusin", (event) => makeCurrent(cardOf(event.target)));
  grid.addEventListener("click", (event) => event.target.matches(".open") && open(cardOf(event.target)));
  grid.addEventListener("change", (event) => event.target.matches(".choose") && chooseCard(cardOf(event.target), event.target.checked));
  large.addEventListener("click", (event) => event.target === large && pressed === large && close());
  document.addEventListener("click", (event) => event.target.matches(".matrix th button") && chooseHeading(event.target.dataset));
  large.addEventListener("close", onClose);
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("close").addEventListener("click", close);
  find("nearer").addEventListener("click", () => zoomCard(opened, zoomed(opened.zoom, ZOOM_STEP)));
  find("farther").addEventListener("click", () => zoomCard(opened, zoomed(opened.zoom, 1 / ZOOM_STEP)));
  addEventListener("popstate", onTravel);
  addEventListener("resize", recolour);
  document.addEventListener("keydown", onKey);
  document.addEventListener("wheel", onWheel, { passive: false });
  document.addEventListener("pointerdown", onPointerDown);
  document.addEventListener("pointermove", onPointerMove);
  document.addEventListener("pointerup", onPointerUp);
  document.addEventListener("pointercancel", onPointerCancel);
}

begin();
