"""Can a shallow network do what a deep one does? Digits with wrong labels, learned in two ways.

A teacher with three hidden layers and dropout learns scikit-learn's digits. A fifth of the labels
is wrong. Students with one hidden layer are fitted to the same images in two ways: to the logits of
the teacher, and to the labels that the teacher had. Both start from the same weights and take as
many steps. A table and a figure compare them at new images, whose labels are right.

Ba and Caruana, "Do Deep Nets Really Need to be Deep?", NIPS 2014, fit students in these two ways,
and find that shallow networks can do what they cannot learn. Their data are speech and photographs,
and they have logits of far more samples than labels. Here there are logits of the training images
alone. A student without dropout learns the wrong labels by heart.

    python examples/shallow_mimic.py --help
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_effcx.compare.formats import width_of
from lightning_effcx.studies import mimic

SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
WRONG = 0.2


def main() -> int:
    """Train the teacher, fit the students, print the table, draw the figure."""
    options = _options()
    torch.set_num_threads(1)
    train, test = digits()
    study = mimic(
        teacher(*train, options.epochs),
        train,
        held_out=test,
        students=SIZES,
        steps=options.steps,
        folder=options.folder,
    )
    table = study.as_table()
    Console(width=width_of(table)).print(table)
    study.plot().savefig(options.figure)
    print(f"students and teacher: {options.figure}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=100, help="of the teacher")
    parser.add_argument("--steps", type=int, default=300, help="of each student")
    parser.add_argument("--folder", type=Path, help="keep results, and go on from them")
    parser.add_argument("--figure", type=Path, default=Path("shallow_mimic.png"))
    return parser.parse_args()


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return 1000 images of which a fifth has a wrong label, and 797 with right labels."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randperm(len(x), generator=generator).split([1000, len(x) - 1000])
    wrong = torch.rand(len(train), generator=generator) < WRONG
    other = (y[train] + torch.randint(1, 10, (len(train),), generator=generator)) % 10
    return (x[train], torch.where(wrong, other, y[train])), (x[test], y[test])


def teacher(x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """Train a deep network with dropout."""
    torch.manual_seed(0)
    widths = (64, 128, 128, 128)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.5)]
    network = nn.Sequential(*layers, nn.Linear(widths[-1], 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
    return network


if __name__ == "__main__":
    sys.exit(main())
