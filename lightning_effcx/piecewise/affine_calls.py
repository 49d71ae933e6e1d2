"""Affine calls: run them at the rows of their operands, each row by itself."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_effcx.piecewise.constants import clear
from lightning_effcx.piecewise.followed import Followed
from lightning_effcx.piecewise.writes import Writes
from lightning_effcx.tracing import OperatorCall, keeps_samples_apart, mixing, operator_of, tensors

_FEW = 32  # rows


def run_affine(call: OperatorCall, writes: Writes) -> Any:
    """Run an affine call at the latest rows of its operands; register what it returns.

    Raises:
        RefusedError: The call mixes samples.
    """
    followed = writes.followed
    operator = operator_of(call.func)
    if not keeps_samples_apart(call):
        raise mixing(call.name)
    version = max(followed.versions[operand] for operand in call.operands)
    brought = followed.bring_call(call, version)
    out = run_brought(brought, call, followed, version)
    if operator.is_fresh and (not out.dim() or len(out) != followed.rows.counts[version]):
        followed.constants.note(out)
        return out
    return writes.put(call, out, call.name, version)


def run_brought(brought: OperatorCall, call: OperatorCall, followed: Followed, version: int) -> Any:
    """Run a call whose operands are at the rows of `version`, and check that it keeps these rows.

    Args:
        brought: The call with these operands.
        call: The call as the network makes it.
        followed: The tensors that the pass follows.
        version: The version of the rows.
    """
    operator = operator_of(call.func)
    out = _run(brought, call, followed, version)
    is_free = operator.is_fresh or operator.keeps_order
    if not is_free and not _has_all_samples(out, brought.operands[0]):
        raise mixing(call.name)
    return out


def _run(brought: OperatorCall, call: OperatorCall, followed: Followed, version: int) -> Any:
    operator = operator_of(call.func)
    if operator.has_index:
        brought = _with_index_for_all(brought, followed, version)
    first, *rest = brought.args
    if operator.is_sized:
        rest[0] = followed.resized(rest[0], followed.versions[first])
    if operator.reshapes:
        return first.reshape(rest[0])
    if operator.casts:
        return cast(call, first, followed)
    if first is call.overwritten():
        first = first.clone()
    brought = replace(brought, args=(first, *rest))
    run = partial(_run_few_rows_at_a_time, brought.func) if operator.unfolds else brought.func
    return clear(brought, followed.fitting(run, brought.args, brought.kwargs, version))


def cast(call: OperatorCall, x: Tensor, followed: Followed) -> Tensor:
    """Copy a tensor to real or complex numbers, as asked for. The pass keeps its own precision."""
    dtype = call.given["dtype"] or x.dtype
    is_number = dtype.is_floating_point or dtype.is_complex  # else it is made of a comparison
    dtype = followed.precise(dtype) if is_number else dtype
    layout = call.given["memory_format"] or torch.preserve_format
    return x.to(dtype, copy=True, memory_format=layout)


def _with_index_for_all(call: OperatorCall, followed: Followed, version: int) -> OperatorCall:
    """Return a call whose index has an entry for each sample; without it some would be left out."""
    index = followed.fitted(call.given["index"], version)
    if not index.dim() or len(index) != len(call.operands[0]):
        raise mixing(call.name)
    args = tuple(index if arg is call.given["index"] else arg for arg in call.args)
    named = {**call.kwargs, **({"index": index} if "index" in call.kwargs else {})}
    return replace(call, args=args, kwargs=named)


def _has_all_samples(out: Any, operand: Tensor) -> bool:
    return all(tensor.dim() and len(tensor) == len(operand) for tensor in _with_numbers(out))


def _with_numbers(out: Any) -> list[Tensor]:
    # Batch normalisation returns empty tensors where it took no statistics.
    return [tensor for tensor in tensors(out) if tensor.numel()]


def _run_few_rows_at_a_time(func: Any, x: Tensor, *rest: Any) -> Tensor:
    """Run an operator that unfolds its operand, which takes many times as much memory.

    Of few rows it stays in the caches, which makes this several times faster than all rows at once,
    and it is soon freed.
    """
    first = func(x[:_FEW], *rest)
    out = first.new_empty(len(x), *first.shape[1:])
    out[:_FEW] = first
    for start in range(_FEW, len(x), _FEW):
        out[start : start + _FEW] = func(x[start : start + _FEW], *rest)
    return out
