"""Operations: what torch's operators are to a measure, by what the dispatcher is asked to run.

An operator is `linear` in the tensors that depend on the input (rearrangements among them),
`piecewise linear` in them with known kinks, a choice among them (which is piecewise linear too), a
smooth `curve` of one of them, or `other`. The lists name what is linear: whatever they do not name
is taken for nonlinear, so that an operator of tomorrow is seen rather than missed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lightning_effcx.tracing.refusals import bent

Kind: TypeAlias = Literal["piecewise linear", "curve", "other"]

_LINEAR = frozenset(
    """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d add alias as_strided
    as_strided_scatter avg_pool1d avg_pool2d avg_pool3d cat channel_shuffle chunk clone col2im
    complex conj conj_physical constant_pad_nd contiguous copy cumsum detach diag_embed diagonal
    diagonal_scatter dropout expand fft_c2c fft_c2r fft_r2c fill flip gather im2col index index_add
    index_copy index_put index_select lift_fresh masked_fill masked_scatter masked_select mean
    movedim nan_to_num narrow native_channel_shuffle native_dropout neg neg_view permute
    pixel_shuffle pixel_unshuffle put reflection_pad1d reflection_pad2d reflection_pad3d repeat
    replication_pad1d replication_pad2d replication_pad3d reshape reshape_alias resize resolve_conj
    resolve_neg roll rsub scatter scatter_add select select_scatter set slice slice_scatter split
    split_with_sizes squeeze stack sub sum t take tile to_copy transpose tril triu unbind unfold
    unsafe_index unsafe_split unsafe_view unsqueeze upsample_bicubic2d upsample_bicubic2d_aa
    upsample_bilinear2d upsample_bilinear2d_aa upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_nearest_exact1d upsample_nearest_exact2d
    upsample_nearest_exact3d upsample_trilinear3d view view_as_complex view_as_real where zero
    """.split()
)
# New tensors that have only the shape of their argument.
FRESH = frozenset(
    """
    empty_like full_like new_empty new_empty_strided new_full new_ones new_zeros ones_like rand_like
    randint_like randn_like zeros_like
    """.split()
)
# Questions whose answer is the same almost everywhere, such as those of a check for NaN.
_CHECKS = frozenset({"eq", "equal", "isinf", "isnan", "local_scalar_dense", "ne"})
# Linear in each of these arguments alone, so nonlinear only where more than one depends on x.
_FACTORS = {
    **dict.fromkeys(("mul", "mm", "bmm", "mv", "dot", "matmul", "linear", "convolution"), (0, 1)),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv", "addcmul"), (1, 2)),
}
# Linear unless this argument depends on x too.
_MODIFIERS = {"div": 1, "grid_sampler_2d": 1, "grid_sampler_3d": 1, "lerp": 2}
_BATCH_NORMS = frozenset({"native_batch_norm", "native_batch_norm_legit", "cudnn_batch_norm"})
_BATCH_NORMS_IN_EVAL = frozenset({"native_batch_norm_legit_no_training"})
_ALWAYS_LINEAR = _LINEAR | FRESH | _CHECKS | _BATCH_NORMS_IN_EVAL
_MAXIMA = frozenset(
    """
    adaptive_max_pool2d adaptive_max_pool3d amax amin max max_pool2d_with_indices
    max_pool3d_with_indices min
    """.split()
)
_CHOICES = _MAXIMA | frozenset(
    """
    cummax cummin fractional_max_pool2d fractional_max_pool3d kthvalue median nanmedian sort topk
    """.split()
)
# A kink is a number, or the name of the argument that holds it.
_KINKS: dict[str, tuple[str | float, ...]] = {
    **dict.fromkeys(("relu", "leaky_relu", "prelu_kernel", "rrelu_with_noise"), (0.0,)),
    **dict.fromkeys(("abs", "sign", "sgn"), (0.0,)),
    **dict.fromkeys(("maximum", "minimum", "fmax", "fmin", "gt", "ge", "lt", "le"), ("other",)),
    "clamp": ("min", "max"),
    "clamp_max": ("max",),
    "clamp_min": ("min",),
    "hardsigmoid": (-3.0, 3.0),
    "hardtanh": ("min_val", "max_val"),
    "threshold": ("threshold",),
}
_SHRINKS = frozenset({"hardshrink", "softshrink"})
_JUMPS = frozenset({"ge", "gt", "le", "lt", "sgn", "sign"})
# Pointwise, but with steps rather than a curve; `div` when it rounds.
_STEPS = frozenset({"ceil", "div", "floor", "fmod", "frac", "remainder", "round", "trunc"})
# Curves that torch does not tag pointwise; the first is that of `own.py`.
_CURVES = frozenset({"activation", "hardswish", "log_sigmoid_forward"})


@dataclass(frozen=True, eq=False)
class Operation:
    """One nonlinear call: what sort it is, what enters it, and where it bends.

    Attributes:
        name: The operator, such as `relu`, for in-place forms too.
        kind: What sort of nonlinearity.
        z: The tensor that enters it; the difference of the two for a maximum.
        kinks: Values of `z` at which the linear piece changes, ascending.
        chooses: Whether it picks among the elements of `z`,
        dims: and over which of its dimensions, for a maximum that does not tell its winner;
        elements: how many there are to pick from, at most.
        bound: For a maximum of two, the second, which was subtracted from the first.
        jumps: Whether it is not continuous.
        apply: For a curve that is the same for all units, what it makes of any tensor.
    """

    name: str
    kind: Kind
    z: Tensor
    kinks: tuple[float, ...] = ()
    chooses: bool = False
    dims: tuple[int, ...] = ()
    elements: int = 0
    bound: Tensor | None = None
    jumps: bool = False
    apply: Callable[[Tensor], Tensor] | None = None


def tensors(*arguments: Any) -> Iterator[Tensor]:
    """Go through the tensors among what an operator takes or returns, also in lists and dicts."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from tensors(*argument)
        elif isinstance(argument, dict):
            yield from tensors(*argument.values())


def written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the arguments that an operator writes to, as its schema declares them."""
    if not func._schema.is_mutable:  # noqa: SLF001
        return []
    declared = func._schema.arguments  # noqa: SLF001 the only way to the arguments' names
    given = dict(zip((argument.name for argument in declared), args, strict=False)) | kwargs
    return [
        given[argument.name]
        for argument in declared
        if argument.name in given and argument.alias_info and argument.alias_info.is_write
    ]


def nonlinearity(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], depends: Callable[[Any], bool]
) -> Operation | None:
    """Say what nonlinear operation `func(*args, **kwargs)` is; `None` if it is linear.

    Args:
        func: The operator as `__torch_dispatch__` gets it.
        args: Its arguments, at least one of which depends on the input.
        kwargs: Its arguments by name.
        depends: Whether an argument depends on the input.
    """
    name = func.overloadpacket.__name__.strip("_")
    if _is_linear(name, args, depends) and not kwargs.get("rounding_mode"):
        return None
    declared = func._schema.arguments  # noqa: SLF001 the only way to the arguments' names
    given = {a.name: a.default_value for a in declared if a.has_default_value()}
    given |= {a.name: value for a, value in zip(declared, args, strict=False)} | kwargs
    operands = [a for a in given.values() if isinstance(a, Tensor) and depends(a)]
    (z, *more) = operands or [a for a in args[0] if depends(a)]
    if not operands or z.is_complex():  # a list of tensors; numbers without an order
        return Operation(name, "other", z)
    if name in _CHOICES:
        return _choice(name, z, given)
    if name in _KINKS or name in _SHRINKS:
        return _bend(name, given, operands)
    pointwise = torch.Tag.pointwise in func.tags or name in _CURVES
    rounds = name in _STEPS and (name != "div" or "rounding_mode" in kwargs)
    if not pointwise or more or rounds:
        return Operation(name, "other", z)
    return Operation(name, "curve", z, apply=_as_function(func, z, args, kwargs))


def _as_function(
    func: Any, z: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[Tensor], Tensor] | None:
    """Return a pointwise call as a function of its operand alone, which never writes in place."""
    rest = [a for a in args if isinstance(a, Tensor) and a is not z]
    places = [index for index, a in enumerate(args) if a is z]
    if any(a.numel() > 1 for a in rest) or not places:
        return None  # such as a power with an exponent for each unit
    functional = func.overloadpacket.__name__.removesuffix("_")
    operator = getattr(getattr(torch.ops, func.namespace), functional)
    (place,) = places
    before, after = args[:place], args[place + 1 :]  # so as not to keep the operand alive
    named = {key: value for key, value in kwargs.items() if key != "out"}

    def apply(values: Tensor) -> Tensor:
        out = operator(*before, values, *after, **named)
        return (out if isinstance(out, Tensor) else out[0]).reshape(values.shape)

    return apply


def _choice(name: str, z: Tensor, given: dict[str, Any]) -> Operation:
    dim = given.get("dim", ())
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    elements = _elements(name, z, dims, given)
    return Operation(name, "piecewise linear", z, chooses=True, dims=dims, elements=elements)


def _elements(name: str, z: Tensor, dims: tuple[int, ...], given: dict[str, Any]) -> int:
    """Count what a choice picks from: a whole window of a pooling, also where it is at the rim."""
    if "kernel_size" in given:
        kernel, rank = given["kernel_size"], 3 if "3d" in name else 2
        return math.prod(kernel if len(kernel) == rank else kernel * rank)
    if "output_size" in given:
        wanted = given["output_size"]
        pairs = zip(z.shape[-len(wanted) :], wanted, strict=True)
        # Windows that do not fit evenly overlap, and may begin and end inside of a step.
        return math.prod(size // out + 2 * (size % out > 0) for size, out in pairs)
    return math.prod(z.shape[dim] for dim in dims or range(z.dim()))


def _is_linear(name: str, args: tuple[Any, ...], depends: Callable[[Any], bool]) -> bool:
    if name in _ALWAYS_LINEAR:
        return True
    if name in _FACTORS:
        return sum(depends(args[i]) for i in _FACTORS[name]) <= 1
    if name in _MODIFIERS:
        return not depends(args[_MODIFIERS[name]])
    if name in _BATCH_NORMS:
        return args[5] is False
    return False


def _bend(name: str, given: dict[str, Any], operands: list[Tensor]) -> Operation:
    """An operation with kinks. Where a kink is itself a tensor, the units are the differences."""
    if name in _SHRINKS:
        kinks = (-given["lambd"], given["lambd"])
        jumps = name == "hardshrink"
        return Operation(name, "piecewise linear", given["self"], kinks, jumps=jumps)
    bounds = [given[k] if isinstance(k, str) else k for k in _KINKS[name]]
    bounds = [bound for bound in bounds if bound is not None]
    jumps = name in _JUMPS or (name == "threshold" and given["value"] != given["threshold"])
    z = given["self"]
    if any(given.get("weight") is operand for operand in operands):
        return Operation(name, "other", z)  # a slope that depends on x
    if not any(isinstance(bound, Tensor) for bound in bounds):
        return Operation(name, "piecewise linear", z, tuple(map(float, bounds)), jumps=jumps)
    (bound, *more) = bounds
    if isinstance(bound, Tensor) and not more:
        return Operation(name, "piecewise linear", z - bound, (0.0,), bound=bound, jumps=jumps)
    return Operation(name, "other", z)  # clamped between two tensors


def check_continuous(name: str, operation: Operation) -> None:
    """Refuse what would leave the network without linear regions, or with hidden ones."""
    bends = operation.kind == "piecewise linear" and not operation.jumps
    if not bends or (operation.chooses and operation.name not in _MAXIMA):
        trained = operation.name in _BATCH_NORMS  # and so joins the samples of a batch
        raise bent(name, operation.name, curve=operation.kind == "curve", trained=trained)
