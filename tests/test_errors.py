"""Errors that users can mend: their kinds, what is made of an error in users' code, and near names."""

import math
import warnings
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from xgradcam import errors
from xgradcam.errors import (
    UNWARNED,
    XGradCamError,
    bounded,
    did_you_mean,
    escaped,
    is_out_of_memory,
    listed,
    shortened,
    shown,
    users_code,
)


def test_every_error_is_caught_as_the_one():
    kinds = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert sorted(kind.__name__ for kind in kinds) == [
        "CannotWriteError",
        "NoGradientError",
        "NotApplicableError",
        "NotFiniteError",
        "NothingFoundError",
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


def test_what_is_no_fault_of_users_code_goes_through_it_as_it_is():
    memory = (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    for error in (XGradCamError("take another layer"), KeyboardInterrupt(), *memory):
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
    assert did_you_mean("vgg61", ["vgg16", "vgg16", "vgg19"]) == "; did you mean 'vgg19' or 'vgg16'?"
    assert did_you_mean("swin_t", known) == ""
    assert did_you_mean("vgg61", []) == ""


def test_long_lists_are_cut():
    assert listed(iter("abc"), 3) == "a, b, c"
    assert listed("abcdef", 3) == "a, b, c and 3 more"
    assert listed([], 3) == ""


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("a\nb\r\t\0", r"a\nb\r\t\x00"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b2J \x7f", r"\x9b2J \x7f"),
        ("cat\u202egpj.exe \u2066 \u200f", r"cat\u202egpj.exe \u2066 \u200f"),
        ("\u2028\u2029\ufeff\u00ad\u200b", r"\u2028\u2029\ufeff\xad\u200b"),
        ("\udcff\ud800", r"\udcff\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("C:\\photos Katze 猫 é\u00a0\u3000", "C:\\photos Katze 猫 é\u00a0\u3000"),
        ("می\u200cخواهم 👩\u200d🚀", "می\u200cخواهم 👩\u200d🚀"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_escaped(text, harmless):
    assert escaped(text) == harmless
    assert escaped(harmless) == harmless


def test_a_long_error_keeps_its_begin_and_the_remedy_at_its_end():
    assert bounded("x" * 600) == "x" * 600
    message = "no key " + "k" * 100_000 + ": name one of the file's"
    cut = bounded(message)
    assert len(cut) == 600
    assert cut.startswith("no key kkk")
    assert cut.endswith("kkk: name one of the file's")
    assert " ... " in cut


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 8.00 EiB for an array"),
        torch.OutOfMemoryError("CUDA: tried to"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a memory object"),
        RuntimeError("could not create a primitive"),
        RuntimeError("can't start new thread"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        cv2.error("Failed to allocate 120000000 bytes in function 'OutOfMemoryError'"),
    ],
    ids=str,
)
def test_too_little_memory_has_many_names(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shape mismatch"), ValueError("memory format"), XGradCamError("not enough memory")],
    ids=str,
)
def test_other_errors_are_not_of_memory(error):
    assert not is_out_of_memory(error)


class Page:
    """An object whose text is long and fails."""

    def __repr__(self):
        raise RuntimeError("asked for its text")


VALUES = {
    "None": None, "True": True, "-3": -3, "1.5": 1.5, "nan": math.nan, "'cat'": "cat",
    "'two\\nlines'": "two\nlines",
    "[0, None, 'a', 1.0]": [0, None, "a", 1.0], "(1,)": (1,), "{'a': 1}": {"a": 1}, "range(0, 3)": range(3),
    "b'abc'": b"abc", "[0, 1, 2, 3, 4, 5, ...]": list(range(10**6)), "a Page": Page(), "[a Page]": [Page()],
    "{'model': a Page}": {"model": Page()}, "the type Page": Page, "the function did_you_mean": did_you_mean,
    "a ndarray float64 (3, 4)": np.zeros((3, 4)), "a Tensor torch.int64 (2,)": torch.tensor([1, 2]),
    "a Linear": nn.Linear(2, 2), "[a Tensor torch.float32 ()]": [torch.tensor(1.0)], "a int": 10**5000,
    f"{10**30}": 10**30, "a generator": (x for x in "ab"), "2j": 2j,
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), VALUES.items(), ids=VALUES)
def test_a_value_is_shown_in_a_few_words(text, value):
    assert shown(value) == text


@pytest.mark.parametrize(
    "value", ["x" * 10**6, b"x" * 10**6, ["x" * 99] * 99, {n: "x" * 99 for n in range(99)}, "\n" * 99]
)
def test_a_long_value_is_shown_in_a_line_of_60_characters(value):
    assert 20 < len(shown(value)) <= 60
    assert "\n" not in shown(value)
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 6) == "abcde…"


def test_a_long_error_in_users_code_is_cut():
    with pytest.raises(XGradCamError) as caught, users_code("cannot make a"):
        raise ValueError("x" * 9999)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("last", [0, 1])
def test_warnings_are_as_the_caller_has_them_once_no_thread_needs_them_away(last):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        users = [ExitStack(), ExitStack()]
        for user in users:
            user.enter_context(UNWARNED)
        for user in (users[1 - last], users[last]):  # in any order
            warnings.warn("nothing to mend", UserWarning, stacklevel=1)
            user.close()
        assert list(warnings.filters) == before
        with pytest.raises(UserWarning, match="something"):
            warnings.warn("something", UserWarning, stacklevel=1)
