"""Print what the monitor finds in the LightningModules of users, and the support matrix.

    python tests/support/architectures.py            # values, and the reasons where there is none
    python tests/support/architectures.py --write    # update the matrix in examples/README.md

Each module is trained for two epochs of two batches. The printed table has a row for each module
and a column for each measure: the value at the last validation, or the number of the reason for
which the measure was left out. The matrix says only whether a measure has a value.
"""

import argparse
import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from support_matrix import GALLERY, matrix, replaced
from user_architectures import ARCHITECTURES, NETWORKS
from watched_trainings import Training, metrics, watch


def table(found: Mapping[str, Training]) -> Table:
    """Show architectures down, measures across, and the numbered reasons below."""
    numbers: dict[str, int] = {}
    shown = Table("architecture", caption_justify="left", caption_style="")
    for name in metrics():
        shown.add_column(name.replace("_", "\n").replace("/", "\n/"), justify="right")
    for name, training in found.items():
        cells = []
        for measure in metrics():
            if measure in training.values:
                cells.append(number(training.values[measure]))
            elif measure in training.reasons:
                reason = training.reasons[measure]
                cells.append(f"[dim]{numbers.setdefault(reason, len(numbers) + 1)})[/]")
            else:
                cells.append("[red]?[/]")
        shown.add_row(name, *cells)
    lines = [f"{i}) {reason}" for reason, i in numbers.items()]
    shown.caption = "\n".join(lines).replace("[", "\\[")
    return shown


def number(value: float) -> str:
    """Write a value with three digits."""
    return f"{value:.0f}" if abs(value) >= 100 and math.isfinite(value) else f"{value:.3g}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of names of architectures; default: all")
    parser.add_argument("--write", action="store_true", help="update the matrix in the gallery")
    options = parser.parse_args(argv)
    names = [*NETWORKS] if options.write else options.names
    chosen = {k: v for k, v in ARCHITECTURES.items() if not names or any(n in k for n in names)}
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: watch(architecture, Path(folder))
            for name, architecture in track(
                chosen.items(), "training", console=Console(stderr=True)
            )
        }
    if options.write:
        GALLERY.write_text(replaced(GALLERY.read_text(), matrix(found)))
        return
    shown = table(found)
    Console(width=Console(width=sys.maxsize).measure(shown).maximum).print(shown)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # the monitor's own are collected
    for logger in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    main()
