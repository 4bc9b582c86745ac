"""Print tables of an evaluation: for each measure, methods by layers, as Markdown.

    python scripts/summarise_evaluation.py FOLDER [MEASURE ...]

FOLDER is the output folder of `python -m xgradcam.evaluation`; without measures, all that it has are printed.
"""

import argparse
import csv
from pathlib import Path

from xgradcam.evaluation.measures import MEASURES
from xgradcam.evaluation.tables import ARROWS, Mean, best_of, cell


def means_in(folder: Path) -> dict[tuple[str, str, str], Mean]:
    """The means of an evaluation by measure, method and layer."""
    with (folder / "evaluation.csv").open(newline="", encoding="utf-8") as file:
        return {
            (row["measure"], row["method"], row["layer"]): Mean(
                float(row["mean"]), float(row["low"]), float(row["high"]), int(row["photographs"])
            )
            for row in csv.DictReader(file)
        }


def table(means: dict[tuple[str, str, str], Mean], measure: str) -> list[str]:
    """The lines of a measure's table: a row for each method, a column for each layer."""
    methods = list(dict.fromkeys(method for name, method, _ in means if name == measure))
    layers = list(dict.fromkeys(layer for name, _, layer in means if name == measure))
    columns = {
        layer: [means[key] for key in means if key[0] == measure and key[2] == layer] for layer in layers
    }
    best = {layer: best_of(measure, column) for layer, column in columns.items()}
    lines = [f"| method | {' | '.join(f'`{layer}`' for layer in layers)} |", "|---" * (len(layers) + 1) + "|"]
    for method in methods:
        cells = [cell(means.get((measure, method, layer)), best[layer]) for layer in layers]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description="tables of an evaluation: methods by layers")
    parser.add_argument("folder", type=Path, help="the evaluation's output folder")
    parser.add_argument("measures", nargs="*", choices=[[], *MEASURES], help="measures; default: all")
    arguments = parser.parse_args()
    means = means_in(arguments.folder)
    found = [name for name in MEASURES if any(name == key[0] for key in means)]
    for name in arguments.measures or found:
        measure = MEASURES[name]
        print(f"{measure.title}{ARROWS[measure.more_is_better]}\n", *table(means, name), "", sep="\n")


if __name__ == "__main__":
    main()
