"""Inputs from which single samples cannot be taken, and what a user can write instead.

The classes of libraries are recognised by their attributes, since they need not be installed.
"""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lightning_effcx.network.nested import Place, at, describe, parts

_EDGES = ("edge_index", "adj_t", "edge_types")  # attributes of graphs, in all libraries
_IMAGE = 3  # the number of dimensions of an image, and of its colours


class Unsupported(NamedTuple):
    """A kind of input from which single samples cannot be taken.

    Attributes:
        what: What it is, in words.
        batch: What a user can write for `batch=`. It returns a tensor `(n, ...)`.
        network: What a user can write for `network=`. It maps such a tensor to the outputs.
        by_rows: Whether each tensor in it has a row for each sample.
    """

    what: str
    batch: str
    network: str
    by_rows: bool = False

    def refusal(self, given: str) -> ValueError:
        """Return the error that refuses such an input."""
        return ValueError(
            f"no input was found: {given}, and single samples cannot be taken from it "
            f"({self.what}): write functions that take it apart and put it together, such as "
            f"ComplexityMonitor(batch=lambda batch: {self.batch}, "
            f"network=lambda module, x: {self.network})"
        )


_GRAPH = Unsupported(
    "a graph, whose rows are nodes or edges",
    "batch.x.unflatten(0, (batch.num_graphs, -1))",
    "module(graphs_of(x))",
)
_IMAGES = Unsupported(
    "a list of images",
    "torch.stack([resize(image) for image in batch[0]])",
    "module(list(x))",
)
_RAGGED = Unsupported(
    "a list of tensors of different lengths",
    "pad_sequence(batch[0], batch_first=True)",
    "module(list(x))",
)
_PACKED = Unsupported(
    "a PackedSequence",
    "pad_packed_sequence(batch[0], batch_first=True)[0]",
    "module(pack_padded_sequence(x, lengths, batch_first=True))",
)
_NESTED = Unsupported(
    "a nested tensor",
    "batch[0].to_padded_tensor(0.0)",
    "module(torch.nested.as_nested_tensor(list(x)))",
)
_SPARSE = Unsupported(
    "a sparse tensor", "batch[0].to_dense()", "module(x.to_sparse())", by_rows=True
)
_TENSOR_DICT = Unsupported(
    "a TensorDict",
    "batch['observation']",
    "module(TensorDict({'observation': x}, [len(x)]))",
    by_rows=True,
)


def find_unsupported(value: Any, place: Place | None = None) -> Unsupported | None:
    """Find a part of a structure from which single samples cannot be taken.

    Args:
        value: A structure.
        place: Look only at this place, and at the structures around it.

    Example:
        >>> find_unsupported({"x": [torch.zeros(3, 4, 5), torch.zeros(3, 6, 5)]}).what
        'a list of images'
    """
    if place is not None:
        around = [at(value, place[:depth]) for depth in range(len(place) + 1)]
        found = [*map(_kind, around)]
    else:
        inside = {} if isinstance(value, Tensor) else parts(value)
        found = [_kind(value), *map(find_unsupported, inside.values())]
    return next((kind for kind in found if kind is not None), None)


def unknown(error: Exception) -> Unsupported:
    """Return the kind of an input that raised an error."""
    reason = str(error).strip().partition("\n")[0].partition(". ")[0].removesuffix(".")
    return Unsupported(f"{type(error).__name__}: {reason}", "...", "...", by_rows=True)


def describe_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Describe the arguments of a call, in one line."""
    return ", ".join(map(describe, [*args, *kwargs.values()]))


def _kind(value: Any) -> Unsupported | None:
    kind: Unsupported | None = None
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


def _list(values: list[Any]) -> Unsupported | None:
    """Return the kind of a list with one tensor for each sample; `None` for other lists."""
    if not all(isinstance(v, Tensor) and v.is_floating_point() and v.dim() for v in values):
        return None
    if any(value.is_nested for value in values):
        return None  # the nested tensors themselves are refused
    dims, lengths = {value.dim() for value in values}, {len(value) for value in values}
    if dims == {_IMAGE} and lengths == {_IMAGE}:
        return _IMAGES
    return _RAGGED if len(dims) == 1 and len(lengths) > 1 else None
