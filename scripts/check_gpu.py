"""Check xgradcam on a GPU and measure it beside other packages; prints Markdown, and writes JSON.

    pip install '.[bench]' && python scripts/check_gpu.py [--device cpu] [--seconds 300] [--json FILE]

Maps and Eq. 5 against those of the CPU; models that a CUDA graph cannot stand in for; how often a call waits
for the GPU; times and memory over those of a plain forward (`torch.no_grad()`, default settings and memory
format, no graph), without a peer for which the memory is too small; what TF32 and bfloat16 cost and gain; and
the command for a folder. Times are medians of interleaved rounds, each after a call that is not timed,
between CUDA events. Weights are random but for the bundled network's. A part that fails is named, and the
others go on; parts that come after the time given are left out. With `--device cpu` everything runs in a
small form, which shows that the script works.
"""

import argparse
import contextlib
import gc
import json
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from benchmark_folder import COMMAND, photographs, seconds
from benchmark_folder import NETWORKS as FOLDERS
from benchmark_peers import CLASS, NETWORKS, batch, captum_map, installed, network, package_cam, torchcam_map
from measuring import setting, wait_for
from torch import Tensor, nn
from torchvision.models import resnet18

from xgradcam import METHODS, ClassExplanation, Explainer, explain, load_classifier, read_image, verify
from xgradcam.errors import is_out_of_memory
from xgradcam.lending.precision import BF16, FLOAT32, TF32, computing_in
from xgradcam.runs.cores import usable_cores

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PHOTOGRAPHS = ("cat.jpg", "coffee.jpg", "cat-and-coffee.jpg")
BUNDLED = "efficientnet-lite0"
LAYERS = ("bn2", "blocks.6.0.bn2", "blocks.4.2.bn2")
AWKWARD = (
    "reads a number", "counts its calls", "draws", "moves to the CPU", "new numbers", "mask", "waits"
)  # fmt: skip
# Processes that share a folder.
PROCESSES = 4
# The methods of the rows; a map of each.
ROW = ("xgrad-cam",)


@dataclass
class Report:
    """What has been found; all of it is written after each part, in case the next one ends the process."""

    path: Path | None
    device: str
    until: float
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def small(self) -> bool:
        """True where it is only to be shown that the script works."""
        return not self.device.startswith("cuda")

    def table(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print the rows, which have the same keys or a part of the first one's, and keep them."""
        self.found[title] = list(rows)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        print(f"\n{title}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        for row in rows:
            print(f"| {' | '.join(_shown(row.get(column, '-')) for column in columns)} |", flush=True)
        self.write()

    def write(self) -> None:
        """Write the JSON file, if there is to be one."""
        if self.path is not None:
            self.path.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")

    def part(self, check: "Callable[[Report], None]") -> bool:
        """Run a part; False if it failed."""
        name = check.__name__
        if time.monotonic() > self.until:
            print(f"\n{name}: left out, the time is over", flush=True)
            return True
        started = time.monotonic()
        try:
            check(self)
        # A part may fail in any way; the others are measured all the same.
        except Exception:
            print(f"\n{name} failed:\n{traceback.format_exc()}", flush=True)
            self.found[f"{name} failed"] = traceback.format_exc()
            self.write()
            return False
        print(f"\n({name}: {time.monotonic() - started:.0f} s)", flush=True)
        return True


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference over the largest number."""
    one, other = one.detach().double().cpu(), other.detach().double().cpu()
    return float((one - other).abs().max() / other.abs().max())


def largest_difference(one: ClassExplanation, other: ClassExplanation) -> float:
    """Over all maps."""
    return max(difference(one.maps[method], other.maps[method]) for method in other.maps)


def graphs(report: Report) -> None:
    """The Explainer beside `explain`, on inputs that differ from call to call."""
    rows = []
    for name, layer in _networks(report):
        model = network(name, report.device)
        for size in (2,) if report.small else (1, 8):
            rows.append(_graph_row(f"{name}, {size}", model, layer, size, report.device))
    report.table("Explainer and explain: largest difference of the maps over the largest number", rows)


def _graph_row(title: str, model: nn.Module, layer: str, size: int, device: str) -> dict[str, Any]:
    errors, same_notes = [], True
    exact = computing_in(FLOAT32, device.partition(":")[0])
    with exact, Explainer(model, layer) as explainer, torch.random.fork_rng():
        for call in range(6):
            torch.manual_seed(call)
            inputs = torch.randn(size, 3, 224, 224).to(device)
            targets = [None, 3, [call] * size][call % 3] if call > 3 else 3
            found, expected = explainer(inputs, targets), explain(model, inputs, layer, targets)
            errors.append(largest_difference(found, expected))
            same_notes &= found.notes == expected.notes
        return {
            "network, batch": title,
            "largest": max(errors),
            "same notes": same_notes,
            "no graph because": explainer.problem or "-",
        }


class Awkward(nn.Module):
    """A small network whose forward does something that no graph can do, or that no graph may remember."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(16, 5)
        self.kind, self.calls = kind, [0]
        self.scale = 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        """The scores, (N, 5)."""
        maps = self.trunk(inputs)
        if self.kind == "reads a number" and float(maps.sum()) < 0:
            maps = -maps
        if self.kind == "counts its calls":
            self.calls[0] += 1
        if self.kind == "draws":
            maps = maps * torch.rand_like(maps)
        if self.kind == "moves to the CPU":
            maps = maps.cpu().to(inputs.device)
        if self.kind == "new numbers":
            maps = maps * torch.tensor([self.scale], device=inputs.device)
        if self.kind == "waits" and inputs.is_cuda:
            torch.cuda.synchronize()
        if self.kind == "mask":
            maps = maps[:, maps.sum(dim=(0, 2, 3)).argsort() >= 0]
        scores: Tensor = self.head(maps.mean(dim=(2, 3)) * self.scale * (1 + self.calls[0]))
        return scores


def awkward(report: Report) -> None:
    """Models that a graph cannot stand in for: the same maps, and no harm to what comes after."""
    rows = []
    torch.manual_seed(0)
    for kind in ("plain", *AWKWARD, "plain"):
        model = Awkward(kind).to(report.device).eval()
        worst = 0.0
        with Explainer(model, "trunk") as explainer:
            for call in range(8):
                if call == 5:
                    model.scale = 3.0
                if call == 6:
                    model.head.weight.data.mul_(2)
                inputs = torch.randn(2, 3, 32, 32).to(report.device)
                torch.manual_seed(call)
                found = explainer(inputs, 1)
                if kind == "counts its calls":
                    model.calls[0] -= 1
                torch.manual_seed(call)
                worst = max(worst, largest_difference(found, explain(model, inputs, "trunk", 1)))
            reason = explainer.problem[:60]
        _require_unharmed(report.device)
        rows.append({"model": kind, "largest difference": worst, "no graph because": reason or "-"})
    report.table("Awkward models", rows)


def _require_unharmed(device: str) -> None:
    """Raise if random numbers, memory or streams are not what they were."""
    assert len(set(torch.rand(99, device=device).tolist())) > 9
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
        assert not torch.cuda.is_current_stream_capturing()


def _networks(report: Report) -> list[tuple[str, str]]:
    """The networks of the rows with their layers, the bundled one first."""
    names = [BUNDLED] if report.small else [BUNDLED, *(name for name in NETWORKS if name != BUNDLED)]
    return [(name, NETWORKS[name]) for name in names]


def agreement(report: Report) -> None:
    """Every method on the device, exactly in float32, beside the CPU; and Eq. 5."""
    photographs = [read_image(EXAMPLES / name) for name in PHOTOGRAPHS]
    bundled = load_classifier(BUNDLED)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = resnet18().eval()
        noise = torch.randn(2, 3, 64, 64)
    real = torch.cat([bundled.inputs(photograph) for photograph in photographs])
    rows = []
    for method in (name for name, one in METHODS.items() if not one.of_attention):
        row: dict[str, Any] = {"method": method}
        for title, model, inputs, layer in (
            ("ResNet-18, layer3", small, noise, "layer3"),
            (f"{BUNDLED}, bn2", bundled.module, real, "bn2"),
        ):
            if METHODS[method].asks_again and model is bundled.module:
                continue
            try:
                row[title] = _both(model, inputs, layer, method, report.device)
            # The reason stands in the table: the row of one method must not end the part.
            except Exception as error:
                row[title] = str(error).partition("\n")[0][:60]
        rows.append(row)
    for layer in ("layer1", "layer3", "layer4"):
        here = verify(small.cpu(), noise[:1], layer)
        there = verify(small.to(report.device), noise[:1].to(report.device), layer)
        rows.append(
            {
                "method": f"Eq. 5, {layer}: |residual| / tolerance",
                "ResNet-18, layer3": float((there.residual.abs() / there.tolerance).max()),
                f"{BUNDLED}, bn2": f"feature term: {difference(there.feature, here.feature):.1e}",
            }
        )
    report.table(f"{report.device} beside the CPU, float32: largest difference over the largest number", rows)


def _both(model: nn.Module, inputs: Tensor, layer: str, method: str, device: str) -> float:
    here = explain(model.cpu(), inputs, layer, CLASS, [method])
    with computing_in(FLOAT32, device.partition(":")[0]):
        there = explain(model.to(device), inputs.to(device), layer, CLASS, [method])
    return difference(there.maps[method], here.maps[method])


def waits(report: Report) -> None:
    """How often a call waits for the GPU, as PyTorch itself reports it."""
    if report.small:
        return
    name, layer = _networks(report)[0]
    model, inputs = network(name, report.device), batch(4, report.device)
    targets = torch.full((4,), CLASS, device=report.device)
    rows = []
    with Explainer(model, layer) as explainer:
        for _ in range(5):
            explainer(inputs, CLASS), explainer(inputs, targets)
        works: dict[str, Callable[[], object]] = {
            "explain, a class": lambda: explain(model, inputs, layer, CLASS),
            "explain, the highest score": lambda: explain(model, inputs, layer),
            "explain, classes on the GPU": lambda: explain(model, inputs, layer, targets),
            "Explainer, a class": lambda: explainer(inputs, CLASS),
            "Explainer, classes on the GPU": lambda: explainer(inputs, targets),
        }
        for title, work in works.items():
            work()
            rows.append({"call": title, "waits": _waits(work)})
    report.table("How often a call waits for the GPU", rows)


def _waits(work: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(one.message) for one in told)


def milliseconds(work: Callable[[], object], device: str, repeats: int = 1) -> float:
    """The time of a call, between two events of the GPU; the mean of some calls in a row."""
    wait_for(device)
    if not device.startswith("cuda"):
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        return (time.perf_counter() - started) * 1e3 / repeats
    # PyTorch gives its events no types.
    events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
    start, end = events
    start.record()
    for _ in range(repeats):
        work()
    end.record()
    wait_for(device)
    return float(start.elapsed_time(end)) / repeats


def rates(report: Report) -> None:
    """The times of a map of each of a batch, over those of a plain forward."""
    title, rows = "A map of each of a batch, a plain forward = 1", []
    sizes = (1,) if report.small else (1, 8, 32, 256)
    for size in sizes:
        for name, layer in _networks(report):
            if time.monotonic() < report.until:
                rows.append(_rate(report, name, layer, size))
                report.found[title] = rows
                report.write()
    report.table(title, rows)


def _rate(report: Report, name: str, layer: str, size: int) -> dict[str, Any]:
    if not report.small:
        # What earlier rows held in pieces is too little for a large batch.
        gc.collect()
        torch.cuda.empty_cache()
    device, inputs, peers = report.device, batch(size, report.device), installed()
    ours, model = network(name, device), network(name, device, plain=True)
    keeping, folding = Explainer(ours, layer, ROW), Explainer(ours, layer, ROW, fold=True)

    def forward() -> None:
        with torch.no_grad():
            model(inputs)

    works: dict[str, Callable[[], object]] = {
        "forward": forward,
        "explain": lambda: explain(ours, inputs, layer, CLASS, ROW),
        "Explainer": lambda: keeping(inputs, CLASS),
        "Explainer, folded": lambda: folding(inputs, CLASS),
    }
    makers = {
        "grad-cam": lambda: package_cam("XGradCAM", model, layer, inputs),
        "torchcam": lambda: torchcam_map(model, layer, inputs),
        "captum": lambda: captum_map(model, layer, inputs),
    }
    for _ in range(4):
        keeping(inputs, CLASS), folding(inputs, CLASS)
    contenders = [*works, *(peer for peer in makers if peer in peers)]
    times: dict[str, list[float]] = {key: [] for key in contenders}
    repeats = 1 if report.small or size > 32 else 5
    started = time.monotonic()
    while len(times["forward"]) < (1 if report.small else 3) or (
        time.monotonic() - started < (0 if report.small else 2.5) and len(times["forward"]) < 15
    ):
        for key in [*contenders]:
            # Theirs cannot do without; grad-cam's slowness must not eat up the time.
            model.requires_grad_(key in peers)
            few = 1 if key == "grad-cam" else repeats
            if not report.small and size > 32:
                torch.cuda.empty_cache()  # else what one holds in pieces is too little for the next
            try:
                with makers[key]() if key in peers else contextlib.nullcontext(works[key]) as work:
                    with contextlib.redirect_stderr(None):
                        work()
                        times[key].append(milliseconds(work, device, few))
            # A peer may raise anything where memory is short; what else is wrong ends the part.
            except Exception as error:
                if key not in peers or not is_out_of_memory(error):
                    raise
                contenders.remove(key)
            model.zero_grad()
    keeping.close()
    folding.close()
    middle = {key: statistics.median(times[key]) for key in contenders}
    row: dict[str, Any] = {"network, batch": f"{name}, {size}", "forward, ms": middle["forward"]}
    row |= {key: middle[key] / middle["forward"] for key in contenders[1:]}
    problem = keeping.problem or folding.problem or "-"
    fastest = min((middle[key] for key in contenders if key in peers), default=float("nan"))
    return row | {"fastest peer / Explainer": fastest / middle["Explainer"], "no graph": problem}


def memory(report: Report) -> None:
    """Peak memory of 32 photographs, over that of a plain forward."""
    if report.small:
        return
    rows = []
    for name, layer in _networks(report):
        model, inputs = network(name, report.device, plain=True), batch(32, report.device)
        explainer = Explainer(model, layer, ROW)
        for _ in range(4):
            explainer(inputs, CLASS)

        def forward(model: nn.Module = model, inputs: Tensor = inputs) -> None:
            with torch.inference_mode():
                model(inputs)

        plain, held = _peak(forward)
        row: dict[str, Any] = {"network": name, "forward, MB": plain / 2**20}
        # Called before the loop goes on.
        for title, work in {
            "explain": lambda: explain(model, inputs, layer, CLASS, ROW),  # noqa: B023
            "Explainer": lambda: explainer(inputs, CLASS),  # noqa: B023
        }.items():
            peak, _ = _peak(work)
            row[title] = peak / plain
        row["held by all, MB"] = held / 2**20
        explainer.close()
        rows.append(row)
    report.table("Peak memory, 32 photographs, a plain forward = 1", rows)


def _peak(work: Callable[[], object]) -> tuple[float, float]:
    work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated()), float(torch.cuda.memory_reserved())


def precision(report: Report) -> None:
    """What TF32 and bfloat16 change in the maps of the bundled network, and the times of the Explainer."""
    kind = report.device.partition(":")[0]
    classifier = load_classifier(BUNDLED).to(torch.device(report.device))
    real = torch.cat([classifier.inputs(read_image(EXAMPLES / name)) for name in PHOTOGRAPHS])
    rows: list[dict[str, Any]] = []
    for layer in LAYERS[: 1 if report.small else None]:
        with computing_in(FLOAT32, kind):
            exact = explain(classifier.module, real, layer, methods=["xgrad-cam", "hires-cam"])
        for coarse in (TF32, BF16):
            with computing_in(coarse, kind):
                found = explain(classifier.module, real, layer, exact.targets, ["xgrad-cam", "hires-cam"])
            heat = [one.heatmap("xgrad-cam", (224, 224)) for one in (found, exact)]
            rows.append(
                {
                    "layer, precision": f"{layer}, {coarse}",
                    **{method: difference(found.maps[method], exact.maps[method]) for method in exact.maps},
                    "heatmaps": float((heat[0] - heat[1]).abs().max()),
                    "logits": difference(found.logits, exact.logits),
                }
            )
    report.table(
        "Errors: largest difference over the largest number, bundled network, three photographs", rows
    )
    rows = []
    size = 2 if report.small else 256
    for name, layer in _networks(report):
        inputs, model = batch(size, report.device), network(name, report.device)
        row: dict[str, Any] = {"network, batch": f"{name}, {size}"}
        for level in (FLOAT32, TF32, BF16):
            with computing_in(level, kind), Explainer(model, layer, ROW) as explainer:
                for _ in range(4):
                    explainer(inputs, CLASS)
                # Called before the loop goes on.
                timed = [milliseconds(lambda: explainer(inputs, CLASS), report.device) for _ in range(3)]  # noqa: B023
            row[f"{level}, ms"] = statistics.median(timed)
        rows.append(row)
    report.table("The Explainer in each precision", rows)


def folder(report: Report) -> None:
    """Photographs a second of the command, from start to exit and without the time to start.

    By one process, and by several that share the photographs and the GPU.
    """
    rows = []
    with tempfile.TemporaryDirectory() as place:
        few, many = Path(place, "few"), Path(place, "many")
        counts = (8, 16) if report.small else (8, 2000)
        for where, count in zip((few, many), counts, strict=True):
            photographs(where, count)
        networks, several = (list(FOLDERS)[:1], 2) if report.small else (list(FOLDERS), PROCESSES)
        for name, processes in product(networks, (1, several)):
            how = name, report.device, processes
            start, whole = (
                statistics.median(seconds(COMMAND, where, *how) for _ in range(rounds))
                for where, rounds in ((few, 1 if report.small or processes > 1 else 3), (many, 1))
            )
            rows.append(
                {
                    "network": name,
                    "processes": processes,
                    "photographs": counts[1],
                    "a second": counts[1] / whole,
                    "without start-up": (counts[1] - counts[0]) / (whole - start) if whole > start else "-",
                }
            )
    report.table(f"A folder by the command, {usable_cores()} cores", rows)


PARTS = (graphs, awkward, agreement, waits, rates, precision, folder, memory)


def main(argv: list[str] | None = None) -> int:
    """Check and measure; 0 if no part failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:N, or cpu for a small form")
    parser.add_argument("--seconds", type=float, default=300, help="begin no part after so long (300)")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    names = [part.__name__ for part in PARTS]
    parser.add_argument("--part", nargs="+", choices=names, default=names, help="only these")
    arguments = parser.parse_args(argv)
    report = Report(arguments.json, arguments.device, time.monotonic() + arguments.seconds)
    peers = ", ".join(f"{name} {number}" for name, number in installed().items())
    report.found["setting"] = f"{setting(report.device)}, {peers}"
    print(report.found["setting"], flush=True)
    with _quiet():
        good = [report.part(part) for part in PARTS if part.__name__ in arguments.part]
    return 0 if all(good) else 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    sys.exit(main())
