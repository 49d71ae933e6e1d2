"""Where does the test error peak? Where a training fits just as many samples as it is given.

Networks with one hidden layer, of random units, fit scikit-learn's digits by least squares, with a
fifth of the labels wrong. Wider ones first do better, then worse, then better again. The effective
model complexity of each width, found by training it on more and more samples, tells where: the test
error peaks where it is about the number of samples at hand (Nakkiran et al. 2020).

Least squares puts the samples in their classes well before it fits their scores, and where it fits
these the test error peaks. So epsilon is a hundredth here: at the paper's tenth the complexities
are about one and a half times as large, and that at the peak is 2.2 times the number of samples.

    python examples/double_descent.py --help
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_effcx.studies import double_descent

WIDTHS = [12, 25, 50, 100, 140, 170, 200, 230, 270, 350, 500, 700]
SAMPLES = 200
"""How many samples are at hand;"""
POOL = 3
"""and among how many times as many the complexities are sought."""


class RandomFeatures(LightningModule):
    """A hidden layer that stays as it is drawn; the step of the one epoch solves for the last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.hidden = nn.Sequential(nn.Linear(64, width), nn.ReLU()).double()
        self.output = nn.Linear(width, 10, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes."""
        return self.output(self.hidden(x))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Find the least-squares solution, that of least norm if there are many."""
        x, y = batch
        targets = nn.functional.one_hot(y, 10).double() - 0.1
        with torch.no_grad():
            solution = torch.linalg.lstsq(self.hidden(x), targets, driver="gelsd").solution
            self.output.weight.copy_(solution.T)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Lightning wants one."""
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer() -> Trainer:
    """Make a Trainer for one epoch of one step."""
    return Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def main(argv: list[str] | None = None) -> int:
    """Study all widths, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="of each training (%(default)s)")
    parser.add_argument("--noise", type=float, default=0.2, help="wrong labels (%(default)s)")
    parser.add_argument("--epsilon", type=float, default=0.01, help="of the EMC (%(default)s)")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="(%(default)s)")
    parser.add_argument("--folder", type=Path, help="keep results there, and go on from there")
    parser.add_argument(
        "--figure", type=Path, default=Path("double_descent.png"), help="(%(default)s)"
    )
    options = parser.parse_args(argv)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16), torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    pool, test = order[: POOL * SAMPLES], order[POOL * SAMPLES :]
    study = double_descent(
        {width: partial(RandomFeatures, width) for width in options.widths},
        (x[pool], y[pool]),
        test=(x[test], y[test]),
        samples=SAMPLES,
        epsilon=options.epsilon,
        repeats=options.repeats,
        label_noise=options.noise,
        make_trainer=trainer,
        folder=options.folder,
        batch_size=len(pool),
    )
    Console().print(study.as_table())
    study.plot().savefig(options.figure, dpi=120)
    print(f"The figure is {options.figure}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
