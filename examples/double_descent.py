"""Where does the test error peak? Where a training fits just as many samples as it is given.

Networks with one hidden layer are trained on scikit-learn's digits. A fifth of the labels is wrong.
As the networks become wider, the test error falls, rises, and falls again. The example also finds
the effective model complexity of each width: it trains this width on more and more samples. The
test error peaks where this complexity is about the number of samples at hand (Nakkiran et al.
2020).

    python examples/double_descent.py --help
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_effcx.studies import double_descent

WIDTHS = [5, 7, 10, 14, 20, 28, 56, 160]
SAMPLES = 512
"""The number of samples at hand."""
POOL = 2
"""The complexities are sought among this many times as many samples."""


class Classifier(LightningModule):
    """A network with one hidden layer, and no regularizer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the classes."""
        return self.network(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        x, y = batch
        return cross_entropy(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Use Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.03)


def trainer(epochs: int) -> Trainer:
    """Make a Trainer that logs and saves nothing."""
    return Trainer(max_epochs=epochs, accelerator="cpu", barebones=True)


def main() -> int:
    """Study all widths, print the table, draw the figure."""
    options = _options()
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    pool, test = order[: POOL * SAMPLES], order[POOL * SAMPLES :]
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as executor:
        study = double_descent(
            {width: partial(Classifier, width) for width in options.widths},
            (x[pool], y[pool]),
            test=(x[test], y[test]),
            samples=SAMPLES,
            repeats=options.repeats,
            label_noise=options.noise,
            make_trainer=partial(trainer, options.epochs),
            executor=executor,
            folder=options.folder,
            batch_size=256,
        )
    Console().print(study.as_table())
    study.plot().savefig(options.figure, dpi=120)
    print(f"The figure is {options.figure}.")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    add = parser.add_argument
    add("--widths", type=int, nargs="+", default=WIDTHS, help="(%(default)s)")
    add("--epochs", type=int, default=300, help="of each training (%(default)s)")
    add("--repeats", type=int, default=3, help="of each training (%(default)s)")
    add("--noise", type=float, default=0.2, help="wrong labels (%(default)s)")
    add("--processes", type=int, default=2, help="that train at the same time (%(default)s)")
    add("--folder", type=Path, help="keep results, and go on from them")
    add("--figure", type=Path, default=Path("double_descent.png"), help="(%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
