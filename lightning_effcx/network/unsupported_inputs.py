"""Inseparable: what single samples cannot be taken out of, and what to write for it instead.

The classes of libraries are recognised by what they have, since they need not be installed.
"""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lightning_effcx.network.nested import Place, at, describe, parts

_EDGES = ("edge_index", "adj_t", "edge_types")  # what graphs have, whoever made their class
_IMAGE = 3  # dimensions of one image, and how many colours it has


class Whole(NamedTuple):
    """A kind of what cannot be taken apart.

    Attributes:
        what: What it is, in words.
        batch: What to write for `batch=`, such that it returns a tensor `(n, ...)`.
        network: What to write for `network=`, such that it makes outputs of such a tensor.
        by_rows: Whether a part of it that is a tensor has a row for each sample.
    """

    what: str
    batch: str
    network: str
    by_rows: bool = False

    def refusal(self, given: str) -> ValueError:
        """Return the error of having been given such a thing."""
        return ValueError(
            f"no input was found: {given}, of which single samples cannot be taken ({self.what}): "
            "write functions that take it apart and put it together, such as ComplexityMonitor("
            f"batch=lambda batch: {self.batch}, network=lambda module, x: {self.network})"
        )


_GRAPH = Whole(
    "a graph, whose rows are nodes or edges",
    "batch.x.unflatten(0, (batch.num_graphs, -1))",
    "module(graphs_of(x))",
)
_IMAGES = Whole(
    "a list of images",
    "torch.stack([resize(image) for image in batch[0]])",
    "module(list(x))",
)
_RAGGED = Whole(
    "a list of tensors of different lengths",
    "pad_sequence(batch[0], batch_first=True)",
    "module(list(x))",
)
_PACKED = Whole(
    "a PackedSequence",
    "pad_packed_sequence(batch[0], batch_first=True)[0]",
    "module(pack_padded_sequence(x, lengths, batch_first=True))",
)
_NESTED = Whole(
    "a nested tensor",
    "batch[0].to_padded_tensor(0.0)",
    "module(torch.nested.as_nested_tensor(list(x)))",
)
_SPARSE = Whole("a sparse tensor", "batch[0].to_dense()", "module(x.to_sparse())", by_rows=True)
_TENSOR_DICT = Whole(
    "a TensorDict",
    "batch['observation']",
    "module(TensorDict({'observation': x}, [len(x)]))",
    by_rows=True,
)


def inseparable(value: Any, place: Place | None = None) -> Whole | None:
    """Return what in a structure cannot be taken apart, if there is something.

    Args:
        value: A structure.
        place: Look only at what is around this place, and at what is there.

    Example:
        >>> inseparable({"x": [torch.zeros(3, 4, 5), torch.zeros(3, 6, 5)]}).what
        'a list of images'
    """
    if place is not None:
        around = [at(value, place[:depth]) for depth in range(len(place) + 1)]
        found = [*map(_kind, around)]
    else:
        inside = {} if isinstance(value, Tensor) else parts(value)
        found = [_kind(value), *map(inseparable, inside.values())]
    return next((kind for kind in found if kind is not None), None)


def unknown(error: Exception) -> Whole:
    """Return the kind of what raises an error when it is taken apart."""
    reason = str(error).strip().partition("\n")[0].partition(". ")[0].removesuffix(".")
    return Whole(f"{type(error).__name__}: {reason}", "...", "...", by_rows=True)


def shown(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Describe the arguments of a call, in one line."""
    return ", ".join(map(describe, [*args, *kwargs.values()]))


def _kind(value: Any) -> Whole | None:
    kind: Whole | None = None
    if isinstance(value, Tensor):
        sparse = None if value.layout == torch.strided else _SPARSE
        kind = _NESTED if value.is_nested else sparse
    elif isinstance(value, PackedSequence):
        kind = _PACKED
    elif "TensorDictBase" in {base.__name__ for base in type(value).__mro__}:
        kind = _TENSOR_DICT
    elif isinstance(value, Mapping):
        kind = _GRAPH if any(key in value for key in _EDGES) else None
    elif any(inspect.getattr_static(value, key, None) is not None for key in _EDGES):
        kind = _GRAPH
    elif isinstance(value, list):
        kind = _list(value)
    return kind


def _list(values: list[Any]) -> Whole | None:
    """Tell lists of one tensor for each sample from lists of tensors of all samples."""
    if not all(isinstance(v, Tensor) and v.is_floating_point() and v.dim() for v in values):
        return None
    if any(value.is_nested for value in values):
        return None  # which is told of the values themselves
    dims, lengths = {value.dim() for value in values}, {len(value) for value in values}
    if dims == {_IMAGE} and lengths == {_IMAGE}:
        return _IMAGES
    return _RAGGED if len(dims) == 1 and len(lengths) > 1 else None
