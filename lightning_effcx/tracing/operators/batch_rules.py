"""Batch rules: for which calls of an operator each sample stays by itself.

Samples lie along dimension 0 of every tensor that depends on the input. A call keeps them apart if
each sample of the result is made from the same sample of the operands, in the same place, and in
the same way whatever other samples are there. Each rule holds for calls that surely do. Where a
rule does not hold, the call is refused.

The rules look at dimensions, not at lengths: the pass may insert samples before the operator runs.
So it is the pass that checks that the result has as many samples as the operands.
"""

from typing import Any

import torch
from torch import Tensor

from lightning_effcx.tracing.operators.calls import OperatorCall, Rule, tensors

_WHOLE = 2**62  # more samples than there are: the end of a slice that takes all


def elementwise(call: OperatorCall) -> bool:
    """Hold where the operands that depend on the input have as many dimensions as the result.

    Broadcasting aligns the last dimensions. So `x - m` with `x` of shape `(n, n)` and `m` of shape
    `(n,)` subtracts from each sample the numbers of all others.
    """
    dims = max(tensor.dim() for tensor in tensors(call.args, call.kwargs))
    return all(operand.dim() == dims for operand in call.operands)


def in_order(call: OperatorCall) -> bool:
    """Hold for every call: the numbers of the result are those of the operand in the same order.

    So the result has one sample after the other, perhaps with several entries of dimension 0 for
    each of them. The pass checks that it has equally many for all.
    """
    del call
    return True


def along(*names: str, added: int = 0, none_is_all: bool = True) -> Rule:
    """Hold where the arguments that name dimensions do not name dimension 0.

    Args:
        *names: The arguments, which are numbers or lists of numbers; negative ones count from the
            end.
        added: How many dimensions the result has more than the operands.
        none_is_all: Whether no dimension at all means all of them.
    """

    def rule(call: OperatorCall) -> bool:
        dims = [dim for name in names for dim in _listed(call.given.get(name))]
        if not dims:
            return not none_is_all
        count = max(tensor.dim() for tensor in tensors(call.args, call.kwargs)) + added
        return count > added and all(dim % count for dim in dims)

    return rule


def in_last(count: int) -> Rule:
    """Hold where the operand has more than the last `count` dimensions, on which operators work."""

    def rule(call: OperatorCall) -> bool:
        return all(operand.dim() > count for operand in call.operands)

    return rule


def only_in(*names: str, dims: int = 1) -> Rule:
    """Hold where no other arguments depend on the input, and these have some number of dimensions.

    Args:
        *names: Arguments whose dimension 0 is dimension 0 of the result.
        dims: How many dimensions they have at least.
    """

    def rule(call: OperatorCall) -> bool:
        allowed = {id(call.given[name]) for name in names}
        return all(id(each) in allowed and each.dim() >= dims for each in call.operands)

    return rule


def matmul(call: OperatorCall) -> bool:
    """Hold where samples are rows of the first factor, or batches of matrices."""
    first, second = call.given["self"], call.given["other"]
    if call.depends(first):
        return first.dim() > 1 and (second.dim() < 3 or first.dim() >= max(3, second.dim()))  # noqa: PLR2004 batches
    return second.dim() >= max(3, first.dim())


def permute(call: OperatorCall) -> bool:
    """Hold where dimension 0 stays the first."""
    dims = call.given["dims"]
    return not dims or dims[0] % len(dims) == 0


def transpose(call: OperatorCall) -> bool:
    """Hold where dimension 0 is not exchanged with another one."""
    dims = {call.given[name] % max(1, call.operands[0].dim()) for name in ("dim0", "dim1")}
    return len(dims) == 1 or 0 not in dims


def t(call: OperatorCall) -> bool:
    """Hold where there is no second dimension to exchange."""
    return call.operands[0].dim() == 1


def expand(call: OperatorCall) -> bool:
    """Hold where no dimension comes before the samples, and one sample is not made many."""
    (operand, *_), size = call.operands, call.given["size"]
    return len(size) == operand.dim() > 0 and (len(operand) != 1 or size[0] in {-1, 1})


def repeat(call: OperatorCall) -> bool:
    """Hold where the samples are there once, and no dimension comes before them."""
    (operand, *_), repeats = call.operands, call.given["repeats"]
    return len(repeats) == operand.dim() > 0 and repeats[0] == 1


def tile(call: OperatorCall) -> bool:
    """Hold where the samples are there once; `tile` leaves the dimensions alone that it lacks."""
    (operand, *_), repeats = call.operands, call.given["dims"]
    if len(repeats) < operand.dim():
        return True
    return len(repeats) == operand.dim() > 0 and repeats[0] == 1


def constant_pad(call: OperatorCall) -> bool:
    """Hold where nothing is put before or after the samples; the last dimension comes first."""
    return not any(call.given["pad"][2 * (call.operands[0].dim() - 1) :])


def part(call: OperatorCall) -> bool:
    """Hold where a slice is of another dimension, or takes all samples."""
    start, end, step = (call.given[name] for name in ("start", "end", "step"))
    takes_all = not start and (end is None or end >= _WHOLE) and step == 1
    return takes_all or call.given["dim"] % max(1, call.operands[0].dim()) != 0


def index(call: OperatorCall) -> bool:
    """Hold where the indices are of later dimensions, next to each other, and the same for all.

    Where they are not, torch puts the indexed dimensions before the samples.
    """
    places = _places(call.given["indices"])
    if call.depends(call.given["indices"]):
        return False
    return not places or (places[0] > 0 and places[-1] - places[0] == len(places) - 1)


def index_put(call: OperatorCall) -> bool:
    """Hold where each sample gets its own values at the same indices, or one number by a mask."""
    indices, values = call.given["indices"], call.given["values"]
    if not index(call):
        is_mask = len(indices) == 1 and indices[0].dtype == torch.bool
        return is_mask and values.numel() == 1 and not call.depends(values)
    return not call.depends(values) or values.dim() == _indexed_dims(call.given["self"], indices)


def einsum(call: OperatorCall) -> bool:
    """Hold where the first letter of the result is the first of each operand, and nowhere else.

    The rule knows letters only, and three dots in the place of the first letters.
    """
    inputs, arrow, result = call.given["equation"].replace(" ", "").partition("->")
    terms = list(zip(inputs.split(","), call.given["tensors"], strict=False))
    first = "..." if result.startswith("...") else result[:1]

    def fits(term: str, tensor: Tensor) -> bool:
        rest = term.removeprefix(first)
        if not call.depends(tensor):
            return first not in term and "..." not in term
        is_first = term.startswith(first) and first not in rest and "..." not in rest
        return is_first and tensor.dim() > len(rest)  # else the dots stand for no dimension

    return bool(arrow and first) and all(fits(*each) for each in terms)


def _indexed_dims(x: Tensor, indices: list[Tensor | None]) -> int:
    """Count the dimensions of `x[indices]`."""
    found = [each for each in indices if each is not None]
    is_mask = [each.dtype in {torch.bool, torch.uint8} for each in found]
    replaced = sum(each.dim() if mask else 1 for each, mask in zip(found, is_mask, strict=True))
    made = [1 if mask else each.dim() for each, mask in zip(found, is_mask, strict=True)]
    return x.dim() - replaced + max(made, default=0)


def _places(indices: list[Tensor | None]) -> list[int]:
    return [place for place, each in enumerate(indices) if each is not None]


def _listed(dims: Any) -> list[int]:
    if dims is None:
        return []
    return list(dims) if isinstance(dims, (list, tuple)) else [dims]
