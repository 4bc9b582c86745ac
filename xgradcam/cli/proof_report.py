"""The text and the JSON of `proof-verify`: the originals' four lines, or a table of layers."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xgradcam.capture.layers import Layer
    from xgradcam.cli.proving import Proof
    from xgradcam.proof.verification import Contribution, Verification
    from xgradcam.runs.choice import ChosenLayer

VERDICTS = {
    "holds": "Eq. 5 holds",
    "curved": "not a ReLU-CNN: Eq. 5 does not hold by itself, only with the curvature added",
    "open": "Eq. 5 does not close: the terms do not sum to the score",
    "empty": "nothing is verified: the score and all its terms are 0",
}
TERMS = ("score", "feature", "bias", "bypass", "curvature", "residual")
PARTS = ("feature", "bias", "bypass", "curvature", "nowhere")
COLUMNS = ("cells", *PARTS, "cancels", "residual")
LEGEND = (
    "feature, bias, bypass, curvature: shares of the score that have a place on the layer's map",
    "nowhere: the share that has none (-: not known); cancels: all terms' sizes, summed, by the score's size",
)
# Terms this many times as large as the score cancel almost entirely.
CANCELLATION = 1000
MOST_OPERATIONS = 4


@dataclass(frozen=True)
class Row:
    """A layer with its verification, of one sample, or with the problem that prevented it.

    grid: height and width of its maps, if it has any.
    """

    layer: str
    verification: "Verification | None"
    problem: str = ""
    grid: tuple[int, ...] | None = None

    @property
    def parts(self) -> dict[str, float]:
        """The shares of the score by `PARTS`, and `cancels`; without places `nowhere` is NaN, not known."""
        found = self.verification
        if found is None:
            return dict.fromkeys((*PARTS, "cancels"), math.nan)
        budget = found.budget
        if self.grid is None or math.isnan(budget["nowhere"][0]):
            budget |= {part: getattr(found, part) for part in PARTS[:-1]}
            budget["nowhere"] = budget["nowhere"] * math.nan
        shares = {part: float(budget[part][0] / found.score[0]) for part in PARTS}
        return {**shares, "cancels": float(budget["cancellation"][0])}

    @property
    def verdict(self) -> str:
        """A key of `VERDICTS`, or '' without a verification."""
        found = self.verification
        if found is None:
            return ""
        if not found.magnitude.any() and not found.score.any():
            return "empty"
        return "holds" if found.holds.all() else "curved" if found.closes.all() else "open"


def report(
    proof: "Proof", rows: Sequence[Row], several: bool, chosen: "Mapping[str, ChosenLayer]"
) -> tuple[str, dict[str, Any]]:
    """The text that `proof-verify` prints, and the numbers as JSON has them.

    rows: at least one with a verification. several: a table of layers was asked for, not one layer.
    chosen: method -> the layer for it.
    """
    from xgradcam.models.labels import label_of

    classifier, target, others = proof.classifier, proof.target, proof.others
    dtype, (what, interest) = dtype_of(rows), of_interest(proof)
    of_class = {"class_index": target, "class_name": label_of(classifier.labels, target)}
    numbers: dict[str, Any] = {"model": classifier.name, **(proof.record or of_class), "dtype": dtype}
    if others:
        numbers["contrast"] = [
            {"class_index": other, "class_name": label_of(classifier.labels, other)} for other in others
        ]
    if chosen:
        numbers["chosen"] = {
            method: {"layer": layer, "trusted": layer.trusted, "reason": layer.reason}
            for method, layer in chosen.items()
        }
    only = rows[0]
    if several or only.verification is None:
        setting, lines = f"model {classifier.name}, {dtype}", table_lines(rows, classifier.module, chosen)
        holds = all(row.verdict == "holds" for row in rows)
        numbers |= {"holds": holds, "layers": [as_json(row) for row in rows]}
    else:
        setting = f"model {classifier.name}, layer {only.layer}, {dtype}"
        lines = proof_lines(only.layer, only.verification, only.verdict, classifier.module)
        numbers |= {**as_json(only), "contributions": contributions_as_json(only.verification)}
    if proof.own is not None:
        lines = [
            line.replace("class score is", "score is").replace("class_score-", "score-") for line in lines
        ]
    return "\n".join([setting, f"{what} of interest:  {interest}", *lines]), numbers


def of_interest(proof: "Proof") -> tuple[str, str]:
    """The kind of what is explained, such as `class`, and its words."""
    if proof.own is not None:
        return proof.record["what"], proof.record["interest"]
    return "class", class_line(proof.classifier.labels, proof.target, proof.others)


def class_line(labels: Sequence[str] | None, target: int, others: Sequence[int]) -> str:
    """The name of the class, and of those that it is in contrast to."""
    from xgradcam.models.labels import label_of

    against = ", ".join(label_of(labels, other) for other in others)
    return label_of(labels, target) + (f" in contrast to {against}" if others else "")


def grid_of(layer: "Layer") -> tuple[int, ...] | None:
    """The sides of the layer's maps, height and width of images; None if it has none."""
    return None if layer.layout is None else layer.layout.grid


def dtype_of(rows: Sequence[Row]) -> str:
    """The precision that the network ran in: `float32` or `float64`."""
    return next(str(row.verification.dtype) for row in rows if row.verification).removeprefix("torch.")


def proof_lines(layer: str, found: "Verification", verdict: str, model: "nn.Module") -> list[str]:
    """The originals' four lines, the parts of their bias term and difference, and the verdict."""
    number = _number_format([found])
    score, feature, bias, bypass, curvature, residual = (_value(found, term) for term in TERMS)
    lines = [
        f"class score is {score:{number}}",
        f"gradients*feature is {feature:{number}}",
        f"bias_term is {bias + bypass:{number}}",
        f"class_score-gradients*feature-bias_term= {curvature + residual:.3e}",
    ]
    if bypass:
        lines += [
            f"bias_term is bias {bias:{number}} + bypass {bypass:{number}}:",
            f"{layer} does not cut the network, and the bypass is what reaches the score past it",
        ]
    if curvature:
        lines.append(f"the difference is curvature {curvature:{number}} + residual {residual:.3e}")
        lines += curvature_lines(layer, found, model)
    tolerance, ratio = _value(found, "tolerance"), _magnitude_ratio(found)
    sign = "<=" if found.closes.all() else ">"
    lines.append(
        f"|residual| {abs(residual):.3e} {sign} tolerance {tolerance:.3e}, magnitude/|score| {ratio:.4g}"
    )
    if verdict != "empty" and ratio > CANCELLATION:
        lines.append("the score is a cancellation: its terms are that many times as large, with both signs")
    lines.append(f"verdict: {VERDICTS[verdict]}")
    return lines


def table_lines(rows: Sequence[Row], model: "nn.Module", chosen: "Mapping[str, ChosenLayer]") -> list[str]:
    """The score, the layers chosen and the verdicts; then a table of the score's parts at each layer."""
    verified = [(row, row.verification) for row in rows if row.verification is not None]
    number = _number_format([found for _, found in verified])
    lines = [f"class score is {_value(verified[0][1], 'score'):{number}}"]
    lines += [f"for {method} take {layer}, {layer.reason}" for method, layer in chosen.items()]
    worst, loosest = max(verified, key=lambda pair: _residual_ratio(pair[1]))
    holding = sum(row.verdict == "holds" for row in rows)
    closing = sum(bool(found.closes.all()) for _, found in verified)
    lines.append(
        f"{holding} of {len(rows)} layers hold{f' ({closing} close)' if closing > holding else ''}; "
        f"largest |residual|/tolerance {_residual_ratio(loosest):.2g}, at {worst.layer}"
    )
    shown = {row.verdict for row, _ in verified}
    lines += [f"{verdict}: {text}" for verdict, text in VERDICTS.items() if verdict in shown - {"holds"}]
    bent, most = max(verified, key=lambda pair: _curvature_size(pair[1]))
    lines += [*curvature_lines(bent.layer, most, model), *LEGEND]

    cells = {row.layer: _cells(row) for row, _ in verified}
    widths = [max(len(name), *(len(line[i]) for line in cells.values())) for i, name in enumerate(COLUMNS)]
    name_width = max(len("layer"), *(len(row.layer) for row in rows))
    lines.append("  ".join([f"{'layer':{name_width}}", *map(str.rjust, COLUMNS, widths), "verdict"]))
    for row in rows:
        rest = [*map(str.rjust, cells.get(row.layer, []), widths), row.verdict or _short(row)]
        lines.append("  ".join([f"{row.layer:{name_width}}", *rest]))
    return lines


def _cells(row: Row) -> list[str]:
    """The row's cells by `COLUMNS`."""
    grid, parts = "-" if row.grid is None else "x".join(map(str, row.grid)), row.parts
    residual = "" if row.verification is None else _cell(row.verification, "residual", ".1e")
    cancels = f"{parts['cancels']:.1f}" if math.isfinite(parts["cancels"]) else "-"
    return [grid, *(share(parts[part]) for part in PARTS), cancels, residual]


def share(value: float) -> str:
    """A share in per cent; an exact 0 is written as 0, and what is not known as -."""
    return "0" if value == 0 else f"{value:.1%}" if math.isfinite(value) else "-"


def curvature_lines(layer: str, found: "Verification", model: "nn.Module") -> list[str]:
    """The operations that the curvature comes from, by summed absolute contributions; [] without any."""
    sizes: defaultdict[str, float] = defaultdict(float)
    for term in found.contributions:
        if term.kind == "curvature":
            sizes[_operation(term, model)] += float(term.value.abs().sum())
    total = sum(sizes.values())
    if not total:
        return []
    largest = sorted(sizes, key=lambda name: -sizes[name])
    parts = [f"{name} {sizes[name] / total:.1%}" for name in largest[:MOST_OPERATIONS]]
    if len(largest) > MOST_OPERATIONS:
        parts.append(f"others {sum(sizes[name] for name in largest[MOST_OPERATIONS:]) / total:.1%}")
    return [f"curvature at {layer}: {', '.join(parts)}"]


def as_json(row: Row) -> dict[str, Any]:
    """The numbers of a row for JSON: None stands for a number that is not finite."""
    found = row.verification
    if found is None:
        return {"layer": row.layer, "holds": False, "problem": row.problem}
    numbers = {term: _json_number(getattr(found, term)) for term in (*TERMS, "tolerance", "magnitude")}
    return {
        "layer": row.layer,
        **numbers,
        "holds": row.verdict == "holds",
        "closes": bool(found.closes.all()),
        "verdict": VERDICTS[row.verdict],
        "cells": None if row.grid is None else list(row.grid),
        "shares": {part: value if math.isfinite(value) else None for part, value in row.parts.items()},
    }


def contributions_as_json(found: "Verification") -> list[dict[str, Any]]:
    """Each operation's contribution, in the order of execution."""
    return [
        {
            "module": term.module,
            "operation": term.operation,
            "kind": term.kind,
            "value": _json_number(term.value),
        }
        for term in found.contributions
    ]


def _operation(term: "Contribution", model: "nn.Module") -> str:
    """The operation's name, with its module's class where that adds something: `mul (SqueezeExcitation)`."""
    kind = type(model.get_submodule(term.module)).__name__
    plain = term.operation.replace("_", "")
    return term.operation if plain in kind.lower() else f"{term.operation} ({kind})"


def _short(row: Row) -> str:
    """The reason why a layer is not verified, without its name and the remedy."""
    return "not verified: " + row.problem.removeprefix(f"layer '{row.layer}' ").split(": take ")[0]


def _number_format(verifications: Sequence["Verification"]) -> str:
    """A format of six decimals, or of seven digits where the terms are too small or too large for that."""
    largest = max(abs(_value(found, term)) for found in verifications for term in TERMS)
    return ".6f" if largest == 0 or 0.1 <= largest < 1e6 else ".6e"


def _cell(found: "Verification", term: str, number: str) -> str:
    """A number of the table; an exact 0 is written as 0."""
    value = _value(found, term)
    return f"{value:{number}}" if value else "0"


def _value(found: "Verification", term: str) -> float:
    return float(getattr(found, term)[0])


def _json_number(value: "Tensor") -> float | None:
    return float(value[0]) if math.isfinite(value[0]) else None


def _magnitude_ratio(found: "Verification") -> float:
    score = abs(_value(found, "score"))
    return _value(found, "magnitude") / score if score else math.inf


def _residual_ratio(found: "Verification") -> float:
    residual, tolerance = abs(_value(found, "residual")), _value(found, "tolerance")
    return residual / tolerance if tolerance else math.inf if residual else 0.0


def _curvature_size(found: "Verification") -> float:
    return sum(float(term.value.abs().sum()) for term in found.contributions if term.kind == "curvature")
