"""Sample labels: which samples the results of a call along the dimension of the samples are of.

A graph network joins the nodes of all graphs in one dimension. It gathers them by an index, and
adds them up by another one. The numbers in the index tell whether the graphs stay apart. So the
call runs on labels: the number of its sample in place of each entry. A result that is made of
entries of one sample has the label of this sample.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_effcx.tracing.operators import OperatorCall, operator_of, tensors
from lightning_effcx.tracing.places import SamplePlace


def locate_by_labels(
    call: OperatorCall, operand: Tensor, place: SamplePlace, out: Tensor, n: int
) -> SamplePlace | None:
    """Return where the samples lie in the result of a call; `None` if it is not known.

    Args:
        call: The call.
        operand: Its operand that depends on the input.
        place: Where the samples lie in the operand.
        out: What the call returned.
        n: How many samples there are.
    """
    if not operator_of(call.func).affine(call):
        return None
    labels = _labels(place, operand.shape, n, operand.device)
    count, total, squares = (_run(call, operand, labels**power) for power in range(3))
    # Without a spread, all entries that are added up have one label. A result of none, such as of
    # a node without neighbours, may belong to any sample.
    known = count != 0
    if count.shape != out.shape or not known.any() or (count * squares != total.square()).any():
        return None
    for found in _places(out.shape, n):
        if torch.equal(total, count * _labels(found, out.shape, n, operand.device)):
            return found
    return None


def _places(shape: torch.Size, n: int) -> Iterator[SamplePlace]:
    """Go through all places of `n` samples in a shape."""
    for dim in range(-len(shape), 0):
        times, rest = divmod(shape[dim], n)
        if times and not rest:
            for before in (each for each in range(1, times + 1) if times % each == 0):
                yield SamplePlace(dim, before, times // before)


def _labels(place: SamplePlace, shape: torch.Size, n: int, device: torch.device) -> Tensor:
    """Return the sample of each entry, counted from 1."""
    along = torch.arange(1, n + 1, device=device)
    along = along.repeat_interleave(place.after).repeat(place.before)
    return along.reshape(-1, *[1] * (-place.dim - 1)).expand(shape)


def _run(call: OperatorCall, operand: Tensor, labels: Tensor) -> Tensor:
    """Run a call on labels, with zeros in place of all other numbers."""

    def replaced(argument: Any) -> Any:
        if argument is operand:
            return labels.clone()
        if isinstance(argument, Tensor) and argument.is_floating_point():
            return torch.zeros_like(argument, dtype=labels.dtype)
        return argument

    args, kwargs = tree_map(replaced, (call.args, call.kwargs))
    return next(tensors(call.func(*args, **kwargs)))
