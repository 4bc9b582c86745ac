"""One intercepted operation: its name, its inputs, and what it writes to."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xgradcam.capture.calls import Call, depends


def dependent(value: Tensor) -> Tensor:
    return value.clone().requires_grad_().clone()


MAP = torch.randn(1, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (Tensor.add_, (1,), {}),
        (Tensor.__iadd__, (1,), {}),
        (Tensor.__setitem__, (0, 1.0), {}),
        (functional.hardtanh, (0.0, 6.0, True), {}),
        (functional.relu6, (), {"inplace": True}),
    ],
)
def test_the_destination_of_an_operation_in_place_is_its_first_argument(
    function: Any, args: Any, kwargs: Any
) -> None:
    point = dependent(MAP)
    assert Call(function, (point, *args), kwargs).destination is point


@pytest.mark.parametrize(
    ("function", "args"),
    [(Tensor.add, (1,)), (Tensor.__add__, (1,)), (functional.hardtanh, (0.0, 6.0)), (Tensor.__invert__, ())],
)
def test_other_operations_have_no_destination(function: Any, args: Any) -> None:
    assert Call(function, (dependent(MAP), *args), {}).destination is None


def test_a_parameter_does_not_depend_on_the_layer() -> None:
    weight = torch.nn.Parameter(MAP)
    assert not depends(weight)
    assert depends(dependent(MAP))
