// What is seen of each card: method, layer, one map or all, and the colours.

/** A row of buttons of which one is pressed, in every place that has this name. */
function fillSwitch(name, label, options, chosen, choose) {
  for (const group of document.querySelectorAll(`[data-switch=${name}]`)) {
    group.setAttribute("role", "radiogroup");
    group.setAttribute("aria-label", label);
    for (const [value, words] of options) {
      const choice = make("label"), radio = make("input");
      Object.assign(radio, { type: "radio", name: `${name}-${group.dataset.group}`, value, checked: value === chosen });
      radio.addEventListener("change", () => choose(value));
      choice.append(radio, make("span", words));
      group.append(choice);
    }
  }
}

function markSwitch(name, value) {
  for (const radio of document.querySelectorAll(`[data-switch=${name}] input`)) {
    radio.checked = radio.value === value;
    if (radio.checked && name === "method") radio.parentElement.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

function fillChoices() {
  fillSwitch("method", "Method", methods.map((name) => [name, titleOf(name)]), state.method, chooseMethod);
  fillSwitch("view", "View", [["single", "single"], ["grid", "grid"]], state.view, chooseView);
  fillSwitch("sign", "Evidence", [["positive", "for"], ["signed", "for and against"]], "positive", (value) => {
    look.signed = value === "signed";
    recolour();
  });
  for (const select of document.querySelectorAll(".layer")) {
    select.append(...layers.map((layer) => new Option(layer)));
    select.parentElement.hidden = !several;
    select.addEventListener("change", () => chooseLayer(select.value));
  }
  find("colormap").append(...Object.keys(TABLES).map((name) => new Option(name)));
  find("look").hidden = !(canUnpack && records.some((record) => record.page_maps));
  for (const id of ["colormap", "opacity", "threshold"]) {
    find(id).addEventListener("input", () => {
      look.colours = find("colormap").value;
      look.opacity = find("opacity").valueAsNumber;
      look.threshold = find("threshold").valueAsNumber;
      recolour();
    });
  }
  if (methods.length < 2 && !several) for (const group of document.querySelectorAll("[data-switch=view]")) group.hidden = true;
}

/** Bring the controls to what is set. */
function showChoices() {
  markSwitch("method", state.method);
  markSwitch("view", state.view);
  markSwitch("sign", look.signed ? "signed" : "positive");
  for (const select of document.querySelectorAll(".layer")) {
    select.options[0].hidden = select.options[0].disabled = state.view === "single";
    select.value = state.view === "single" ? state.layer : state.rows;
  }
  for (const group of document.querySelectorAll("[data-switch=method]")) group.classList.toggle("idle", state.view === "grid");
  find("colormap").value = look.colours;
  find("opacity").value = look.opacity;
  find("threshold").value = look.threshold;
  find("colormap").disabled = look.signed;
  document.documentElement.style.setProperty("--ramp", ramp());
  grid.classList.toggle("of-grids", state.view === "grid");
}

/** Show the cards anew after a choice; order and notes may depend on it. */
function refresh() {
  showChoices();
  for (const card of cards) fillCard(card);
  update();
  if (opened) fillLarge();
}

function chooseMethod(name) {
  state.method = name;
  refresh();
}

function chooseLayer(layer) {
  if (state.view === "grid") state.rows = layer;
  else state.layer = layer;
  refresh();
}

/** Show the method, or the layer, of a grid's heading alone. */
function chooseHeading({ method, layer }) {
  if (method) state.method = method;
  if (layer) state.layer = layer;
  chooseView("single");
}

function chooseView(view) {
  state.view = view;
  refresh();
}

let recolouring = 0;
/** Colour the maps anew, once for all changes before the next frame. */
function recolour() {
  cancelAnimationFrame(recolouring);
  recolouring = requestAnimationFrame(() => {
    showChoices();
    for (const picture of [...cards.filter((card) => card.near).flatMap((card) => card.pictures), ...largePictures]) {
      if (picture.wanted?.record.page_maps && canUnpack) drawLive(picture);
    }
    noteState();
  });
}
