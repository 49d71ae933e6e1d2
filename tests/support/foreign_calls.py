"""Calls of modules with the shapes of well-known libraries, and random data.

Each function returns a case: a module, its arguments, which of these are the input, which output
is measured, and what the monitor says about them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

N = 5


@dataclass
class Case:
    """A call, and what is right about it.

    Attributes:
        module: What is called.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        inputs: Those among the tensors that are the input, in their order.
        words: What is said.
        embedding: The part whose first output is the input instead.
        look: Finds in what the module returns the outputs that are looked at.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]
    words: str
    embedding: str = ""
    look: Callable[[Any], Tensor] = field(default=lambda y: y)


def floats(*shape: int) -> Tensor:
    return torch.randn(N, *shape)


def whole(high: int, *shape: int) -> Tensor:
    return torch.randint(high, (N, *shape))


class Darts(nn.Module):
    """TFT of darts: one tuple of the past, the future and what does not change, or none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.past, self.future, self.static = nn.Linear(12, 4), nn.Linear(4, 4), nn.Linear(2, 4)
        self.head = nn.Linear(4, 6)

    def forward(self, x_in):
        past, future, static = x_in
        hidden = self.past(past.flatten(1)) + self.static(static.flatten(1))
        if future is not None:
            hidden = hidden + self.future(future.flatten(1))
        return self.head(hidden.tanh()).unflatten(1, (2, 1, 3))


def darts() -> Case:
    past, future, static = floats(4, 3), floats(2, 2), floats(1, 2)
    return Case(
        Darts(),
        ((past, future, static),),
        {},
        [past, future, static],
        "`Darts` from `x_in[0]`: float32 (5, 4, 3), `x_in[1]`: float32 (5, 2, 2) and `x_in[2]`: "
        "float32 (5, 1, 2) to its output: (5, 2, 1, 3)",
    )


def darts_without_future() -> Case:
    past, static = floats(4, 3), floats(1, 2)
    return Case(
        Darts(),
        ((past, None, static),),
        {},
        [past, static],
        "`Darts` from `x_in[0]`: float32 (5, 4, 3) and `x_in[2]`: float32 (5, 1, 2) to its output: "
        "(5, 2, 1, 3)",
    )


class Prediction(NamedTuple):
    prediction: Tensor
    attention: Tensor


class Forecaster(nn.Module):
    """NHiTS, DeepAR and TFT of pytorch-forecasting: a dictionary, of which much may be empty."""

    def __init__(self, categories: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(6, 2) for _ in range(categories))
        self.encoder, self.head = nn.Linear(4 * (3 + 2 * categories), 6), nn.Linear(6, 2)

    def forward(self, x):
        categories = [
            part(x["encoder_cat"][..., i]).flatten(1) for i, part in enumerate(self.embeddings)
        ]
        past = torch.cat([x["encoder_cont"].flatten(1), *categories], 1)
        hidden = self.encoder(past) * x["encoder_lengths"][:, None] / 4
        future = self.head((hidden + x["decoder_cont"].sum((1, 2))[:, None]).tanh())
        centre, scale = x["target_scale"].unbind(1)
        return Prediction(future * scale[:, None] + centre[:, None], hidden)


def forecasting(categories: int, known: int) -> Case:
    cont, future, scale = floats(4, 3), floats(2, known), floats(2)
    batch = {
        "encoder_cat": whole(6, 4, categories),
        "encoder_cont": cont,
        "encoder_target": torch.zeros(0),
        "encoder_lengths": 1 + whole(4),
        "decoder_cat": whole(6, 2, categories),
        "decoder_cont": future,
        "decoder_lengths": torch.full((N,), 2),
        "groups": whole(3, 1),
        "target_scale": scale,
    }
    inputs = [cont, future, scale] if known else [cont, scale]
    named = [("encoder_cont", cont), ("decoder_cont", future), ("target_scale", scale)]
    *before, last = [f"`x['{name}']`: float32 {tuple(t.shape)}" for name, t in named if t.numel()]
    held = ["encoder_cat", "encoder_lengths", "decoder_cat", "decoder_lengths", "groups"]
    if not categories:
        held = ["encoder_lengths", "decoder_lengths", "groups"]
    *others, end = [f"`x['{name}']`" for name in held]
    return Case(
        Forecaster(categories),
        (batch,),
        {},
        inputs,
        f"`Forecaster` from {', '.join(before)} and {last} to `prediction`: (5, 2); "
        f"{', '.join(others)} and {end} held fixed",
        look=lambda y: y.prediction,
    )


class Tabular(nn.Module):
    """An MLP of pytorch-tabular: categories and numbers, of which either may be missing."""

    def __init__(self, categories: int, numbers: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(4, 2) for _ in range(categories))
        width = 2 * categories + numbers
        self.layers = nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        parts = [part(x["categorical"][:, i]) for i, part in enumerate(self.embeddings)]
        parts += [x["continuous"]] if "continuous" in x else []
        return {"logits": self.layers(torch.cat(parts, 1)), "backbone": parts[0]}


def tabular(order: tuple[str, ...], categories: int = 2) -> Case:
    given = {"categorical": whole(4, categories), "continuous": floats(3)}
    held = "; `x['categorical']` held fixed" if categories else ""
    return Case(
        Tabular(categories, 3),
        ({name: given[name] for name in order},),
        {},
        [given["continuous"]],
        f"`Tabular` from `x['continuous']`: float32 (5, 3) to `logits`: (5, 3){held}",
        look=lambda y: y["logits"],
    )


def tabular_of_categories() -> Case:
    return Case(
        Tabular(2, 0),
        ({"categorical": whole(4, 2)},),
        {},
        [],
        "`Tabular` from the output of its embedding `embeddings.0`: float32 (5, 2) to `logits`: "
        "(5, 3); `x['categorical']` held fixed",
        "embeddings.0",
        lambda y: y["logits"],
    )


class Windows(nn.Module):
    """TFT of neuralforecast: a dictionary of windows, where what is not there is None."""

    def __init__(self) -> None:
        super().__init__()
        self.past, self.future = nn.Linear(4, 6), nn.Linear(12, 6)

    def forward(self, windows_batch):
        assert windows_batch["hist_exog"] is None
        y = windows_batch["insample_y"] * windows_batch["insample_mask"]
        future = self.future(windows_batch["futr_exog"].flatten(1))
        return (self.past(y.flatten(1)) * future).unsqueeze(2)


def windows() -> Case:
    y, mask, future = floats(4, 1), floats(4, 1).gt(0).float(), floats(6, 2)
    batch = {"insample_y": y, "insample_mask": mask, "hist_exog": None, "futr_exog": future}
    return Case(
        Windows(),
        (batch,),
        {},
        [y, mask, future],
        "`Windows` from `windows_batch['insample_y']`: float32 (5, 4, 1), "
        "`windows_batch['insample_mask']`: float32 (5, 4, 1) and `windows_batch['futr_exog']`: "
        "float32 (5, 6, 2) to its output: (5, 6, 1)",
    )


class Static(nn.Module):
    """DeepAR of gluonts: categories first, then numbers, all positional."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(4, 2), nn.Linear(7, 3)

    def forward(self, feat_static_cat, feat_static_real, past_target, num_parallel_samples=1):
        static = self.embedding(feat_static_cat[:, 0])
        y = self.layer(torch.cat([static, feat_static_real, past_target], 1))
        return y.repeat_interleave(num_parallel_samples, 1)


def static() -> Case:
    category, real, past = whole(4, 1), floats(1), floats(4)
    return Case(
        Static(),
        (category, real, past),
        {"num_parallel_samples": 2},
        [real, past],
        "`Static` from `feat_static_real`: float32 (5, 1) and `past_target`: float32 (5, 4) to its "
        "output: (5, 6); `feat_static_cat` held fixed",
    )


class Language(nn.Module):
    """BERT and GPT-2 of transformers: positions are embedded first, a loss is returned first."""

    def __init__(self) -> None:
        super().__init__()
        self.wpe, self.wte, self.head = nn.Embedding(4, 6), nn.Embedding(7, 6), nn.Linear(6, 7)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        positions = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        x = (self.wpe(positions) + self.wte(input_ids)) * attention_mask[..., None]
        logits = self.head(x.tanh())
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


def language(labels: Tensor | None) -> Case:
    tokens, mask = whole(7, 4), whole(2, 4)
    given = {"attention_mask": mask, "input_ids": tokens, "labels": labels}
    beside = "`attention_mask` held fixed"
    if labels is not None:
        beside = "`attention_mask` and `labels` held fixed"
    return Case(
        Language(),
        (),
        {name: value for name, value in given.items() if value is not None},
        [],
        "`Language` from `input_ids` embedded by `wte`: float32 (5, 4, 6) to `logits`: (5, 4, 7); "
        + beside,
        "wte",
        lambda y: y["logits"],
    )


class Translating(nn.Module):
    """T5 of transformers: one embedding, of the source first and then of the target."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.head = nn.Embedding(7, 6), nn.Linear(6, 7)

    def forward(self, input_ids, labels):
        source = self.shared(input_ids).mean(1, keepdim=True)
        logits = self.head((self.shared(labels.roll(1, 1)) + source).tanh())
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


def translating() -> Case:
    return Case(
        Translating(),
        (),
        {"input_ids": whole(7, 4), "labels": whole(7, 3)},
        [],
        "`Translating` from `input_ids` embedded by `shared`: float32 (5, 4, 6) to `logits`: "
        "(5, 3, 7); `labels` held fixed",
        "shared",
        lambda y: y["logits"],
    )


class Vision(nn.Module):
    """ViT of transformers, given the labels, too."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 4, 2, 2), nn.Linear(16, 3)

    def forward(self, pixel_values=None, labels=None):
        logits = self.head(self.patches(pixel_values).flatten(1).relu())
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def vision(order: tuple[str, ...]) -> Case:
    given = {"labels": whole(3), "pixel_values": floats(3, 4, 4)}
    return Case(
        Vision(),
        (),
        {name: given[name] for name in order},
        [given["pixel_values"]],
        "`Vision` from `pixel_values`: float32 (5, 3, 4, 4) to `logits`: (5, 3); `labels` held "
        "fixed",
        look=lambda y: y["logits"],
    )


class Masked(nn.Module):
    """Which parts of the sequence count comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, mask, x, weight=None):
        y = self.layer(x) * mask[..., None]
        return y.sum(1) if weight is None else y.sum(1) * weight[:, None]


def masked() -> Case:
    x = floats(4, 3)
    return Case(
        Masked(),
        (whole(2, 4).bool(), x),
        {},
        [x],
        "`Masked` from `x`: float32 (5, 4, 3) to its output: (5, 2); `mask` held fixed",
    )


def masked_by_numbers() -> Case:
    mask, x, weight = floats(4), floats(4, 3), floats()
    return Case(
        Masked(),
        (mask, x, weight),
        {},
        [mask, x, weight],
        "`Masked` from `mask`: float32 (5, 4), `x`: float32 (5, 4, 3) and `weight`: float32 (5,) "
        "to its output: (5, 2)",
    )


class Query(nn.Module):
    """A table of other things stands first, and has other rows than there are samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, table, *images):
        return self.layer(images[0]) @ table.T, table


def query() -> Case:
    x = floats(3)
    return Case(
        Query(),
        (torch.randn(9, 4), x),
        {},
        [x],
        "`Query` from `images[0]`: float32 (5, 3) to `output[0]`: (5, 9); `table` held fixed",
        look=lambda y: y[0],
    )


CASES = {
    "darts, TFT": darts,
    "darts, TFT without future": darts_without_future,
    "pytorch-forecasting, NHiTS": lambda: forecasting(0, 1),
    "pytorch-forecasting, DeepAR": lambda: forecasting(2, 1),
    "pytorch-forecasting, nothing known of the future": lambda: forecasting(2, 0),
    "pytorch-tabular, categories first": lambda: tabular(("categorical", "continuous")),
    "pytorch-tabular, numbers first": lambda: tabular(("continuous", "categorical")),
    "pytorch-tabular, no categories": lambda: tabular(("categorical", "continuous"), 0),
    "pytorch-tabular, categories only": tabular_of_categories,
    "neuralforecast, TFT": windows,
    "gluonts, DeepAR": static,
    "transformers, BERT": lambda: language(None),
    "transformers, GPT-2 with labels": lambda: language(whole(7, 4)),
    "transformers, T5 with labels": translating,
    "transformers, ViT, labels first": lambda: vision(("labels", "pixel_values")),
    "transformers, ViT, labels last": lambda: vision(("pixel_values", "labels")),
    "a mask first": masked,
    "a mask of numbers, and weights": masked_by_numbers,
    "a table first": query,
}
