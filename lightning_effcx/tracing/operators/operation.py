"""Operations: what a call that is not affine in the input does, as the table says of its operator.

A call is affine in the tensors that depend on the input, `piecewise linear` in them with known
kinks, a choice among them (which is piecewise linear too), a smooth `curve` of one of them, or
`other`, which includes everything that the table does not know.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lightning_effcx.tracing.operators.affine_rules import in_eval_mode
from lightning_effcx.tracing.operators.calls import OperatorCall
from lightning_effcx.tracing.operators.rows import NO_CHOICE, Choice, Operator
from lightning_effcx.tracing.operators.table import operator_of
from lightning_effcx.tracing.refusals import jumping, not_piecewise_linear

Kind: TypeAlias = Literal["piecewise linear", "curve", "other"]


@dataclass(frozen=True, eq=False)
class Operation:
    """One call that is not affine.

    Attributes:
        name: The operator, such as `relu`, the same for its in-place form.
        kind: What sort of nonlinearity it is.
        z: The tensor that enters it. For a maximum of two tensors, it is their difference.
        kinks: The values of `z` at which the linear piece changes, ascending.
        choice: How the operation picks among the elements of `z`.
        bound: For a maximum of two tensors, the second one, which was subtracted from the first.
        jumps: Whether the operation is not continuous, unless it is flat.
        is_flat: Whether the operation is constant between its kinks, and jumps there.
        needs_eval_mode: Whether the operation would be affine in eval mode.
        apply: For a curve that is the same for all units, the curve as a function of any tensor.
    """

    name: str
    kind: Kind
    z: Tensor
    kinks: tuple[float, ...] = ()
    choice: Choice = NO_CHOICE
    bound: Tensor | None = None
    jumps: bool = False
    is_flat: bool = False
    needs_eval_mode: bool = False
    apply: Callable[[Tensor], Tensor] | None = None


def nonlinearity(call: OperatorCall) -> Operation | None:
    """Return the nonlinear operation that a call is; `None` if it is affine.

    Args:
        call: The call, of which at least one argument depends on the input.
    """
    operator = operator_of(call.func)
    if operator.affine(call):
        return None
    alone = [a for a in call.given.values() if isinstance(a, Tensor) and call.depends(a)]
    (z, *more) = alone or call.operands
    if not alone or z.is_complex():  # a list of tensors; numbers without an order
        return Operation(call.name, "other", z)
    if operator.choice:
        choice = _complete(operator.choice, call, z)
        jumps = operator.jumps(call)
        return Operation(call.name, "piecewise linear", z, choice=choice, jumps=jumps)
    if operator.kinks:
        return _bend(operator, call, alone)
    if more or not operator.curve(call):
        needs_eval_mode = operator.affine is in_eval_mode
        return Operation(call.name, "other", z, needs_eval_mode=needs_eval_mode)
    return Operation(call.name, "curve", z, apply=_as_function(call, z))


def check_continuous(name: str, operation: Operation) -> None:
    """Refuse an operation that is not continuous and piecewise linear.

    Args:
        name: The site where the operation runs.
        operation: The operation.
    """
    if operation.jumps and not operation.is_flat:
        raise jumping(name, operation.name)
    if operation.kind == "piecewise linear" and operation.choice.of != "chance":
        return
    raise not_piecewise_linear(
        name,
        operation.name,
        is_curve=operation.kind == "curve",
        needs_eval_mode=operation.needs_eval_mode,
    )


def _as_function(call: OperatorCall, z: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Return a pointwise call as a function of its operand alone, which never writes in place."""
    rest = [a for a in call.args if isinstance(a, Tensor) and a is not z]
    places = [index for index, a in enumerate(call.args) if a is z]
    if any(a.numel() > 1 for a in rest) or not places:
        return None  # such as a power with an exponent for each unit
    functional = call.func.overloadpacket.__name__.removesuffix("_")
    operator = getattr(getattr(torch.ops, call.func.namespace), functional)
    (place,) = places
    before, after = call.args[:place], call.args[place + 1 :]  # so as not to keep the operand alive
    named = {key: value for key, value in call.kwargs.items() if key != "out"}

    def apply(values: Tensor) -> Tensor:
        out = operator(*before, values, *after, **named)
        return (out if isinstance(out, Tensor) else out[0]).reshape(values.shape)

    return apply


def _complete(choice: Choice, call: OperatorCall, z: Tensor) -> Choice:
    """Return what the table says of a choice together with what the call says."""
    dim = call.given.get("dim", ())
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    return replace(choice, dims=dims, elements=_count_elements(choice, call.given, z, dims))


def _count_elements(choice: Choice, given: dict[str, Any], z: Tensor, dims: tuple[int, ...]) -> int:
    """Count what a choice picks from: a whole window of a pooling, also where it is at the rim."""
    if "kernel_size" in given:
        kernel = given["kernel_size"]
        return math.prod(kernel if len(kernel) == choice.window else kernel * choice.window)
    if choice.window:
        pairs = zip(z.shape[-choice.window :], given["output_size"], strict=True)
        # Windows that do not fit evenly overlap, and may begin and end inside of a step.
        return math.prod(size // out + 2 * (size % out > 0) for size, out in pairs)
    return math.prod(z.shape[dim] for dim in dims or range(z.dim()))


def _bend(operator: Operator, call: OperatorCall, operands: list[Tensor]) -> Operation:
    """Return an operation with kinks. If a kink is a tensor, the units are the differences."""
    z = call.given["self"]
    others = [call.given.get(name) for name in ("weight", "values")]
    if any(other is operand for other in others for operand in operands):
        return Operation(call.name, "other", z)  # a slope or a step that depends on x
    bounds = [_number(kink, call.given) for kink in operator.kinks]
    bounds = [bound for bound in bounds if bound is not None]
    bend = Operation(
        call.name,
        "piecewise linear",
        z,
        jumps=operator.jumps(call),
        is_flat=operator.is_flat,
    )
    if not any(isinstance(bound, Tensor) for bound in bounds):
        return replace(bend, kinks=tuple(map(float, bounds)))
    (bound, *more) = bounds
    if isinstance(bound, Tensor) and not more:
        return replace(bend, z=z - bound, kinks=(0.0,), bound=bound)
    return Operation(call.name, "other", z)  # clamped between two tensors


def _number(kink: float | str, given: dict[str, Any]) -> Any:
    """Return the value of a kink: a number, a tensor, or `None` where the call has none."""
    if not isinstance(kink, str):
        return kink
    return -given[kink[1:]] if kink.startswith("-") else given[kink]
