import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from xgradcam import Classifier, explain, load_classifier, record, verify
from xgradcam.cam.explain import evidence_of
from xgradcam.cam.explanation import Explanation
from xgradcam.pictures.paint import EVEN, colours_of

HOSTILE = "<script>alert(1)</script> & \x1b[31m \"quoted\" 'so'"


def network(last=None):
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)]
    return nn.Sequential(*parts, *([last] if last else []))


def results():
    """Every result with tensors, of a batch of 200."""
    model, inputs = network(), torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    verification = verify(model, inputs, "1", 3)
    return {
        "explanation": explain(model, inputs, "1", 3),
        "evidence": evidence_of(model, inputs, "1", 3),
        "recording": record(model, inputs, "1"),
        "verification": verification,
        "contribution": verification.contributions[0],
        "classifier": load_classifier("efficientnet-lite0"),
    }


def test_no_text_of_a_result_shows_the_numbers_of_a_tensor():
    for name, result in results().items():
        text = repr(result)
        assert len(text) < 300, name
        assert "\n" not in text
        assert "tensor(" not in text
        assert len(re.findall(r"-?\d+\.\d+", text)) <= 20, text
        if hasattr(result, "_repr_html_"):
            page = result._repr_html_()
            assert len(page) < 20_000, name
            assert "tensor(" not in page


def test_the_texts_say_what_there_is():
    found = {name: repr(result) for name, result in results().items()}
    assert (
        found["recording"]
        == "Recording(activation=float32 (200, 4, 6, 6), output=float32 (200, 5), model=Sequential)"
    )
    assert found["evidence"].startswith(
        "Evidence(activation=float32 (200, 4, 6, 6), gradient=float32 (200, 4, 6, 6)"
    )
    assert re.match(
        r"<ClassExplanation of 200 samples: class 3, \.\.\.; score [-\d., ]+, \.\.\.; maps 6 x 6 by "
        r"grad-cam, xgrad-cam",
        found["explanation"],
    )
    assert found["verification"].endswith("Eq. 5 holds for all 200 samples>")
    values = "value=float64 (200,), nowhere=float64 (200,)"
    assert found["contribution"] == f"Contribution(module='3', operation='linear', kind='bias', {values})"
    assert "input 3 x 224 x 224, classes 1000 named, layer bn2" in found["classifier"]


@pytest.mark.parametrize(
    ("last", "says"),
    [(None, "Eq. 5 holds"), (nn.Sigmoid(), "Eq. 5 does not hold; its terms sum to the score")],
)
def test_a_verification_says_its_verdict(last, says):
    one = verify(network(last), torch.rand(1, 3, 8, 8), "1", 3)
    assert repr(one).endswith(f"; {says}>")
    page = one._repr_html_()
    assert says in page
    assert f"<td>score</td><td>{float(one.score):.4g}</td>" in page


def test_the_table_of_an_explanation_shows_its_maps_in_few_bytes():
    signed = torch.tensor([[[1.0, -2.0], [0.5, 0.25]]])
    one = Explanation({"xgrad-cam": signed, "layer-cam": -signed}, torch.tensor([7.25]), (("a note",),))
    page = one._repr_html_()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as picture:
        levels = [[255, 0], [128, 64]]
        assert np.array_equal(np.asarray(picture.convert("RGB")), colours_of(EVEN)[np.array(levels)])
    assert len(pictures) == 2
    assert ">7.25<" in page
    assert "a note" in page
    assert "conservation error 1.034" in page  # |7.25 + 0.25| / 7.25


@pytest.mark.parametrize("shape", [(6,), (3, 4, 5), (900, 1200)])
def test_maps_of_signals_volumes_and_large_ones_are_small_pictures(shape):
    one = Explanation({"xgrad-cam": torch.rand(1, *shape)}, torch.ones(1), ((),))
    assert len(one._repr_html_()) < 15_000


def test_names_from_elsewhere_are_no_html_and_no_controls():
    one = Classifier(HOSTILE, network(), (8, 8), (0.5,) * 3, (0.5,) * 3, [HOSTILE] * 5)
    explanation = Explanation({HOSTILE: torch.rand(1, 2, 2)}, torch.ones(1), ((HOSTILE,),))
    for text in (one._repr_html_(), explanation._repr_html_()):
        assert "<script>" not in text
        assert "&lt;script&gt;" in text
        assert "\x1b" not in text
    assert "\x1b" not in repr(one)


def test_an_explanation_of_no_samples_and_on_no_device_has_a_text():
    empty = Explanation({"xgrad-cam": torch.zeros(0, 2, 2)}, torch.zeros(0), ())
    assert repr(empty) == "<Explanation of 0 samples: ; score ; maps 2 x 2 by xgrad-cam>"
    meta = Explanation(
        {"xgrad-cam": torch.zeros(1, 2, 2, device="meta")}, torch.zeros(1, device="meta"), ((),)
    )
    assert "score ?" in repr(meta)
