"""Views of the page: the grid, zoom, the address, export, and right and wrong."""

import base64
import csv
import io
import json

import cv2
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.runs.page_support import FUSED, LAYERS, METHODS, ONLY_IN_CHROMIUM, live_run, record
from xgradcam.pictures.photograph import encode_jpeg
from xgradcam.runs.gallery import write_gallery

CARDS = "[...document.querySelectorAll('.card .file')].map((file) => file.textContent)"
TEXT = "document.querySelector({!r}).innerText"
CLASSES = {0: "<b>cat</b>", 1: "dog", 2: "=cmd()", 3: "fox"}


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    return live_run(tmp_path_factory.mktemp("live"))


def judged(image, truth, predicted, probability, role="predicted", **changes):
    """A record with its true and its predicted class; of a contrast, a score takes the class's place."""
    target = truth if role == "true" else predicted
    found = record(
        image, class_index=target, class_name=CLASSES[target], probability=probability, role=role,
        truth={"index": truth, "name": CLASSES[truth]},
        prediction={"index": predicted, "name": CLASSES[predicted], "probability": probability}, **changes,
    )  # fmt: skip
    if role == "contrast":
        for key in ("probability", "rank"):
            del found[key]
        found |= {"what": "contrast", "interest": f"{CLASSES[predicted]} in contrast to {CLASSES[truth]}"}
    return found


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """Five photographs with their true classes, two of them mistaken, and one without."""
    folder = tmp_path_factory.mktemp("mistakes")
    records = [
        judged("a.jpg", 0, 0, 0.9),
        judged("b.jpg", 0, 1, 0.6),
        judged("b.jpg", 0, 1, 0.6, "true"),
        judged("b.jpg", 0, 1, 0.6, "contrast"),
        judged("c.jpg", 2, 1, 0.8),
        judged("d.jpg", 1, 1, 0.4),
        judged("e.jpg", 3, 3, 0.7),
        record("f.jpg", class_index=1, class_name="dog"),
    ]
    for entry in records:
        (folder / entry["photograph"]).write_bytes(encode_jpeg(np.full((30, 40, 3), 90, np.uint8)))
        for name in entry["files"].values():
            (folder / name).write_bytes(encode_jpeg(np.full((30, 40, 3), 120, np.uint8)))
    write_gallery(folder, records, "Right and wrong")
    return folder


def choose(page, selector, value):
    page.locator(selector).select_option(value)


def at_rest(page):
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 60)))")


def address_with(page, words):
    page.wait_for_function("(words) => location.hash.includes(words)", arg=words)
    return page.evaluate("location.hash.slice(1)")


def test_a_grid_has_every_method_and_layer(visit, live):
    page = visit(live, state="view=grid")
    page.wait_for_function("document.querySelectorAll('.card:first-child .compare.live').length === 12")
    heads = "[...document.querySelectorAll('.card:first-child .matrix th')].map((head) => head.innerText)"
    assert page.evaluate(heads) == [
        "Grad-CAM", "XGrad-CAM", "LayerCAM", *LAYERS, "all layers fused",
    ]  # fmt: skip
    badges = "[...document.querySelectorAll('.card:first-child .badge')].map((badge) => badge.textContent)"
    assert page.evaluate(badges) == ["", "", "blank", *[""] * 2, "blank", *[""] * 6]
    notes = page.locator(".card").first.locator(".notes li")
    assert notes.all_inner_texts()[0].startswith("late LayerCAM no positive evidence: the layer-cam map")
    assert notes.all_inner_texts()[1] == "late plain"
    # One divider of all is moved by keys, and one zoom.
    assert page.locator(".card").first.locator("[role=slider]").count() == 1
    page.locator(".card .divider").first.focus()
    page.keyboard.press("End")
    page.keyboard.press("+")
    dividers = "[...document.querySelectorAll('.card:first-child .divider')]"
    at = f"{dividers}.map((one) => getComputedStyle(one).left)"
    assert len(set(page.evaluate(at))) == 1
    zooms = page.evaluate(
        "[...document.querySelectorAll('.card .seen')]"
        ".map((seen) => new DOMMatrix(getComputedStyle(seen).transform).a)"
    )
    assert zooms == [1.5] * 12 + [1] * 12
    choose(page, "#bar .layer", "padded")
    page.wait_for_function("document.querySelectorAll('.card:first-child .compare').length === 3")
    page.locator(".matrix th button", has_text="XGrad-CAM").first.click()
    assert page.locator(".card").first.locator(".compare").count() == 1
    assert "method=xgrad-cam" in address_with(page, "method=xgrad-cam")
    assert visit.complaints == []


def test_zoom_and_pan_are_one_in_the_large_view_and_the_card(visit, live):
    page = visit(live)
    page.locator(".open").first.click()
    at_rest(page)
    box = page.locator("#large .compare").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    page.mouse.wheel(0, -400)
    matrix = "(where) => new DOMMatrix(getComputedStyle(document.querySelector(`${where} .seen`)).transform)"
    scale, x, y = page.evaluate(f"(() => {{ const m = ({matrix})('#large'); return [m.a, m.e, m.f]; }})()")
    assert scale > 1.5
    # The place under the pointer stays there.
    assert (x, y) == pytest.approx((-(scale - 1) * box["width"] / 4, -(scale - 1) * box["height"] / 4), abs=3)
    assert page.evaluate(f"({matrix})('.card').a") == pytest.approx(scale, abs=0.01)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4 - 40, box["y"] + box["height"] / 4 - 30, steps=3)
    page.mouse.up()
    assert page.evaluate(f"({matrix})('#large').e") == pytest.approx(x - 40, abs=3)
    page.keyboard.press("0")
    assert page.evaluate(f"({matrix})('#large').a") == 1


@ONLY_IN_CHROMIUM
def test_two_fingers_zoom(visit, live):
    page = visit(live, 390, 844, has_touch=True)
    page.locator(".open").first.click()
    at_rest(page)
    box = page.locator("#large .compare").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 40), ("touchMove", 60), ("touchMove", 80)):
        points = [{"x": middle[0] + side * apart / 2, "y": middle[1], "id": side} for side in (-1, 1)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    scale = "new DOMMatrix(getComputedStyle(document.querySelector('#large .seen')).transform).a"
    assert page.evaluate(scale) == pytest.approx(2, abs=0.1)
    assert page.evaluate("document.querySelector('#large').open")


def test_the_address_holds_the_view(visit, live):
    page = visit(live)
    page.locator("#name").fill("cat")
    choose(page, "#order", "disagreement-down")
    choose(page, "#bar .layer", "padded")
    choose(page, "#colormap", "jet")
    page.locator("#threshold").fill("20")
    page.keyboard.press("Escape")
    page.locator(".open").nth(1).click()
    page.keyboard.press("m")
    state = address_with(page, "method=xgrad-cam")
    again = visit(live, state=state)
    again.wait_for_function("document.querySelector('#large').open")
    assert again.evaluate(TEXT.format("#large-title")) == "class 967"
    assert again.evaluate(TEXT.format("#large .file")) == "padded · cat.jpg"
    values = "['name', 'order', 'colormap', 'threshold'].map((id) => document.getElementById(id).value)"
    assert again.evaluate(values) == ["cat", "disagreement-down", "jet", "20"]
    assert again.evaluate("document.querySelector('#bar [data-switch=method] :checked').value") == "xgrad-cam"
    again.keyboard.press("Escape")
    again.wait_for_function("!location.hash.includes('photograph=')")


def test_the_back_button_closes_the_large_view(visit, live):
    page = visit(live)
    page.locator(".open").first.click()
    assert "photograph=cat.jpg" in address_with(page, "photograph=")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("m")
    page.go_back()
    page.wait_for_function("!document.querySelector('#large').open")
    page.go_forward()
    page.wait_for_function("document.querySelector('#large').open")
    # Closed by a key, its entry is left, and what was chosen in it stays.
    page.keyboard.press("l")
    page.keyboard.press("Escape")
    page.wait_for_function("!location.hash.includes('photograph=')")
    assert "layer=early" in address_with(page, "layer=early")
    assert page.evaluate("document.querySelector('#bar .layer').value") == "early"


@ONLY_IN_CHROMIUM
@pytest.mark.parametrize(
    "state",
    [
        "method=none&layer=<b>&view=x&order=constructor&colours=__proto__&opacity=1e9&threshold=-1&map=x",
        "photograph=gone.jpg&of=nothing&pair=1:2&at=500",
        "%E0%A4%A&&==&notes=%00",
    ],
)
def test_an_address_of_anything_shows_the_page(visit, live, state):
    page = visit(live, state=state)
    at_rest(page)
    assert page.locator(".card").count() == 2
    assert page.evaluate("document.querySelector('#opacity').value") == "60"
    assert not page.evaluate("document.querySelector('#large').open")
    assert visit.complaints == []


# Playwright hands on no downloads of Firefox: the page's link is looked at instead.
CATCH = """() => {
  window.caught = [];
  URL.createObjectURL = (blob) => { caught.push(blob); return "data:,"; };
  HTMLAnchorElement.prototype.click = function () { caught.names = this.download; };
}"""
CAUGHT = """async () => {
  const bytes = new Uint8Array(await caught.at(-1).arrayBuffer());
  return [caught.names, btoa(Array.from(bytes, (value) => String.fromCharCode(value)).join(""))];
}"""


def saved(page, button, name):
    """The content of the file that a button saves under this name."""
    page.evaluate(CATCH)
    page.locator(button).click()
    page.wait_for_function("caught.names")
    found, content = page.evaluate(CAUGHT)
    assert found == name
    return base64.b64decode(content)


@ONLY_IN_CHROMIUM
def test_a_file_is_downloaded(visit, live):
    page = visit(live)
    with page.expect_download() as download:
        page.locator("#csv").click()
    assert download.value.suggested_filename == "maps.csv"
    with open(download.value.path(), encoding="utf-8-sig", newline="") as file:
        assert file.read().count("\r\n") == 1 + 2 * (len(LAYERS) + 1) * len(METHODS)


def test_chosen_cards_are_saved(visit, live):
    page = visit(live, state="colours=jet&opacity=100&map=100")
    page.wait_for_function("document.querySelectorAll('.compare.live').length === 2")
    assert page.evaluate(TEXT.format("#export-said")) == "all 2 shown"
    page.locator(".choose").nth(1).check(force=True)
    assert page.evaluate(TEXT.format("#export-said")) == "1 chosen"
    table = list(csv.DictReader(io.StringIO(saved(page, "#csv", "maps.csv").decode("utf-8-sig"))))
    assert [(row["class"], row["layer"], row["method"]) for row in table] == [
        ("n00000000 class 967", layer, method) for layer in (*LAYERS, FUSED) for method in METHODS
    ]
    assert table[0]["conservation_error"] == "0.25"
    assert table[2]["notes"].startswith("no positive evidence: the layer-cam map")
    assert table[0]["notes"] == "plain"
    sheet = cv2.imdecode(np.frombuffer(saved(page, "#png", "maps.png"), np.uint8), cv2.IMREAD_COLOR)
    assert sheet.shape == (16 + 320 + 58 + 16, 16 + 320 + 16, 3)
    # Jet is blue where there is least, and red where there is most; the photograph is green.
    inside = sheet[16:336, 62:290].reshape(-1, 3)
    assert inside[:, 0].max() > 120
    assert inside[:, 2].max() > 120
    assert (sheet[:16] == 255).all()


FORMULAS = ["=1+1", "+1", "-1", "@x", "\t=1", " =1", 'say "a,b"', "two\nlines", "plain"]


@ONLY_IN_CHROMIUM
def test_names_are_no_formulas_in_a_spreadsheet(visit, tmp_path):
    names = FORMULAS
    write_gallery(tmp_path, [record(name, class_name=name, score=-2.5) for name in names], "Run")
    page = visit(tmp_path)
    table = list(csv.DictReader(io.StringIO(saved(page, "#csv", "maps.csv").decode("utf-8-sig"), newline="")))
    expected = [name if name in names[-3:] else f"'{name}" for name in names for _ in range(2)]
    assert [row["image"] for row in table] == [row["class"] for row in table] == expected
    assert {row["score"] for row in table} == {"-2.5"}


@ONLY_IN_CHROMIUM
def test_right_and_wrong_are_shown_and_sorted(visit, mistakes):
    page = visit(mistakes)
    assert "accuracy 60.0% (3 of 5 right)" in page.evaluate(TEXT.format("#summary"))
    said = page.locator(".verdict .said").all_inner_texts()
    assert said[:2] == ["right", "wrong: dog, 60.0%, not <b>cat</b>"]
    roles = [text for text in page.locator(".card .role").all_inner_texts() if text]
    assert roles == ["predicted class", "true class", "contrast", "predicted class"]
    choose(page, "#order", "mistake-down")
    assert page.evaluate(CARDS) == ["c.jpg", *["b.jpg"] * 3, "d.jpg", "e.jpg", "a.jpg", "f.jpg"]
    choose(page, "#verdict", "wrong")
    assert page.evaluate(CARDS) == ["c.jpg", *["b.jpg"] * 3]
    choose(page, "#verdict", "right")
    assert page.evaluate(CARDS) == ["d.jpg", "e.jpg", "a.jpg"]


def test_the_confusion_matrix_filters(visit, mistakes):
    page = visit(mistakes)
    page.locator("#confusion summary").click()
    cells = "[...document.querySelectorAll('#matrix button')].map((one) => one.getAttribute('aria-label'))"
    assert page.evaluate(cells) == [
        "true <b>cat</b>, predicted <b>cat</b>: 1 photograph",
        "true <b>cat</b>, predicted dog: 1 photograph",
        "true =cmd(), predicted dog: 1 photograph",
        "true dog, predicted dog: 1 photograph",
        "true fox, predicted fox: 1 photograph",
    ]
    page.locator("#matrix button").nth(1).click()
    assert page.evaluate(CARDS) == ["b.jpg"] * 3
    assert page.locator("#matrix button").nth(1).get_attribute("aria-pressed") == "true"
    state = address_with(page, "pair=0%3A1")
    assert visit(mistakes, state=state).evaluate(CARDS) == ["b.jpg"] * 3
    page.locator("#matrix button").nth(1).click()
    assert len(page.evaluate(CARDS)) == 8
    page.locator("#matrix button").nth(2).click()
    page.locator("#clear").click()
    assert len(page.evaluate(CARDS)) == 8


@ONLY_IN_CHROMIUM
def test_the_confusion_matrix_of_many_classes_is_bounded(visit, tmp_path):
    records = []
    for index in range(1000):
        predicted = index + (index % 100 == 7)
        records.append(
            record(
                f"{index}.jpg", class_index=predicted, class_name=f"class {predicted}",
                truth={"index": index, "name": f"class {index}"},
                prediction={"index": predicted, "name": f"class {predicted}", "probability": 0.5},
            )
        )  # fmt: skip
    write_gallery(tmp_path, records, "Many classes")
    page = visit(tmp_path)
    page.locator("#confusion summary").click()
    assert page.locator("#matrix tbody tr").count() == 24
    assert page.locator("#matrix button.wrong").count() == 10
    assert "of 1,000 that occur" in page.evaluate(TEXT.format("#matrix-said"))


@ONLY_IN_CHROMIUM
def test_without_truth_nothing_of_it_shows(visit, live):
    page = visit(live)
    assert page.locator("#confusion").is_hidden()
    assert page.locator("#verdict").is_hidden()
    assert page.locator(".verdict:visible").count() == 0
    assert "accuracy" not in page.evaluate(TEXT.format("#summary"))
    orders = page.evaluate("[...document.querySelector('#order').options].map((option) => option.value)")
    assert "mistake-down" not in orders
    assert "conservation-down" in orders


@ONLY_IN_CHROMIUM
def test_orders_by_what_is_known_of_the_maps(visit, tmp_path):
    budgets = [(8.0, 4.0, 1.0), (4.0, 4.0, 3.0), (2.0, 0.5, None), (0.0, 1.0, 1.0)]
    records = [
        record(
            f"{index}.jpg", score=score, disagreement=[0.3, None, 0.1, 0.2][index],
            conservation_error={"grad-cam": [0.5, 2.0, None, 0.1][index], "xgrad-cam": index},
            budget={"feature": feature, "nowhere": nowhere},
        )
        for index, (score, feature, nowhere) in enumerate(budgets)
    ]  # fmt: skip
    write_gallery(tmp_path, records, "Orders")
    page = visit(tmp_path)
    expected = {
        "conservation-down": "1032", "conservation-up": "3012", "disagreement-down": "0321",
        "disagreement-up": "2301", "feature-up": "2013", "feature-down": "1023", "nowhere-down": "1023",
    }  # fmt: skip
    for order, places in expected.items():
        choose(page, "#order", order)
        at_rest(page)
        assert "".join(name[0] for name in page.evaluate(CARDS)) == places, order
    choose(page, "#order", "conservation-down")
    page.keyboard.press("Escape")
    page.locator("#bar [data-switch=method] input").nth(1).check(force=True)
    assert "".join(name[0] for name in page.evaluate(CARDS)) == "3210"


@ONLY_IN_CHROMIUM
def test_notes_filter_by_kind_and_are_tied_to_their_method(visit, live):
    page = visit(live)
    count = "document.querySelectorAll('.card').length"
    choose(page, "#notes", "=no positive evidence")
    assert page.evaluate(count) == 0
    page.keyboard.press("Escape")
    page.locator("#bar [data-switch=method] input").nth(2).check(force=True)
    assert page.evaluate(count) == 2
    choose(page, "#notes", "none")
    assert page.evaluate(count) == 0
    choose(page, "#bar .layer", "early")
    assert page.evaluate(count) == 2


@ONLY_IN_CHROMIUM
@pytest.mark.parametrize("width", [390, 1440])
def test_the_chosen_method_is_in_sight(visit, tmp_path, width):
    names = [f"method-{number:02}" for number in range(20)]
    write_gallery(tmp_path, [record(files=dict.fromkeys(names, "cam.jpg"))], "Many methods")
    page = visit(tmp_path, width)
    for _ in range(len(names) - 1):
        page.keyboard.press("m")
    box = page.locator("#bar [data-switch=method] label").last.bounding_box()
    assert 0 <= box["x"]
    assert box["x"] + box["width"] <= width + 1
    scroller = page.locator("#bar [data-switch=method]").bounding_box()
    assert box["x"] + box["width"] <= scroller["x"] + scroller["width"] + 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width


RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}}


@pytest.mark.parametrize(
    ("browsers", "scheme", "width", "seen"),
    [
        ("Chromium", "light", 1440, slice(None)),
        ("Chromium", "dark", 390, slice(1, None, 3)),
        ("Firefox", "dark", 1440, slice(1, 2)),
    ],
    indirect=["browsers"],
)
def test_axe_finds_no_violation(visit, live, mistakes, scheme, width, seen):
    states = [
        (live, ""),
        (live, "view=grid&signed=1"),
        (live, "photograph=cat.jpg&of=285+n00000000+class+285"),
        (live, "view=grid&photograph=cat.jpg&of=285+n00000000+class+285"),
        (mistakes, "order=mistake-down"),
    ]
    for folder, state in states[seen]:
        page = visit(folder, width, 900, scheme, state)
        page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
        at_rest(page)
        found = Axe().run(page, options=RULES)
        kinds = {entry["id"]: entry["nodes"][0]["html"][:200] for entry in found.response["violations"]}
        assert kinds == {}, json.dumps([state, kinds])
        page.close()
