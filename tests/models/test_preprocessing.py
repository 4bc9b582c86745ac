import numpy as np
import pytest
import torch

from xgradcam.errors import XGradCamError
from xgradcam.models.load import load_classifier
from xgradcam.models.preprocessing import Preprocessing, check_classes, check_preprocessing


@pytest.mark.parametrize("size", [64, [64], (64,), (64, 64), np.array([64, 64]).tolist()])
def test_one_side_stands_for_both(size):
    assert check_preprocessing(size, None, None, None) == Preprocessing((64, 64), None, None, None)


def test_right_values_are_kept():
    given = check_preprocessing([96, 160], [0, 0.5, 1], [0.1, 0.5, 1], 200)
    assert given == Preprocessing((96, 160), (0, 0.5, 1), (0.1, 0.5, 1), 200)
    assert check_classes(1) == 1
    assert check_classes(None) is None


SIZE = "give height and width, or one for both"
COLOURS = "the model takes 3 channels: give one each for red, green and blue"
MEAN = "the mean has a value outside of 0 to 1: divide those of 0 to 255 by 255"
STD = "the std has a value that is not above 0 and up to 1: divide those of 0 to 255 by 255"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"size": 0}, f"the input size is 0: {SIZE}"),
        ({"size": (0, 3)}, f"the input size is 0 x 3: {SIZE}"),
        ({"size": (3, -1)}, f"the input size is 3 x -1: {SIZE}"),
        ({"size": (3, 224, 224)}, f"the input size is 3 x 224 x 224: {SIZE}"),
        ({"size": (2.5, 3)}, f"the input size is 2.5 x 3: {SIZE}"),
        ({"size": ()}, f"the input size is : {SIZE}"),
        ({"mean": (123, 117, 104)}, MEAN),
        ({"mean": (0, -0.1, 0)}, MEAN),
        ({"mean": (0, float("nan"), 0)}, MEAN),
        ({"mean": (0.5, 0.5)}, f"the mean has 2 values, and {COLOURS}"),
        ({"std": (0.2,) * 4}, f"the std has 4 values, and {COLOURS}"),
        ({"mean": ()}, "the mean is (): give a number from 0 to 1 for each channel"),
        ({"std": (58, 57, 57)}, STD),
        ({"std": (1, 0, 1)}, STD),
        ({"std": (1, float("nan"), 1)}, STD),
        ({"resize": 0}, "the resize is 0: give the length of the shorter side in pixels"),
        ({"resize": 25.5}, "the resize is 25.5: give the length of the shorter side in pixels"),
        ({"num_classes": 0}, "the number of classes is 0: give an integer, 1 or more"),
        ({"num_classes": -3}, "the number of classes is -3: give an integer, 1 or more"),
        ({"num_classes": True}, "the number of classes is True: give an integer, 1 or more"),
        ({"num_classes": "5"}, "the number of classes is '5': give an integer, 1 or more"),
        ({"mean": "abc"}, "the mean is 'abc': give a number from 0 to 1 for each channel"),
        ({"weights": None}, "the weights are None: give a file, 'default' or 'none'"),
        ({"num_classes": 2.5}, "the number of classes is 2.5: give an integer, 1 or more"),
    ],
)
def test_wrong_values_are_refused_before_a_model_is_built(given, reason):
    with pytest.raises(XGradCamError) as caught:
        load_classifier("no such model", **{"weights": "none", **given})
    assert str(caught.value) == reason


def test_numpys_numbers_are_taken_as_pythons():
    given = check_preprocessing(np.array([64, 32]), np.full(3, 0.5), np.float32([0.5, 0.25, 1]), np.int64(70))
    assert given == Preprocessing((64, 32), (0.5, 0.5, 0.5), (0.5, 0.25, 1.0), 70)
    count = check_classes(np.int64(7))
    assert type(count) is int
    assert count == 7


def test_weights_may_be_a_path(tmp_path):
    classifier = load_classifier("squeezenet1_1", "none", num_classes=3)
    torch.save(classifier.module.state_dict(), tmp_path / "w.pt")
    loaded = load_classifier("squeezenet1_1", tmp_path / "w.pt", num_classes=3)
    for key, tensor in classifier.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[key], tensor)


def test_one_side_is_enough_for_a_classifier():
    assert load_classifier("squeezenet1_1", "none", size=96).size == (96, 96)
