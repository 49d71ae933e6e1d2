"""How many linear regions has a network while it learns? Three architectures on digits.

Hanin and Rolnick (ICML 2019) counted the linear regions on a line through the origin and a sample.
Before the training there is about one region for each unit, whatever the depth. There are fewer
when the training starts, and more again later. They also found the nearest boundary between 0.4 / N
and 1.5 / N away from a sample, in a network of N units. The example repeats this on scikit-learn's
digits, with their setting: He weights, biases with a standard deviation of 0.001, and Adam. A share
of the training labels is wrong. Learning these by heart takes regions, and brings boundaries
nearer, so that the rise after the dip is easy to see.

    python examples/regions_while_training.py --help
"""

import argparse
import logging
import math
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer, seed_everything
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.callbacks.schedules import Geometric
from lightning_effcx.metrics import BoundaryDistance, CapacityGap
from lightning_effcx.paths import OriginLine

NETWORKS = {"20 x 3": [20] * 3, "32 x 3": [32] * 3, "64 x 4": [64] * 4}
"""The widths of the hidden layers."""
REGIONS, DISTANCE = "effcx/capacity_gap.origin_line", "effcx/boundary_distance.times_units"
BAND = 0.4, 1.5
"""The band of the distance times N that Hanin and Rolnick found."""

Curve: TypeAlias = dict[int, float]
"""Measured values by step."""


class Classifier(LightningModule):
    """An MLP with ReLU."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise([64, *widths, 10]):
            layer = nn.Linear(fan_in, fan_out)
            nn.init.normal_(layer.weight, 0, math.sqrt(2 / fan_in))
            nn.init.normal_(layer.bias, 0, 1e-3)
            layers += [layer, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.layers(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Do nothing: the monitor measures the network after this step."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Use Adam."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def digits(noise: float) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return 1400 training images, some with labels drawn at random, and 397 other images."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    generator = torch.Generator().manual_seed(0)  # every network gets the same labels
    drawn = torch.rand(len(y), generator=generator) < noise
    y = torch.where(drawn, torch.randint(10, y.shape, generator=generator), y)
    train, val = TensorDataset(x[:1400], y[:1400]), TensorDataset(x[1400:], y[1400:])
    return DataLoader(train, batch_size=128, shuffle=True), DataLoader(val, batch_size=397)


def train(widths: list[int], seed: int, options: argparse.Namespace) -> tuple[Curve, Curve]:
    """Train one network, and return regions and distances by step, from step 0 on."""
    seed_everything(seed, verbose=False)
    monitor = ComplexityMonitor(
        [CapacityGap(OriginLine(64)), BoundaryDistance()],
        samples=128,
        every=Geometric(1.4),
        strict=True,
    )
    trainer = Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module, (train_loader, val_loader) = Classifier(widths), digits(options.noise)
    trainer.validate(module, val_loader, verbose=False)
    history = list(monitor.history)
    trainer.fit(module, train_loader, val_loader)
    history += monitor.history
    return tuple(
        {entry["step"]: entry["values"][tag] for entry in history} for tag in (REGIONS, DISTANCE)
    )


def mean(curves: list[Curve]) -> Curve:
    """Return the mean of curves over the same steps."""
    return {step: sum(curve[step] for curve in curves) / len(curves) for step in curves[0]}


def draw(axes: Axes, curves: dict[str, Curve], title: str) -> None:
    """Draw curves over the steps, with step 0 a little left of the first one."""
    for name, curve in curves.items():
        axes.plot([max(step, 3) for step in curve], list(curve.values()), ".-", label=name)
    axes.set(xscale="log", xlabel="step")
    axes.set_title(title, loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)


def picture(regions: dict[str, Curve], distances: dict[str, Curve]) -> Figure:
    """Draw both measures side by side, and the band of the paper."""
    figure = Figure((8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    right.axhspan(*BAND, color="0.93", label="0.4 to 1.5")
    draw(left, regions, "linear regions per unit, line through the origin")
    draw(right, distances, "distance to the nearest boundary, times units")
    left.axhline(1, color="0.8", zorder=0)
    right.set_ylim(0, 1.6)
    right.legend(fontsize="small", frameon=False, ncols=2)
    return figure


def table(regions: dict[str, Curve], distances: dict[str, Curve]) -> Table:
    """Show where the curves start, turn and end."""
    found = Table("network", title="regions per unit; distance times units; means over seeds")
    for column in ("regions: start", "lowest", "end", "distance: start", "highest", "end"):
        found.add_column(column, justify="right")
    for name, curve in regions.items():
        values, away = list(curve.values()), list(distances[name].values())
        row = values[0], min(values), values[-1], away[0], max(away), away[-1]
        found.add_row(name, *(f"{value:.2f}" for value in row))
    return found


def main(argv: list[str] | None = None) -> int:
    """Train all networks, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=150, help="of each training (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="per architecture (%(default)s)")
    parser.add_argument("--noise", type=float, default=0.2, help="random labels (%(default)s)")
    parser.add_argument("--figure", type=Path, default=Path("regions.png"), help="(%(default)s)")
    options = parser.parse_args(argv)

    torch.set_num_threads(1)  # a network this small is no faster on more
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)  # Lightning 2.6 on torch 2.13
    regions: dict[str, Curve] = {}
    distances: dict[str, Curve] = {}
    for name, widths in NETWORKS.items():
        seeds = track(range(options.seeds), f"{name}, {sum(widths)} units")
        runs = [train(widths, seed, options) for seed in seeds]
        regions[name], distances[name] = (mean(list(curves)) for curves in zip(*runs, strict=True))
    Console().print(table(regions, distances))
    picture(regions, distances).savefig(options.figure, dpi=120)
    print(f"The figure is {options.figure}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
