import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch

from xgradcam.errors import XGradCamError
from xgradcam.lending.precision import BF16, FLOAT32, TF32, computing_in, is_coarse, tf32_switches


def values():
    return [getattr(backend, name) for backend, name in tf32_switches()]


@pytest.fixture(params=[True, False], ids=["on", "off"])
def callers(request):
    """TF32 as the caller has it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = request.param
    yield values()
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize(("precision", "on"), [(FLOAT32, False), (TF32, True), (BF16, False)])
def test_a_precision_holds_in_its_block_and_the_callers_after_it(callers, precision, on):
    with computing_in(precision, "cpu"):
        assert all((value in ("tf32", True)) == on for value in values())
        assert torch.is_autocast_enabled("cpu") == (precision == BF16)
    assert values() == callers
    assert not torch.is_autocast_enabled("cpu")


def test_the_callers_precision_is_back_after_an_error(callers):
    with pytest.raises(ZeroDivisionError), computing_in(TF32, "cpu"):
        raise ZeroDivisionError
    assert values() == callers


def test_float32_is_exact_within_the_callers_autocast():
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert (weight @ weight).dtype == torch.bfloat16
        with computing_in(FLOAT32, "cpu"):
            assert (weight @ weight).dtype == torch.float32


def test_numbers_are_coarse_by_their_type_and_on_a_gpu_by_tf32():
    with computing_in(TF32, "cpu"):
        assert not is_coarse(torch.ones(1))
        assert is_coarse(torch.ones(1, dtype=torch.bfloat16))
        assert is_coarse(torch.ones(1, dtype=torch.float16))
        if torch.cuda.is_available():
            assert is_coarse(torch.ones(1, device="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float32_on_a_gpu_is_that_of_the_cpu():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(512, 512, generator=generator) for _ in range(2))
    expected = one.double() @ other.double()
    error = {}
    for precision in (FLOAT32, TF32):
        with computing_in(precision, "cuda"):
            error[precision] = float(((one.cuda() @ other.cuda()).cpu() - expected).abs().max())
    assert error[FLOAT32] < 1e-4 < error[TF32]


@contextmanager
def elsewhere(precision, device="cuda"):
    """Another thread that computes in this precision until the end."""
    begun, over = threading.Event(), threading.Event()

    def compute():
        with computing_in(precision, device):
            begun.set()
            assert over.wait(20)

    with ThreadPoolExecutor(1) as thread:
        work = thread.submit(compute)
        assert begun.wait(20)
        try:
            yield over
        finally:
            over.set()
            work.result(20)


@pytest.mark.parametrize("precision", [FLOAT32, TF32])
def test_threads_in_one_precision_leave_the_callers_in_any_order(callers, precision):
    with elsewhere(precision) as over:
        with computing_in(precision, "cuda"):
            assert all((value in ("tf32", True)) == (precision == TF32) for value in values())
        assert all((value in ("tf32", True)) == (precision == TF32) for value in values())
    assert over.is_set()
    assert values() == callers
    with computing_in(precision, "cuda"), elsewhere(precision):
        pass
    assert values() == callers


def test_threads_in_two_precisions_on_a_gpu_are_refused(callers):
    with elsewhere(TF32):
        with pytest.raises(XGradCamError, match="another thread computes in another precision"):
            with computing_in(FLOAT32, "cuda"):
                raise AssertionError
        with computing_in(FLOAT32, "cpu"):  # which has no TF32
            assert all(value in ("tf32", True) for value in values())
        assert all(value in ("tf32", True) for value in values())
    assert values() == callers
    with computing_in(TF32, "cuda"), computing_in(FLOAT32, "cuda"):
        assert not any(value in ("tf32", True) for value in values())
    assert values() == callers
