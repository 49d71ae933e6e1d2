"""What the monitor says of what it measures, word by word."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from user_training import Classifier, fit, task

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.metrics import JacobianNorm

X, Y = task().tensors


class Own(LightningModule):
    """A user's module, whose validation step is a function."""

    def __init__(self, step: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.step = step
        self.network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.network[0].weight.square().sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.step(self, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Net(Own):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        logits = self.network(x)
        return {"hidden": x, "logits": logits if mask is None else logits * mask[:, None]}


class Pair(NamedTuple):
    x: Tensor
    label: Tensor


class Two(Own):
    """Two children with parameters, each of which is called by itself."""

    def __init__(self, step: Callable[[Any, Any], Any]) -> None:
        super().__init__(step)
        self.encoder, self.decoder = nn.Linear(6, 2), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(x), x


class Words(Own):
    def __init__(self, step: Callable[[Any, Any], Any]) -> None:
        super().__init__(step)
        self.embedding, self.head = nn.Embedding(3, 4), nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).mean(1))


class Bytes(Own):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x / 255)


class Joint(Own):
    """Called with several inputs, by keywords, beside what is the same for all."""

    def forward(self, *, features: Tensor, image: Tensor, table: Tensor, scale: float) -> Tensor:
        return self.network(image.flatten(1)) * features.sum(1, keepdim=True) * scale + table.sum()


def autoencoding(module: Any, batch: Any) -> None:
    x, _ = batch
    mse_loss(module.decoder(module.encoder(x)), x)


@dataclass
class Saying:
    """A training, and what is said of it."""

    module: Callable[[], Any]
    line: str
    data: Any = field(default_factory=task)
    monitor: dict[str, Any] = field(default_factory=dict)
    collate: Callable[[list[Any]], Any] | None = None


def by_name(**columns: Tensor) -> list[dict[str, Tensor]]:
    return [{key: column[i] for key, column in columns.items()} for i in range(len(X))]


SECOND = "classes from the second part of the batch"
SAYINGS = {
    "a module": Saying(
        Classifier,
        f"measuring `Classifier` from `x`: float32 (80, 6) to its output: (80, 3); {SECOND}",
    ),
    "a named output": Saying(
        lambda: Net(lambda module, batch: module(batch["x"])),
        "measuring `Net` from `x`: float32 (80, 6) to `logits`: (80, 3); classes from `y`",
        by_name(x=X, y=Y[:, None]),
        {"output": "logits"},
    ),
    "an argument that is held fixed": Saying(
        lambda: Net(lambda module, batch: module(batch[0], mask=batch[1])),
        "measuring `Net` from `x`: float32 (80, 6) to `logits`: (80, 3); `mask` held fixed; "
        + SECOND,
        monitor={"output": "logits"},
    ),
    "several inputs": Saying(
        lambda: Joint(
            lambda module, batch: module(
                image=batch["image"], table=torch.ones(9), scale=2.0, features=batch["features"]
            )
        ),
        "measuring `Joint` from `image`: float32 (80, 2, 3) and `features`: float32 (80, 6) to its "
        "output: (80, 3); `table` held fixed; values from `target`",
        by_name(target=X[:, :1], image=X.unflatten(1, (2, 3)), features=X),
    ),
    "the only child with parameters": Saying(
        lambda: Own(lambda module, batch: module.network(batch.x)),
        "measuring `Own.network` from `input`: float32 (80, 6) to its output: (80, 3); classes "
        "from `label`",
        [*map(Pair, X, Y)],
    ),
    "a part by its name": Saying(
        Classifier,
        "the monitor 'first' is measuring `Classifier.network.2` from `input`: float32 (80, 16) to "
        f"its output: (80, 16); {SECOND}",
        monitor={"network": "network.2", "name": "first"},
    ),
    "a part that is called by itself": Saying(
        lambda: Two(autoencoding),
        f"measuring `Two.decoder` from `input`: float32 (80, 2) to its output: (80, 6); {SECOND}",
        monitor={"network": "decoder"},
    ),
    "no call that was heard": Saying(
        lambda: Two(autoencoding),
        "measuring `Two` from `batch[0]`: float32 (80, 6) to `output[1]`: (80, 6); no call was "
        f"seen, so the first floating-point tensor of the batch was taken; {SECOND}",
        monitor={"output": -1},
    ),
    "no call of a part": Saying(
        lambda: Two(lambda module, batch: None),
        "measuring `Two.encoder` from `batch['x']`: float32 (80, 6) to its output: (80, 2); no "
        "call of network='encoder' was seen, so the first floating-point tensor of the batch was "
        "taken; no targets",
        by_name(z=Y, x=X),
        {"network": "encoder"},
    ),
    "tokens": Saying(
        lambda: Words(lambda module, batch: module(batch)),
        "measuring `Words` from `tokens` embedded by `embedding`: float32 (80, 5, 4) to its "
        "output: (80, 2); no targets",
        [*torch.randint(3, (80, 5))],
    ),
    "a function of the module": Saying(
        Classifier,
        "measuring the function network= of `Classifier` from `batch[0]`: float32 (80, 6) to its "
        f"output: (80, 16); the first floating-point tensor of the batch was taken; {SECOND}",
        monitor={"network": lambda module, x: module.network[0](x)},
    ),
    "a function of the batch": Saying(
        Classifier,
        "measuring `Classifier` from what batch= returns: float32 (80, 6) to its output: (80, 3); "
        "classes from what batch= returns",
        monitor={"batch": lambda batch: (batch[0] + 1, batch[1])},
    ),
    "images of bytes": Saying(
        lambda: Bytes(lambda module, batch: module(batch[0])),
        f"measuring `Bytes` from `x`: uint8 (80, 6) to its output: (80, 3); {SECOND}",
        [*zip(torch.randint(255, (80, 6), dtype=torch.uint8), Y, strict=True)],
    ),
}


def lines(caplog: Any) -> list[str]:
    said = [record.getMessage() for record in caplog.records]
    return [line for line in said if line.startswith("effcx: ") and "measuring " in line]


@pytest.mark.parametrize("name", SAYINGS)
def test_it_is_said_once_what_is_measured(tmp_path, name, caplog):
    saying = SAYINGS[name]
    monitor = ComplexityMonitor([JacobianNorm()], samples=80, strict=True, **saying.monitor)
    with caplog.at_level("INFO"):
        fit(tmp_path, monitor, module=saying.module(), data=saying.data, num_sanity_val_steps=-1)
    assert lines(caplog) == [f"effcx: {saying.line}"]


def test_that_there_are_more_samples_after_the_sanity_check_is_not_said_again(tmp_path, caplog):
    with caplog.at_level("INFO"):
        fit(tmp_path, ComplexityMonitor([JacobianNorm()]), num_sanity_val_steps=1)
    (line,) = lines(caplog)
    assert "from `x`: float32 (16, 6) to its output: (16, 3)" in line


def test_another_training_says_it_again(tmp_path, caplog):
    monitor = ComplexityMonitor([JacobianNorm()])
    with caplog.at_level("INFO"):
        for _ in range(2):
            fit(tmp_path, monitor, max_epochs=1)
    first, second = lines(caplog)
    assert first == second


def test_the_targets_of_several_rows_for_each_sample_are_none(tmp_path, caplog):
    class Sequences(Own):
        def forward(self, x: Tensor) -> Tensor:
            return self.network[0](x.flatten(0, 1)).unflatten(0, (-1, 2)).flatten(1)

    module = Sequences(lambda module, batch: module(batch[0]))
    data = [*zip(X.unflatten(0, (40, 2)), Y[:40], strict=True)]
    monitor = ComplexityMonitor([JacobianNorm()], network="network.0", samples=40)
    with caplog.at_level("INFO"):
        fit(tmp_path, monitor, module=module, data=data, num_sanity_val_steps=-1)
    (line,) = lines(caplog)
    assert line == (
        "effcx: measuring `Sequences.network.0` from `input`: float32 (80, 6) to its output: "
        "(80, 16); no targets"
    )
