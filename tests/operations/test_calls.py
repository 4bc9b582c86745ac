"""One intercepted operation: its name, its inputs, and what it writes to."""

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xgradcam.operations.calls import Call, depends, substitute, tensors_of


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


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (Tensor.add, "add"),
        (torch.add, "add"),
        (Tensor.add_, "add"),
        (Tensor.__iadd__, "add"),
        (Tensor.__radd__, "add"),
        (torch.ops.aten.add.Tensor, "add"),
        (Tensor.__truediv__, "div"),
        (Tensor.__itruediv__, "div"),
        (Tensor.__rdiv__, "rdiv"),
        (Tensor.__setitem__, "setitem"),
        (functional.relu6, "relu6"),
    ],
)
def test_an_operation_has_one_name_however_it_is_spelled(function: Any, operation: str) -> None:
    assert Call(function, (), {}).operation == operation


def test_what_depends_on_the_layer_is_found_in_any_nesting_once_for_each_place() -> None:
    point, constant = dependent(MAP), torch.nn.Parameter(MAP)
    call = Call(torch.cat, ([point, constant, point],), {"out": {"a": (point,)}})
    assert [one is point for one in call.dependents] == [True, True, True]
    assert [tensor is constant for tensor in tensors_of(call.args)] == [False, True, False]


def test_an_operation_in_place_is_run_on_a_copy() -> None:
    point = dependent(MAP)
    written = Call(Tensor.mul_, (point, 3), {}).run(lambda tensor: tensor.detach())
    torch.testing.assert_close(written, 3 * MAP)
    torch.testing.assert_close(point.detach(), MAP)
    by_name = Call(functional.relu, (), {"input": point, "inplace": True}).run(
        lambda tensor: -tensor.detach()
    )
    torch.testing.assert_close(by_name, (-MAP).relu())
    torch.testing.assert_close(point.detach(), MAP)


def test_substitution_keeps_the_nesting_and_its_types() -> None:
    pair = namedtuple("Pair", ("one", "other"))(torch.ones(1), 2)
    found = substitute({"a": [pair, (torch.zeros(1), "text")]}, lambda tensor: tensor + 5)
    assert type(found["a"][0]) is type(pair)
    assert found == {"a": [(torch.tensor([6.0]), 2), (torch.tensor([5.0]), "text")]}


def test_only_pytorchs_own_operations_are_known_by_their_names() -> None:
    assert Call(functional.relu, (), {}).is_of_torch()
    assert Call(torch.ops.aten.relu.default, (), {}).is_of_torch()
    assert not Call(dependent, (), {}).is_of_torch()
