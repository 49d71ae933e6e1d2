"""What users of either Lightning package write; configuration files name these classes."""

from typing import Any

import lightning.pytorch
import pytorch_lightning
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from lightning_effcx.paths import segment


class Steps:
    """Trains a backbone and a head on batches that are dictionaries."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone = nn.Sequential(nn.Linear(4, width), nn.ReLU())
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch["x"]), batch["y"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self(batch["x"]), batch["y"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
        return DataLoader([{"x": row, "y": row[:3].argmax()} for row in x], 8)

    val_dataloader = train_dataloader


class OfPytorchLightning(Steps, pytorch_lightning.LightningModule):
    pass


class OfLightning(Steps, lightning.pytorch.LightningModule):
    pass


def input_of(batch):
    return batch["x"], batch["y"]


def hidden(module: nn.Module, x: Tensor) -> Tensor:
    return module.backbone(x)


class Digits(Dataset):
    """Training samples such as a configuration names."""

    def __init__(self, classes: int = 3) -> None:
        self.classes = classes

    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.full((4,), float(i)), i % self.classes


class FirstPair:
    """A path of the user's own."""

    name = "first_pair"

    def __init__(self, points: int = 2) -> None:
        self.points = points

    def __call__(self, x: Tensor, y: Tensor | None, generator: Generator) -> Tensor:
        return segment(x[:1], x[1:2], points=self.points)
