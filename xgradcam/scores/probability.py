"""Probabilities from class scores: the rule for it shows in their graph and in their values."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from xgradcam.errors import XGradCamError, shown

# From class scores (N, classes) to probabilities; none: the scores are probabilities.
PROBABILITY_RULES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"softmax": lambda s: s.softmax(dim=1), "sigmoid": torch.sigmoid, "exp": torch.exp, "none": lambda s: s}
)
# The last operation of a model, and the rule for what it returns.
_LAST = dict.fromkeys(("Softmax", "Sigmoid", "Hardsigmoid"), "none")
_LAST |= dict.fromkeys(("LogSoftmax", "LogSigmoid"), "exp")
# Names in the graph: operations that keep the values, linear layers, and operations whose values may be in
# [0, 1] by design. The names of PyTorch's own operations end in a digit; what others do cannot be known.
_KEEPS = re.compile("(ToCopy|Clone|View|UnsafeView|Alias|Squeeze|Unsqueeze|Permute|T|Transpose|Slice|Select"
                    "|Index|IndexSelect|Split|SplitWithSizes|Expand|ReshapeAlias)Backward")  # fmt: skip
_LINEAR = re.compile("(Addmm|Mm|Addmv|Mv|Bmm|Baddbmm|Convolution|Linear|Trilinear)Backward")
_SQUASHES = re.compile("Softmax|Sigmoid|Exp(?!and)|Tanh|Clamp|Hardtanh|Backward$")


# Those that also multiply tensors of the network itself, such as the shares of experts and what they say.
_PRODUCT = re.compile("(Mm|Mv|Bmm)Backward")


def probability_rule(scores: Tensor) -> tuple[str, str]:
    """A key of `PROBABILITY_RULES` for what a model returned, (N, classes), and the reason; '' for logits.

    The operation that made the scores decides. Where it says nothing, the values of all samples do.
    """
    node = _source(scores.grad_fn)
    last = _name(node)
    if last in _LAST:
        return _LAST[last], f"the model ends in a {re.sub('(?<=g)(?=S)', '-', last).lower()}"
    if not _is_layer(node):
        values = scores.detach().float()
        rounding = 4e-3 if scores.dtype in (torch.bfloat16, torch.float16) else 1e-4
        kinds = (("none", values, "probabilities"), ("exp", values.exp(), "logarithms of probabilities"))
        for rule, shares, what in kinds:
            if not (shares >= 0).all():
                continue
            whole = (shares.sum(dim=1) - 1).abs() <= rounding
            each = (rule == "none" or last == "Log") and (shares <= 1).all()
            if (scores.shape[1] > 1 and whole.all()) or (each and _may_squash(node)):
                return rule, f"the outputs look like {what}"
    return ("sigmoid" if scores.shape[1] == 1 else "softmax"), ""


def require_rule(probability: str | None, classes: int = 0) -> None:
    """Raise XGradCamError for what is neither None nor a key of `PROBABILITY_RULES`, or says nothing."""
    if probability == "softmax" and classes == 1:
        raise XGradCamError(
            "the softmax of a single output is always 1: take probability= (--probability) sigmoid, or none"
        )
    if probability not in (None, *PROBABILITY_RULES):
        raise XGradCamError(f"no probability {shown(probability)}: give {', '.join(PROBABILITY_RULES)}")


def probability_note(rule: str, reason: str, classes: int) -> tuple[str, ...]:
    """The line on probabilities that are no softmax of logits, if they are not; see `probability_rule`."""
    if not reason:
        single = "one output: the probability is its sigmoid, that of the positive class"
        return (single,) if classes == 1 else ()
    guess = "; if not, say so by probability= (--probability)" if "look like" in reason else ""
    return (
        f"probabilities explained: {reason}{', undone by exp' * (rule == 'exp')}; near 0 and 1 these hardly "
        f"change: better explain the logits, without the last layer or by output= (--output){guess}",
    )


def _name(node: Any) -> str:
    return "" if node is None else str(node.name()).partition("Backward")[0]


def _source(node: Any) -> Any:
    """The operation that made the values, behind those that keep them; None for a tensor without a graph."""
    while node is not None and _KEEPS.match(node.name()):
        node = node.next_functions[0][0]
    return node


def _is_layer(node: Any) -> bool:
    """True for a linear operation with weights. A product of two other tensors may be of probabilities."""
    if node is None or not _LINEAR.match(node.name()):
        return False
    sources = [_source(behind) for behind, _ in node.next_functions]
    weighted = any(isinstance(getattr(one, "variable", None), nn.Parameter) for one in sources)
    return weighted or not _PRODUCT.match(node.name())


def _are_shares(node: Any) -> bool:
    """True for what a softmax or a sigmoid made, and for several of these in one tensor."""
    node = _source(node)
    if _name(node) in ("Cat", "Stack"):
        return all(_are_shares(behind) for behind, _ in node.next_functions)
    return _LAST.get(_name(node)) == "none"


def _may_squash(node: Any) -> bool:
    """True unless all operations from the last linear layers to this one are known, and none squashes."""
    waiting, seen = [node], set()
    while waiting:
        node = waiting.pop()
        if node is None or _SQUASHES.search(node.name()):
            return True
        if node in seen:
            continue
        seen.add(node)
        if not _LINEAR.match(node.name()):
            waiting += [behind for behind, _ in node.next_functions if behind is not None]
        elif all(_are_shares(behind) for behind, _ in node.next_functions):
            return True
    return False
