"""Errors that users can mend: their kinds, what is made of an error in users' code, and near names."""

from pathlib import Path

import pytest

from xgradcam import errors
from xgradcam.errors import XGradCamError, did_you_mean, listed, users_code


def test_every_error_is_caught_as_the_one():
    kinds = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert sorted(kind.__name__ for kind in kinds) == [
        "CannotWriteError",
        "NotApplicableError",
        "NotFiniteError",
        "WeightsUnavailableError",
        "XGradCamError",
    ]
    for kind in kinds:
        with pytest.raises(XGradCamError, match=r"^why$"):
            raise kind("why")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such\nfile"), "ValueError: no such"),
        (KeyError(), "KeyError"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_an_error_in_users_code_is_one_line_that_says_where(error, said):
    with pytest.raises(XGradCamError) as caught, users_code("cannot make net.py:Net"):
        raise error
    assert str(caught.value) == f"cannot make net.py:Net: {said} ({__file__}, line {line_of_raise()})"
    assert caught.value.__cause__ is error


def line_of_raise():
    lines = Path(__file__).read_text().splitlines()
    return 1 + lines.index("        raise error")


def test_an_error_that_users_can_mend_and_an_interrupt_go_through_users_code_as_they_are():
    for error in (XGradCamError("take another layer"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, users_code("cannot make net.py:Net"):
            raise error
        assert caught.value is error


def test_a_syntax_error_names_the_file_that_has_it():
    with (
        pytest.raises(XGradCamError, match=r"^cannot make a: SyntaxError: .* \(own\.py, line 2\)$"),
        users_code("cannot make a"),
    ):
        compile("x = 1\ndef build(:\n", "own.py", "exec")


def test_the_nearest_names_are_given():
    known = ["vgg11", "vgg16", "vgg19", "resnet18", "features.3"]
    assert did_you_mean("feature.3", known) == "; did you mean 'features.3'?"
    assert did_you_mean("vgg61", iter(known), count=2) == "; did you mean 'vgg19' or 'vgg16'?"
    assert did_you_mean("vgg61", known, count=1) == "; did you mean 'vgg19'?"
    assert did_you_mean("swin_t", known) == ""
    assert did_you_mean("vgg61", []) == ""


def test_long_lists_are_cut():
    assert listed(iter("abc"), 3) == "a, b, c"
    assert listed("abcdef", 3) == "a, b, c and 3 more"
    assert listed([], 3) == ""
