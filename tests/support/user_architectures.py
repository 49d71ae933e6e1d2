"""Every LightningModule of users with its data, and the measures that hold for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from graph_modules import GraphNetwork, Graphs, NodesAndEdges, nodes, on_rings, rings
from image_modules import GAN, DenseNet, LeNet, ResNet, UNet, ViT
from plain_modules import MLP, Autoencoder, BareAutoencoder, Regression, TiedAutoencoder
from pytorch_lightning import LightningModule
from sequence_modules import (
    GRU,
    CausalTransformer,
    Lazy,
    Lengths,
    TextClassifier,
    TiedLanguageModel,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader
from unusual_calls import (
    Bytes,
    Children,
    ForwardCalled,
    Forwardless,
    ForwardUnused,
    Keywords,
    MappingBatch,
    NamedBatch,
    Normalizing,
    OutputOf,
    Record,
    Siamese,
    TwoInputs,
    as_dict,
    as_model_output,
    as_tuple,
    named,
)
from user_samples import (
    CLASSES,
    LATENT,
    ROWS,
    VOCABULARY,
    classified,
    mapped,
    pairs,
    random,
    sentences,
    sequences,
    two_inputs,
    whole,
)

# --- what the modules are called with

Reads: TypeAlias = Callable[[Any, Any], tuple[tuple[Tensor, ...], Callable[..., Tensor]]]
"""Maps a module and a batch to the inputs, and to the function of them that the step calls."""


def xy(module: Any, batch: Any) -> tuple[tuple[Tensor, ...], Callable[..., Tensor]]:
    return (batch[0],), module


def of_embedding(embedding: nn.Module, call: Callable[[], Tensor]) -> Callable[[Tensor], Tensor]:
    """Turn a call with fixed tokens into a function of the embedded tokens."""

    def function(embedded: Tensor) -> Tensor:
        handle = embedding.register_forward_hook(lambda *_: embedded)
        try:
            return call()
        finally:
            handle.remove()

    return function


def causal(module: Any, batch: Any):
    call = lambda: module(**batch).logits  # noqa: E731
    return (module.embed(batch["input_ids"]),), of_embedding(module.embed, call)


def text(module: Any, batch: Any):
    call = lambda: module(batch["input_ids"], batch["attention_mask"])  # noqa: E731
    return (module.embedding(batch["input_ids"]),), of_embedding(module.embedding, call)


def tied_tokens(module: Any, batch: Any):
    tokens = batch[:, :-1]
    function = of_embedding(module.embedding, lambda: module(tokens))
    return (module.embedding(tokens),), function


# --- which measures hold

PROBABILITIES = frozenset({"jacobian_norm.probabilities", "fisher_rao_norm"})
OUTPUTS = frozenset({"jacobian_norm", "mimic_gap"})
LENGTHS = frozenset({"trajectory_length.segment", "trajectory_growth.segment"})
KINKS = frozenset({"activation_patterns"})
CODES = frozenset({"transitions.segment"})
CURVES = frozenset({"lann_complexity"})
EXACT = frozenset(
    {
        "linear_regions.segment",
        "boundary_distance",
        "boundary_density",
        "capacity_gap.segment",
        "linear_deviation.segment",
    }
)
EVERYTHING = OUTPUTS | PROBABILITIES | LENGTHS | KINKS | CODES | CURVES | EXACT
PIECEWISE = EVERYTHING - CURVES  # networks that have kinks only
ATTENTION = (
    EVERYTHING - CURVES - EXACT
)  # networks that have kinks, and bilinear operations beside them
SMOOTH = ATTENTION - KINKS


@dataclass(frozen=True)
class Architecture:
    """A user's module and data.

    Attributes:
        make: Makes the module.
        data: Makes a given number of samples.
        reads: Returns the inputs of the validation step's call, and the function that it computes;
            None where nobody can know them without configuration.
        holds: The measures that must have a value.
        unsettled: The measures that may have a value.
        arguments: The arguments of `ComplexityMonitor`, where configuration is needed.
        collate: As in `DataLoader`.
    """

    make: Callable[[], LightningModule]
    data: Callable[[int], list[Any]]
    reads: Reads | None = xy
    holds: frozenset[str] = PIECEWISE
    unsettled: frozenset[str] = frozenset()
    arguments: dict[str, Any] = field(default_factory=dict)
    collate: Callable[[list[Any]], Any] | None = None

    def loader(self, batches: int, *, shuffle: bool) -> DataLoader[Any]:
        data: Any = self.data(batches * ROWS)
        return DataLoader(data, ROWS, shuffle=shuffle, collate_fn=self.collate)


GRAPHS = {"batch": lambda graphs: (nodes(graphs), graphs.y), "network": on_rings}

NETWORKS = {
    "MLP": Architecture(MLP, classified(6)),
    "MLP, tanh": Architecture(
        lambda: MLP(nn.Tanh), classified(6), holds=EVERYTHING - EXACT - KINKS
    ),
    "LeNet": Architecture(LeNet, classified(1, 8, 8)),
    "ResNet, pre-activation": Architecture(ResNet, classified(1, 6, 6)),
    "DenseNet": Architecture(DenseNet, classified(1, 8, 8)),
    "U-Net": Architecture(
        UNet,
        lambda n: [*zip(random(n, 1, 8, 8), whole(2, n, 1, 8, 8).float(), strict=True)],
    ),
    "ViT": Architecture(ViT, classified(1, 8, 8), holds=SMOOTH),
    "causal transformer": Architecture(
        CausalTransformer,
        lambda n: [{"input_ids": t[:-1], "labels": t[1:]} for t in whole(VOCABULARY, n, 6)],
        causal,
        ATTENTION,
    ),
    "LSTM, lengths": Architecture(
        lambda: Lengths(packed=False),
        sequences,
        lambda module, batch: ((batch[0],), lambda x: module(x, batch[1])),
        SMOOTH,
    ),
    "LSTM, packed": Architecture(
        lambda: Lengths(packed=True),
        sequences,
        lambda module, batch: ((batch[0],), lambda x: module(x, batch[1])),
        OUTPUTS | PROBABILITIES,
        unsettled=SMOOTH,  # a packed batch has no dimension of samples where units are found
    ),
    "GRU, two ways": Architecture(GRU, classified(5, 3), holds=SMOOTH),
    "text classifier": Architecture(TextClassifier, sentences, text),
    "graph network": Architecture(GraphNetwork, rings, None, frozenset(), collate=Graphs.collate),
    "graph network, batch= network=": Architecture(
        GraphNetwork,
        rings,
        lambda module, graphs: ((nodes(graphs),), lambda x: on_rings(module, x)),
        PIECEWISE - EXACT,  # exact passes refuse to gather nodes from the samples
        arguments=GRAPHS,
        collate=Graphs.collate,
    ),
    "autoencoder": Architecture(Autoencoder, classified(1, 6, 6)),
    "GAN": Architecture(
        GAN,
        classified(1, 6, 6),
        lambda module, batch: ((torch.randn(len(batch[0]), LATENT),), module),
        EVERYTHING - EXACT,
    ),
    "regression": Architecture(
        Regression,
        lambda n: [*zip(random(n, 5), random(n), strict=True)],
        holds=PIECEWISE - PROBABILITIES,
    ),
    "tied autoencoder": Architecture(TiedAutoencoder, classified(1, 6, 6)),
    "tied language model": Architecture(
        TiedLanguageModel,
        lambda n: [*whole(VOCABULARY, n, 5)],
        tied_tokens,
        PIECEWISE - EXACT,  # exact passes refuse that recurrent layers put time first
    ),
}
"""Networks of different kinds."""

CALLS = {
    "graph network, tensors": Architecture(
        NodesAndEdges, rings, None, frozenset(), collate=Graphs.collate
    ),
    "autoencoder, batch is x": Architecture(
        BareAutoencoder, lambda n: [*random(n, 1, 6, 6)], lambda module, x: ((x,), module)
    ),
    "lazy table": Architecture(Lazy, classified(5, 3)),
    "normalizes in its step": Architecture(
        Normalizing, classified(6), lambda m, batch: ((m.normalized(batch)[0],), m)
    ),
    "images of bytes": Architecture(
        Bytes,
        lambda n: [*zip(whole(256, n, 6, 6, 3).byte(), whole(CLASSES, n), strict=True)],
        lambda m, batch: ((m.normalized(batch)[0],), m),
    ),
    "no forward, one child": Architecture(
        Forwardless, classified(6), lambda m, batch: ((batch[0],), m.net)
    ),
    "forward not used": Architecture(
        ForwardUnused, classified(6), lambda m, batch: ((batch[0],), m.net)
    ),
    "self.forward": Architecture(ForwardCalled, classified(6)),
    "no forward, two children": Architecture(Children, classified(6), None, frozenset()),
    "called three times": Architecture(Siamese, pairs),
    "batch is a named tuple": Architecture(NamedBatch, named, lambda m, batch: ((batch.image,), m)),
    "batch is a dataclass": Architecture(
        NamedBatch,
        classified(6),
        lambda m, batch: ((batch.image,), m),
        collate=Record.collate,
    ),
    "batch is a mapping": Architecture(
        MappingBatch, mapped, lambda m, batch: ((batch["image"],), m)
    ),
    "two inputs": Architecture(TwoInputs, two_inputs, lambda m, batch: (tuple(batch[0]), m)),
    "keyword arguments": Architecture(
        Keywords,
        two_inputs,
        lambda m, batch: (tuple(batch[0]), m.logits),
    ),
    "output is a tuple": Architecture(
        lambda: OutputOf(as_tuple), classified(6), lambda m, b: ((b[0],), lambda x: m(x)[0])
    ),
    "output is a dict": Architecture(
        lambda: OutputOf(as_dict),
        classified(6),
        lambda m, b: ((b[0],), lambda x: m(x)["logits"]),
        PIECEWISE,
    ),
    "output is an object": Architecture(
        lambda: OutputOf(as_model_output),
        classified(6),
        lambda m, b: ((b[0],), lambda x: m(x).logits),
        PIECEWISE,
    ),
}
"""Small networks that are called, or given their batches, in different ways."""

ARCHITECTURES = NETWORKS | CALLS
