"""Does overfitting show in how many linear pieces a tanh network needs? Two moons, three trainings.

A network with 32, 128 and 16 tanh units learns two overlapping half-moons from 200 noisy points. It
is trained without a regularizer, with an L1 penalty, and with an L2 penalty on its weights. During
the training, its LANN complexity is measured on the training points. The tolerance is always the
same. A table compares the complexity at the end with the complexity at the least validation loss. A
figure shows the curves and the decision boundaries of the last networks. The dashed boundaries are
those of the approximations.

Hu, Liu, Bian and Pei, "Measuring Model Complexity of Neural Networks with Curve Activation
Functions", KDD 2020, define the measure, and report that it grows with overfitting and that L1 and
L2 hold it down. The data, the strengths, the optimizer and the lengths of the trainings are chosen
here. So is the complexity by the measured error, which stands beside the one by the propagated
error.

    python examples/overfitting_moons.py --help
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_effcx.functional import LANN, lann_complexity

REGULARIZERS = {"none": 0.0, "l1": 1e-4, "l2": 1e-3}
"""The strength of each regularizer."""
TOLERANCE = 0.1
NOISE = 0.25


@dataclass(frozen=True)
class Moment:
    """The measured values at one step of a training."""

    step: int
    train_accuracy: float
    accuracy: float
    loss: float
    complexity: float
    measured: float


@dataclass(frozen=True)
class Training:
    """One training: its moments, the last network, and the approximation of this network."""

    moments: list[Moment]
    network: nn.Module
    lann: LANN
    x: Tensor
    y: Tensor

    def best(self) -> Moment:
        """Return the moment with the least validation loss."""
        return min(self.moments, key=lambda moment: moment.loss)


def main() -> int:
    """Train, print the table, draw the figure."""
    options = _options()
    torch.set_num_threads(1)
    shares = [i / options.measurements for i in range(options.measurements + 1)]
    steps = sorted({round(options.steps**share) for share in shares})  # at growing distances
    runs: dict[str, list[Training]] = {name: [] for name in REGULARIZERS}
    for seed in range(options.seeds):
        for name, found in runs.items():
            found.append(train(name, seed, steps))
            print(f"seed {seed}, {name}: {found[-1].moments[-1].complexity:.1f}")
    Console().print(table(runs))
    draw(runs, options.figure)
    print(f"curves and decision boundaries: {options.figure}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--steps", type=int, default=4000, help="of each training")
    parser.add_argument("--seeds", type=int, default=5, help="of each regularizer")
    parser.add_argument("--measurements", type=int, default=12, help="during each training")
    parser.add_argument("--figure", type=Path, default=Path("overfitting_moons.png"))
    return parser.parse_args()


def moons(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy points of two half-moons, and the moon of each point."""
    x, y = make_moons(samples, noise=NOISE, random_state=seed)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def train(regularizer: str, seed: int, steps: list[int]) -> Training:
    """Train one network on all points at once, and measure it after the given steps."""
    torch.manual_seed(seed)
    (x, y), validation = moons(200, seed), moons(1000, seed + 10_000)
    network = nn.Sequential(
        nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 128), nn.Tanh(),
        nn.Linear(128, 16), nn.Tanh(), nn.Linear(16, 2),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    moments = []
    for step in range(1, steps[-1] + 1):
        optimizer.zero_grad()
        (cross_entropy(network(x), y) + penalty(network, regularizer)).backward()
        optimizer.step()
        if step in steps:
            moments.append(look(network, step, (x, y), validation))
    return Training(moments, network, lann_complexity(network, x, tolerance=TOLERANCE), x, y)


def penalty(network: nn.Module, regularizer: str) -> Tensor:
    """Return the penalty of the weights, without the biases."""
    weights = torch.cat([p.flatten() for p in network.parameters() if p.dim() > 1])
    total = weights.square().sum() if regularizer == "l2" else weights.abs().sum()
    return REGULARIZERS[regularizer] * total


def look(
    network: nn.Module, step: int, train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]
) -> Moment:
    """Measure a network at one step of its training."""
    with torch.no_grad():
        logits = network(validation[0])
        loss = float(cross_entropy(logits, validation[1]))
        right = [(network(x).argmax(1) == y).float().mean() for x, y in (train, validation)]
    x = train[0]
    propagated = lann_complexity(network, x, tolerance=TOLERANCE).complexity
    measured = lann_complexity(network, x, tolerance=TOLERANCE, error="measured").complexity
    return Moment(step, float(right[0]), float(right[1]), loss, propagated, measured)


def table(runs: dict[str, list[Training]]) -> Table:
    """Show mean and spread over seeds, with a column for each regularizer."""
    found = Table(
        "LANN complexity",
        *runs,
        caption="mean ± standard deviation over seeds; best: at the least validation loss",
    )
    rows: dict[str, Any] = {
        "at the best step": lambda run: run.best().complexity,
        "at the end": lambda run: run.moments[-1].complexity,
        "  minus at the best": lambda run: run.moments[-1].complexity - run.best().complexity,
        "measured, at the best step": lambda run: run.best().measured,
        "measured, at the end": lambda run: run.moments[-1].measured,
        "train accuracy": lambda run: run.moments[-1].train_accuracy,
        "validation accuracy": lambda run: run.moments[-1].accuracy,
    }
    for label, value in rows.items():
        found.add_row(label, *(spread([value(run) for run in same]) for same in runs.values()))
    return found


def spread(values: list[float]) -> str:
    """Write a mean and a standard deviation."""
    all_ = torch.tensor(values)
    return f"{float(all_.mean()):.2f} ± {float(all_.std(unbiased=len(values) > 1)):.2f}"


def draw(runs: dict[str, list[Training]], file: Path) -> None:
    """Draw the curves, and the first seed's decision boundaries."""
    figure, axes = plt.subplots(1, 1 + len(runs), figsize=(4 * (1 + len(runs)), 3.6), dpi=70)
    for name, same in runs.items():
        steps = [moment.step for moment in same[0].moments]
        curves = torch.tensor([[moment.complexity for moment in run.moments] for run in same])
        mean, std = curves.mean(0), curves.std(0, unbiased=len(same) > 1)
        axes[0].plot(steps, mean, label=name)
        axes[0].fill_between(steps, mean - std, mean + std, alpha=0.2)
    axes[0].set(xscale="log", xlabel="step", title="LANN complexity")
    axes[0].legend()
    for ax, (name, same) in zip(axes[1:], runs.items(), strict=True):
        boundary(ax, same[0])
        ax.set_title(f"{name}: {same[0].moments[-1].complexity:.1f}")
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)


def boundary(ax: Any, run: Training) -> None:
    """Draw the decision boundary of a network, and the dashed one of its approximation."""
    across, up = torch.linspace(-2, 3, 200), torch.linspace(-1.5, 2, 200)
    points = torch.cartesian_prod(across, up)
    with torch.no_grad():
        for network, style in ((run.network, "solid"), (run.lann.network, "dashed")):
            margin = (network(points) @ torch.tensor([-1.0, 1.0])).reshape(200, 200).T
            ax.contour(across, up, margin, [0.0], colors="k", linestyles=style)
    ax.scatter(*run.x.T, c=run.y, s=8, cmap="coolwarm")


if __name__ == "__main__":
    sys.exit(main())
