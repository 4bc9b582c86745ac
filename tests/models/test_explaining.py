import re
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from tests.support import EXAMPLES
from xgradcam import Classifier, compare, explain, load_classifier, read_image
from xgradcam.errors import XGradCamError

CAT, ESPRESSO = 285, 967
PHOTOGRAPH = EXAMPLES / "cat-and-coffee.jpg"


@pytest.fixture(scope="module")
def classifier():
    return load_classifier("efficientnet-lite0")


def tiny(labels=("a cat", "a dog", "a cup"), channels=3, **more):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    return Classifier("tiny", model, (8, 8), (0.5,) * channels, (0.25,) * channels, labels, "1", **more)


def pixels(height=12, width=20):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_from_a_name_to_a_figure_in_two_lines(tmp_path):
    classifier = load_classifier("efficientnet-lite0")
    classifier.explain(PHOTOGRAPH, "Egyptian cat").save(tmp_path / "figure.svg")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "figure.svg").read_text())
    assert {"XGrad-CAM", "evidence for Egyptian cat", "logit per cell"} <= set(texts)


def test_the_maps_are_those_of_explain(classifier):
    one = classifier.explain(PHOTOGRAPH, "Egyptian cat", methods=["xgrad-cam"])
    inputs = classifier.inputs(read_image(PHOTOGRAPH))
    expected = explain(classifier.module, inputs, classifier.default_layer(), CAT, ["xgrad-cam"])
    torch.testing.assert_close(one.maps["xgrad-cam"], expected.maps["xgrad-cam"])
    assert torch.equal(one.score, expected.score)
    assert torch.equal(one.probability, expected.probability)
    assert one.notes == expected.notes
    assert (one.class_name, one.layer, one.model_name) == ("Egyptian cat", "bn2", "efficientnet-lite0")
    assert np.array_equal(one.photograph, read_image(PHOTOGRAPH))


def test_the_figure_has_the_photograph_its_framing_and_the_classs_name():
    one = tiny().explain(pixels(), "a dog", methods="xgrad-cam")
    ax = one.plot(ax=Figure().add_subplot(), grey=False)
    assert np.array_equal(ax.images[0].get_array(), pixels())
    assert ax.images[1].colorbar.ax.get_ylabel() == "evidence for a dog\nlogit per cell"
    cropped = tiny(resize=8).explain(pixels(), 1, crop=True)
    values = cropped.plot(ax=Figure().add_subplot()).images[-1].get_array()
    # Resized to 8 x 13, of which eight columns are seen, from the second or third on.
    seen = (~np.ma.getmaskarray(values)).all(axis=0)
    assert seen.sum() == pytest.approx(20 * 8 / 13, abs=1)
    assert not seen[0]
    assert not seen[-1]


def test_the_photograph_can_be_another_for_drawing():
    other = 255 - pixels()
    ax = tiny().explain(pixels(), 1).plot(other, Figure().add_subplot(), grey=False, name="mine")
    assert np.array_equal(ax.images[0].get_array(), other)
    assert "mine" in ax.images[1].colorbar.ax.get_ylabel()


@pytest.mark.parametrize("form", ["path", "text", "pillow", "turned", "array", "tensor", "grey"])
def test_a_photograph_is_taken_in_any_form(form, tmp_path):
    given = np.repeat(pixels()[..., :1], 3, axis=2) if form == "grey" else pixels()
    path = tmp_path / "photograph.png"
    Image.fromarray(given).save(path)
    exif = Image.Exif()
    exif[274] = 8
    turned = Image.fromarray(np.rot90(given, -1).copy())
    turned.info["exif"] = exif.tobytes()
    forms = {
        "path": path,
        "text": str(path),
        "pillow": Image.fromarray(given),
        "turned": turned,
        "array": given,
        "tensor": torch.from_numpy(given).permute(2, 0, 1),
        "grey": given[..., 0],
    }
    one = tiny().explain(forms[form], 1)
    assert np.array_equal(one.photograph, given)
    assert torch.equal(one.score, tiny().explain(given, 1).score)


def test_normalised_inputs_are_taken_and_drawn_as_the_photographs_they_were():
    model = tiny()
    inputs = torch.cat([model.inputs(pixels()), model.inputs(255 - pixels())])
    one = model.explain(inputs, 2)
    assert torch.equal(one.maps["xgrad-cam"], explain(model.module, inputs, "1", 2).maps["xgrad-cam"])
    scene = model.framing().pixels(255 - pixels())
    assert np.array_equal(one.photographs[1], scene)
    ax = one.plot(ax=Figure().add_subplot(), sample=1, grey=False)
    assert np.array_equal(ax.images[0].get_array(), scene)
    alone = one.sample(1)
    assert np.array_equal(alone.photograph, scene)
    assert alone.class_names == ("a cup",)
    torch.testing.assert_close(model.explain(inputs[0], 2).score, one.score[:1])


def test_pixels_that_are_not_normalised_are_warned_of():
    with pytest.warns(
        UserWarning, match=r"floats are taken as normalised inputs of tiny, and these lie in \[0, 1\]"
    ):
        tiny().explain(torch.rand(3, 8, 8), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny().explain(torch.rand(3, 8, 8) - 0.5, 1)
        tiny().explain(torch.full((3, 8, 8), 19.0), 1)
    with pytest.warns(UserWarning, match="these go up to 255, where those of photographs end at 2: give"):
        tiny().explain(torch.full((3, 8, 8), 255.0), 1)


def test_threads_that_explain_by_one_model_take_turns():
    model = tiny()
    below = [pixels(12, 20 + number) for number in range(8)]
    expected = [model.explain(one, "a cup").maps["xgrad-cam"] for one in below]
    with ThreadPoolExecutor(4) as threads:
        found = [one.maps["xgrad-cam"] for one in threads.map(lambda one: model.explain(one, "a cup"), below)]
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        ("a cup", 2), ("cup", 2), ("2", 2), (2, 2), (np.int64(2), 2), (torch.tensor(2), 2), ("-1", None),
        (None, None),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:taking class 2")
def test_a_class_is_named_as_the_command_takes_it(target, classes):
    one = tiny().explain(pixels(), target)
    expected = int(one.logits.argmax()) if classes is None else classes
    assert one.targets.tolist() == [expected]


def test_a_class_that_is_guessed_is_said():
    with pytest.warns(UserWarning, match="taking class 2 .* for 'cup', a part of its name") as told:
        tiny().explain(pixels(), "cup")
    assert told[0].filename == __file__


def test_several_classes_give_several_explanations():
    model = tiny()
    several = model.explain(pixels(), ["a dog", 0, None])
    best = int(several[0].logits.argmax())
    assert [one.targets.item() for one in several] == [1, 0, best]
    assert [one.class_name for one in several[:2]] == ["a dog", "a cat"]
    top = model.explain(pixels(), "top2")
    assert [one.targets.item() for one in top] == top[0].logits[0].topk(2).indices.tolist()
    assert len(model.explain(pixels(), ["top2", 1])) == 3
    axes = compare(several[:2], methods="xgrad-cam").plot(Figure())
    assert [ax.get_title() for ax in axes[0]] == ["photograph", "a dog", "a cat"]


def test_models_and_layers_are_told_apart_in_a_comparison():
    one, other = tiny().explain(pixels(), 1), tiny().explain(pixels(), 1, layer="0")
    axes = compare([one, other]).plot(Figure())
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["1", "0"]


@pytest.mark.parametrize(
    ("given", "target", "says"),
    [
        (7, None, "the photograph is 7: give a path"),
        (None, None, "the photograph is None: give a path"),
        (["a.jpg", "b.jpg"], None, r"the photograph is \['a.jpg', 'b.jpg'\]: give a path"),
        ("no-such.jpg", None, "no such image: no-such.jpg"),
        (pixels() / 255, None, "multiply floats by 255"),
        (pixels().transpose(2, 0, 1), None, r"channels come first: photograph.transpose\(1, 2, 0\)"),
        (np.zeros((9, 9, 4), np.uint8), None, r"photograph\[..., :3\] leaves transparency out"),
        (pixels()[None], None, "one photograph, not a batch"),
        (pixels()[..., :2], None, "give a colour image"),
        (
            torch.zeros(1, 4, 8, 8),
            None,
            r"the tensor is a Tensor .*: give inputs \(N, 3, h, w\), normalised, or uint8",
        ),
        (torch.zeros(8, 8), None, r"give inputs \(N, 3, h, w\)"),
        (pixels(), "a bird", "no class is named 'a bird'"),
        (pixels(), 3, "class 3"),
        (pixels(), 1.5, "the target is 1.5: give a class's name or index"),
        (pixels(), [1, object()], "the target is a object: give a class's name"),
        (pixels(), "top0", "the top 0 classes: give an integer, 1 or more"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_a_line(given, target, says):
    with pytest.raises(XGradCamError, match=says) as error:
        tiny().explain(given, target)
    assert "\n" not in str(error.value)


def test_a_model_without_class_scores_says_how_it_is_explained():
    with pytest.raises(XGradCamError, match=r"tiny is a model of detection, .*: explain_score .* BoxScore"):
        tiny(kind="detection").explain(pixels())


def test_photographs_of_bands_are_explained_and_their_maps_drawn_alone():
    bands = np.random.default_rng(0).integers(0, 256, (12, 20, 5), np.uint8)
    one = tiny(channels=5).explain(bands, 1)
    assert one.photograph is None
    assert len(one.plot(ax=Figure().add_subplot()).images) == 1


def test_an_explanation_shows_small_pictures_in_a_notebook(classifier):
    page = classifier.explain(PHOTOGRAPH, ESPRESSO)._repr_html_()
    assert page.count('src="data:image/jpeg;base64,') == 2
    assert "espresso" in page
    assert len(page) < 30_000
