from time import perf_counter

import pytest
import torch
from networks import mlp
from pytorch_lightning import Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from user_training import METRICS, Classifier

from lightning_effcx.callbacks import ComplexityMonitor

pytestmark = pytest.mark.benchmark


class Mnist(Classifier):
    """What people train first."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), mlp(784, 256, 256, 10))

    def training_step(self, batch, batch_idx):
        return self.scored("train", batch)

    def validation_step(self, batch, batch_idx):
        self.scored("val", batch)

    def scored(self, stage, batch):
        logits = self(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.log(f"{stage}_loss", loss, prog_bar=True)
        self.log(f"{stage}_acc", (logits.argmax(1) == batch[1]).float().mean())
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class LeNet(Mnist):
    """The smallest network of convolutions, of 8,084 units."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            mlp(400, 120, 84, 10),
        )


def mnist_sized():
    """10,000 images for training and 2,000 for validation, of 28 x 28, made from the digits."""
    digits, generator = load_digits(), torch.Generator().manual_seed(0)
    index = torch.randint(len(digits.images), (12_000,), generator=generator)
    small = torch.tensor(digits.images[index] / 16, dtype=torch.float32)[:, None]
    x = nn.functional.interpolate(small, (28, 28), mode="bilinear")
    x += 0.05 * torch.randn(x.shape, generator=generator)
    return TensorDataset(x, torch.tensor(digits.target)[index])


def seconds(folder, kind, epochs, *callbacks):
    """How long a training takes."""
    seed_everything(0, verbose=False)
    data = mnist_sized()
    train = DataLoader(torch.utils.data.Subset(data, range(10_000)), 128, shuffle=True)
    validation = DataLoader(torch.utils.data.Subset(data, range(10_000, 12_000)), 128)
    host = Trainer(  # with its logger, checkpoints and bar
        max_epochs=epochs, default_root_dir=folder, accelerator="cpu", callbacks=[*callbacks]
    )
    start = perf_counter()
    host.fit(kind(), train, validation)
    return perf_counter() - start


def test_the_standard_set_takes_at_most_a_tenth_of_the_time_of_a_fit(tmp_path, benchmark):
    monitor = ComplexityMonitor(strict=True)
    fit = seconds(tmp_path, Mnist, 20, monitor)
    measured = [
        {name: entry["values"][f"effcx_seconds/{name}"] for name in METRICS}
        for entry in monitor.history
    ]
    share = sum(sum(seconds.values()) for seconds in measured) / fit
    benchmark.extra_info["share of the fit"] = share
    benchmark.extra_info["seconds"] = measured[-1]
    benchmark.pedantic(lambda: None)
    assert len(measured) == 20
    assert share <= 0.1


def test_a_small_convolutional_training_takes_hardly_longer_with_the_monitor(tmp_path, benchmark):
    monitors = {
        "without": list,
        "with": lambda: [ComplexityMonitor(strict=True)],
        "with a budget": lambda: [ComplexityMonitor(strict=True, budget=0.02)],
    }
    taken = {name: [] for name in monitors}
    for _ in range(3):  # in turns, as the machine has other things to do at times
        for name, make in monitors.items():
            taken[name].append(seconds(tmp_path, LeNet, 5, *make()))
    least = {name: min(times) for name, times in taken.items()}
    overhead = {name: time / least["without"] - 1 for name, time in least.items()}
    benchmark.extra_info["overhead"] = overhead
    benchmark.pedantic(lambda: None)
    assert overhead["with"] <= 0.1
    assert overhead["with a budget"] <= 0.03
