"""The lines that `xgrad-cam` prints during a run, and its progress bars."""

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, TextIO

from xgradcam.cli.depth import depth_lines
from xgradcam.cli.options import BOTH
from xgradcam.cli.proof_report import PARTS
from xgradcam.cli.terminal import note, shown
from xgradcam.cli.truth_options import accuracy_lines, right_or_wrong
from xgradcam.errors import escaped

# Words in the kinds of files that have a plural.
COUNTED = re.compile(r"^(folder|link|result|pipe|icon|video|archive)|(?<=other )file|(?<=hidden )photograph")
# Conservation errors that differ by less than this share are not worth a line.
CLOSE = 0.01
# Nor where the maps are the same, and so differ by rounding, if no more than this of the score.
# The share that plain maps may leave out without a word; that which may have no place.
LITTLE_MISSING, MUCH_NOWHERE = 0.5, 0.2
COINCIDE, ROUNDING = "the two maps coincide", 1e-3
# Of such a map the usual picture is the photograph, but with --signed it is not.
NO_EVIDENCE = "no positive evidence"
# Follows the note on it, which ends in the advice to take an earlier layer.
THERE = ", and {}--method complete-cam shows all of the score there"
# Evaluations that take longer than this are worth a line, in seconds.
LONG = 10


@dataclass
class Console:
    """Prints a run: text, or JSON with the text on stderr; and counts for the last line.

    total: photographs of the run. out: for the JSON, and the text if there is none; stdout by default.
    verdicts: on the predictions. skipped: kinds of what is passed over in folders. written: files of an only
    photograph. signed: pictures have evidence against, too. write: prints a line above a progress bar, where
    there is one.
    """

    prog: str
    json: bool
    quiet: bool
    verbose: bool
    total: int
    out: TextIO | None = None
    earlier: int = 0
    explained: int = 0
    failed: int = 0
    told: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[Any] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    written: list[str] = field(default_factory=list)
    signed: bool = False
    write: Any = None
    bar: Any = None
    begun: tuple[int, float] = (0, 0.0)
    long: bool = False

    def say(self, line: str) -> None:
        """Print a line of text."""
        if not self.quiet:
            self._put(line, sys.stderr if self.json else self.out or sys.stdout)

    def note(self, line: str) -> None:
        """Print a note on stderr."""
        if not self.quiet:
            note(self.prog, f"note: {line}")

    def add_earlier(self, records: Sequence[Mapping[str, Any]] | None) -> None:
        """Count a photograph that an earlier run completed."""
        if records is not None:
            self.earlier += 1
            self._judge(records)
            self._objects(records)

    def tell(self, records: Sequence[Mapping[str, Any]], problem: str) -> None:
        """Print a photograph that is done, or failed."""
        if problem:
            self.failed += 1
            self._put(f"{self.prog}: error: {shown(problem)}", sys.stderr)
            return
        self.explained += 1
        self.told += len(records)
        self._judge(records)
        self._objects(records)
        several, notes = len(records) > 1, Counter[str]()
        if self.total > 1:
            for line in _short(records):
                self.say(line)
        for record in records:
            for line in _long(record, several) if self.total == 1 else ():
                self.say(line)
            notes.update(_to_print(record, self.signed))
            self.written += record["written"] if self.total == 1 else ()
        self.notes.update(notes)
        # Those of an only photograph come with the last lines.
        if self.verbose and self.total > 1:
            self._put_notes(notes, len(records))

    def evaluations(self, done: int, total: int) -> None:
        """Show how many evaluations of the network a method has done for a batch, and will do in all."""
        from tqdm import tqdm

        if self.bar is None:
            silent = True if self.quiet else None
            self.bar = tqdm(
                total=total, unit="run", desc="evaluating", leave=False, position=1, disable=silent
            )
            self.begun = done, monotonic()
        elif not self.long:
            first, since = self.begun
            self._say_if_long(total, total * (monotonic() - since) / max(1, done - first))
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.bar.close()
            self.bar = None

    def _say_if_long(self, evaluations: int, seconds: float) -> None:
        """Say once how long a method takes that asks the network often, by its second batch.

        For a single photograph only on a terminal, as the bar: who reads it later is not waiting.
        """
        if seconds > LONG and (self.total > 1 or sys.stderr.isatty()):
            self.long = True
            each = " for each batch of photographs" if self.total > 1 else ""
            self.note(
                f"a method asks the network {evaluations:,} times, about {seconds:.0f} seconds{each} "
                "(score-cam and ablation-cam: once for each channel); --method chooses others"
            )

    def sum_up(self, folder: Path, how: str = "") -> None:
        """Print the last lines of a run: the notes, each once, and where the results are."""
        if self.total == 1 or not self.verbose:
            self._put_notes(self.notes, self.told)
        for line in accuracy_lines(self.verdicts) if self.total > 1 and not self.quiet else ():
            note(self.prog, line)
        if self.total > 1 and (how or not self.quiet or self.failed):
            photographs = "photograph" if self.explained == 1 else "photographs"
            counts = [f"{self.explained} {photographs} explained", f"{self.failed} failed"]
            counts += [f"{self.earlier} complete before"] if self.earlier else []
            left = self.total - self.explained - self.failed - self.earlier
            counts += [f"{left} not begun or not finished (--resume goes on)"] if left else []
            counted = f"{how + ': ' if how else ''}{', '.join(counts)}; in {folder}"
            note(self.prog, "; ".join([counted, *self._skipped()]))
        elif how:
            note(self.prog, how)
        elif not self.quiet:
            for line in self._skipped():
                note(self.prog, line)
            self._say_place(folder)

    def _put_notes(self, notes: Counter[str], told: int) -> None:
        """Print notes on so many explanations; of how many, unless it is of all of a photograph."""
        for line, count in () if self.quiet else notes.most_common():
            is_all = count == told and (self.verbose or self.total == 1)
            of = "" if is_all else f"{count} of {told} explanations: "
            self._put(f"{self.prog}: note: {of}{shown(line)}", sys.stderr)

    def _say_place(self, folder: Path) -> None:
        """Print where the files of an only photograph are."""
        place = "the current folder" if folder == Path() else str(folder)
        # Those of several classes or layers are named with each.
        if self.written and self.told > 1:
            self.say(f"wrote {len(self.written)} files, in {place}")
        elif self.written:
            self.say(f"wrote {_and(self.written)}{', in the current folder' * (folder == Path())}")
        elif self.earlier:
            self.say(f"complete before; in {place}")

    def _judge(self, records: Sequence[Mapping[str, Any]]) -> None:
        from xgradcam.runs.verdicts import verdicts_on

        self.verdicts.update(verdicts_on([records]))

    def _skipped(self) -> list[str]:
        """The kinds of what was passed over, and how many of each; nothing where there is none."""
        kinds = []
        for kind, count in self.skipped.most_common():
            words = kind if count == 1 else COUNTED.sub(r"\g<0>s", kind)
            kinds.append(f"{count} {words}")
        return [f"skipped: {', '.join(kinds)}"] if kinds else []

    def _objects(self, records: Sequence[Mapping[str, Any]]) -> None:
        if self.json:
            for record in records:
                self._put(json.dumps(record, allow_nan=False), self.out or sys.stdout)

    def _put(self, line: str, stream: Any) -> None:
        line = escaped(line)
        if self.write is None:
            print(line, file=stream, flush=True)
        else:
            self.write(line, file=stream)
            stream.flush()


def _short(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines on one of many photographs: of each class one, however many layers there are."""
    several = len({record["layer"] for record in records}) > 1
    lines = [
        line
        for record in records
        for line in (_short_line(record), *_axioms(record, f"{record['layer']}, " if several else ""))
    ]
    return list(dict.fromkeys(lines))


def _short_line(record: Mapping[str, Any]) -> str:
    if "interest" in record:
        words = f"{record['what']}: {record['interest']}, score {record['score']:.4f}"
    else:
        words = (
            f"{record['class_name']} (class {record['class_index']}), "
            f"score {record['score']:.4f}, probability {record['probability']:.1%}"
        )
    verdict = right_or_wrong(record)
    return f"{record['image']}: {words}{verdict and f'; {verdict}'}"


def _axioms(record: Mapping[str, Any], layer: str = "") -> list[str]:
    """The errors that --axioms asks for, a line for each method; layer: begins it, if there are several."""
    conservation, sensitivity = record.get("conservation_error", {}), record.get("sensitivity_error", {})
    return [
        f"{layer}{method}: conservation error {_digits(conservation[method])}, "
        f"sensitivity error {_digits(error)}"
        for method, error in sensitivity.items()
    ]


def _conservation(record: Mapping[str, Any]) -> list[str]:
    """The share of the score that Grad-CAM's and XGrad-CAM's maps leave out, where it is not the same."""
    every = record.get("conservation_error", {})
    errors = {method: every[method] for method in BOTH if every.get(method) is not None}
    if len(errors) < len(BOTH):
        return []
    difference = max(errors.values()) - min(errors.values())
    same = any(line.startswith(COINCIDE) for line in record["notes"])
    if difference <= max(CLOSE * max(errors.values()), ROUNDING if same else 0):
        return []
    listed = ", ".join(f"{method} {_digits(error)}" for method, error in errors.items())
    return [f"conservation error (0: the map adds up to the score): {listed}"]


def _budget(record: Mapping[str, Any]) -> list[str]:
    """The parts of the score, where that changes how a map is to be read."""
    budget, score = record.get("budget", {}), record["score"]
    if budget.get("feature") is None or not score:
        return []
    shares = {term: (budget.get(term) or 0) / score for term in PARTS}
    feature = shares["feature"]
    if "nowhere" in budget:
        # A share that rounds to 0 has no sign.
        parts = ", ".join(f"{term} {round(share, 3) + 0:.1%}" for term, share in shares.items())
        cancels = budget.get("cancellation") or math.inf
        lines = [f"parts of the score: {parts}; its terms are {cancels:.3g} times as large, with both signs"]
        if abs(shares["nowhere"]) > MUCH_NOWHERE:
            lines.append(
                "nowhere: constants behind pooling, class tokens and the like, which no map can show"
            )
        return lines
    if abs(feature - 1) <= LITTLE_MISSING:
        return []
    return [
        f"{feature:.0%} of the score is in this layer's features, the rest in constants behind it: "
        f"{'a plain CAM shows little here' if abs(feature) < 1 else 'a plain CAM misleads here'}, "
        "--method complete-cam shows all"
    ]


def _digits(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.4g}"


def _long(record: Mapping[str, Any], several: bool = False) -> list[str]:
    """The lines on an only photograph; the original scripts' line comes first. several: with its files."""
    if "interest" in record:
        lines = [f"{record['what']} of interest:  {record['interest']}", f"score {record['score']:.4f}"]
    else:
        lines = [
            f"class of interest:  {record['class_name']}",
            f"class {record['class_index']}: score {record['score']:.4f}, "
            f"probability {record['probability']:.1%}, rank {record['rank']} of {record['classes']}",
        ]
    lines += [verdict] if (verdict := right_or_wrong(record)) else []
    return [
        *lines,
        f"model {record['model']}, layer {record['layer']}",
        *(_axioms(record) or _conservation(record)),
        *_budget(record),
        *depth_lines(record),
        *_finer(record),
        *([f"wrote {_and(record['written'])}"] if several else []),
    ]


def _finer(record: Mapping[str, Any]) -> list[str]:
    """The line on what is seen in pictures of two layers."""
    lines = []
    for method, layer in record.get("finer_layer", {}).items():
        files = record["files"]
        seen = f"{files[method]} shows all of the score at a finer layer, {layer}"
        if any(line.startswith(COINCIDE) for line in record["notes"]):
            same = " and ".join(files[one] for one in BOTH)
            seen = f"{same} are the same, as at any layer that only pooling and a linear layer follow; {seen}"
        lines.append(seen)
    return lines


def _to_print(record: Mapping[str, Any], signed: bool) -> list[str]:
    """The notes on these pictures without what the lines say, and with the remedy where maps coincide."""
    notes = []
    for line in record["notes"]:
        if signed and line.startswith(NO_EVIDENCE):
            notes.append(line.partition(";")[0] + "; its picture shows the evidence against")
        elif not line.startswith(COINCIDE):
            notes.append(line)
        elif "finer_layer" not in record:
            notes.append(line + THERE.format(_at_finer(record)))
    return notes


def _at_finer(record: Mapping[str, Any]) -> str:
    """The option of the earlier layer, of the network for which it is known; empty for others."""
    from xgradcam.models.catalogue import BUNDLED
    from xgradcam.models.efficientnet_lite0 import FINER_LAYER

    return f"--target-layer {FINER_LAYER} " if record["model"] == BUNDLED else ""


def _and(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
