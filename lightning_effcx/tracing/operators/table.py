"""The table: what each of torch's operators is to a measure. No other file knows operators by name.

An operator that the table does not name is not affine and keeps no samples apart. It is a curve if
torch says that it maps every entry alone; otherwise nothing is known of it. So a measure that needs
to know more refuses it, and an operator of tomorrow is refused rather than missed.
"""

from functools import cache
from typing import Any, Literal

from lightning_effcx.tracing.operators import affine_rules
from lightning_effcx.tracing.operators import batch_rules as batch
from lightning_effcx.tracing.operators.calls import OperatorCall, Rule, always, never, operator_name
from lightning_effcx.tracing.operators.rows import Choice, Operator


def _affine(samples: Rule, when: Rule = always, **others: Any) -> Operator:
    return Operator(affine=when, samples=samples, **others)


def _bend(*kinks: float | str, **others: Any) -> Operator:
    return Operator(kinks=kinks, samples=batch.elementwise, **others)


def _pick(
    of: Literal["maximum", "minimum", "order", "chance"],
    window: int = 0,
    *,
    is_running: bool = False,
    jumps: Rule = never,
) -> Operator:
    samples = batch.in_last(window) if window else batch.along("dim")
    return Operator(choice=Choice(of, window, is_running), samples=samples, jumps=jumps)


_AFFINE: list[tuple[str, Operator]] = [
    # Each entry alone, and entries of several operands in the same places.
    (
        """
        add alias clone complex conj conj_physical contiguous copy detach fill lift_fresh
        masked_fill nan_to_num neg neg_view resolve_conj resolve_neg rsub sub view_as_real zero
        """,
        _affine(batch.elementwise),
    ),
    ("where", _affine(batch.elementwise, affine_rules.unless("condition"))),
    ("mul", _affine(batch.elementwise, affine_rules.in_one_of("self", "other"))),
    ("addcmul", _affine(batch.elementwise, affine_rules.in_one_of("tensor1", "tensor2"))),
    ("lerp", _affine(batch.elementwise, affine_rules.unless("weight"))),
    # By its argument `rounding_mode` it has steps.
    (
        "div",
        _affine(
            batch.elementwise,
            affine_rules.exact_quotient,
            curve=affine_rules.without("rounding_mode"),
        ),
    ),
    ("dropout native_dropout", _affine(batch.elementwise, decides=affine_rules.is_training)),
    ("to_copy", _affine(batch.elementwise, casts=True, decides=affine_rules.makes_integers)),
    # The numbers in their order.
    ("squeeze", _affine(batch.in_order)),
    ("reshape reshape_alias unsafe_view", _affine(batch.in_order, is_sized=True)),
    ("view", _affine(batch.in_order, affine_rules.without("dtype"), is_sized=True)),
    # Along dimensions that arguments name.
    (
        """
        chunk cumsum index_add index_copy index_fill index_select mean narrow select select_scatter
        slice_scatter split split_with_sizes sum unbind unsafe_chunk unsafe_split
        """,
        _affine(batch.along("dim")),
    ),
    ("gather scatter_add", _affine(batch.along("dim"), has_index=True)),
    ("scatter", _affine(batch.along("dim"), affine_rules.without("reduce"), has_index=True)),
    ("cat", _affine(batch.along("dim"))),
    ("stack unsqueeze", _affine(batch.along("dim", added=1))),
    ("flip rot90", _affine(batch.along("dims", none_is_all=False))),
    ("roll", _affine(batch.along("dims"))),
    ("unfold", _affine(batch.along("dimension"))),
    ("diagonal diagonal_scatter", _affine(batch.along("dim1", "dim2"))),
    ("diag_embed", _affine(batch.along("dim1", "dim2", added=1))),
    ("movedim", _affine(batch.along("source", "destination"))),
    ("fft_c2c fft_c2r fft_r2c", _affine(batch.along("dim"))),
    # By rules of their own.
    ("permute", _affine(batch.permute)),
    ("transpose", _affine(batch.transpose)),
    ("t", _affine(batch.t)),
    ("expand", _affine(batch.expand, is_sized=True)),
    ("repeat", _affine(batch.repeat)),
    ("tile", _affine(batch.tile)),
    ("slice", _affine(batch.part)),
    ("index", _affine(batch.index, is_masked=True)),
    ("unsafe_index", _affine(batch.index)),
    ("index_put", _affine(batch.index_put)),
    ("constant_pad_nd", _affine(batch.constant_pad)),
    # On the last dimensions.
    (
        """
        adaptive_avg_pool1d avg_pool1d channel_shuffle native_channel_shuffle reflection_pad1d
        replication_pad1d upsample_linear1d upsample_nearest1d upsample_nearest_exact1d
        view_as_complex
        """,
        _affine(batch.in_last(1)),
    ),
    (
        """
        adaptive_avg_pool2d avg_pool2d col2im reflection_pad2d replication_pad2d tril triu
        upsample_bicubic2d upsample_bicubic2d_aa upsample_bilinear2d upsample_bilinear2d_aa
        upsample_nearest2d upsample_nearest_exact2d
        """,
        _affine(batch.in_last(2)),
    ),
    (
        """
        adaptive_avg_pool3d avg_pool3d im2col pixel_shuffle pixel_unshuffle reflection_pad3d
        replication_pad3d upsample_nearest3d upsample_nearest_exact3d upsample_trilinear3d
        """,
        _affine(batch.in_last(3)),
    ),
    # Where numbers lie in memory, or how many of them there are, has nothing to do with samples.
    ("as_strided as_strided_scatter masked_scatter put resize set take", _affine(never)),
    ("masked_select", _affine(never, is_masked=True)),
    # Products, which are affine in one factor.
    ("mm", _affine(batch.only_in("self"), affine_rules.in_one_of("self", "mat2"))),
    ("mv", _affine(batch.only_in("self", dims=2), affine_rules.in_one_of("self", "vec"))),
    ("bmm", _affine(batch.only_in("self", "mat2"), affine_rules.in_one_of("self", "mat2"))),
    ("einsum", _affine(batch.einsum, affine_rules.in_one_of_list("tensors"))),
    ("dot", _affine(never, affine_rules.in_one_of("self", "tensor"))),
    ("matmul", _affine(batch.matmul, affine_rules.in_one_of("self", "other"))),
    ("linear", _affine(batch.only_in("input", dims=2), affine_rules.in_one_of("input", "weight"))),
    (
        "convolution",
        _affine(batch.only_in("input"), affine_rules.in_one_of("input", "weight"), unfolds=True),
    ),
    (
        "addmm",
        _affine(batch.only_in("self", "mat1", dims=2), affine_rules.in_one_of("mat1", "mat2")),
    ),
    ("addmv", _affine(batch.only_in("self", "mat"), affine_rules.in_one_of("mat", "vec"))),
    (
        "baddbmm",
        _affine(
            batch.only_in("self", "batch1", "batch2", dims=3),
            affine_rules.in_one_of("batch1", "batch2"),
        ),
    ),
    ("addbmm", _affine(never, affine_rules.in_one_of("batch1", "batch2"))),
    (
        "grid_sampler_2d grid_sampler_3d",
        _affine(batch.only_in("input", "grid"), affine_rules.unless("grid")),
    ),
    (
        """
        cudnn_batch_norm native_batch_norm native_batch_norm_legit
        native_batch_norm_legit_no_training
        """,
        _affine(batch.only_in("input"), affine_rules.in_eval_mode),
    ),
    # New tensors.
    ("full_like ones_like zeros_like", _affine(batch.elementwise, is_fresh=True)),
    ("new_full new_ones new_zeros", _affine(batch.elementwise, is_fresh=True, is_sized=True)),
    ("empty_like", _affine(batch.elementwise, is_fresh=True, is_uninitialized=True)),
    (
        "new_empty new_empty_strided",
        _affine(batch.elementwise, is_fresh=True, is_uninitialized=True, is_sized=True),
    ),
    (
        "rand_like randint_like randn_like",
        _affine(batch.elementwise, is_fresh=True, decides=always),
    ),
    # Questions whose answer is the same almost everywhere.
    ("isinf isnan", _affine(batch.elementwise)),
    ("eq ne", _affine(batch.elementwise, decides=always)),
    ("equal local_scalar_dense", _affine(never, decides=always)),
]
_PIECEWISE_LINEAR: list[tuple[str, Operator]] = [
    ("abs leaky_relu prelu_kernel relu", _bend(0.0)),
    ("rrelu_with_noise", _bend(0.0, decides=affine_rules.is_training)),
    ("heaviside sgn sign", _bend(0.0, is_flat=True)),
    ("fmax fmin maximum minimum", _bend("other")),
    ("ge gt le lt", _bend("other", is_flat=True)),
    ("clamp", _bend("min", "max")),
    ("clamp_max", _bend("max")),
    ("clamp_min", _bend("min")),
    ("hardsigmoid", _bend(-3.0, 3.0)),
    ("hardtanh", _bend("min_val", "max_val")),
    ("hardshrink", _bend("-lambd", "lambd", jumps=always)),
    ("softshrink", _bend("-lambd", "lambd")),
    ("threshold", _bend("threshold", jumps=affine_rules.jumps_at_its_threshold)),
    ("amax max", _pick("maximum")),
    ("amin min", _pick("minimum")),
    ("adaptive_max_pool2d max_pool2d_with_indices", _pick("maximum", window=2)),
    ("adaptive_max_pool3d max_pool3d_with_indices", _pick("maximum", window=3)),
    ("cummax", _pick("maximum", is_running=True)),
    ("cummin", _pick("minimum", is_running=True)),
    ("kthvalue median nanmedian sort", _pick("order")),
    ("topk", _pick("order", jumps=affine_rules.leaves_order_open)),
    ("fractional_max_pool2d", _pick("chance", window=2)),
    ("fractional_max_pool3d", _pick("chance", window=3)),
]
_OTHERS: list[tuple[str, Operator]] = [
    # Tensors without values, which are made of no other tensor.
    ("empty empty_permuted empty_strided", Operator(is_uninitialized=True)),
    # Curves that torch does not tag pointwise; `activation` is that of `custom_activations.py`.
    ("activation hardswish log_sigmoid_forward", Operator(curve=always)),
    # What is made of truth values.
    (
        """
        bitwise_and bitwise_not bitwise_or bitwise_xor logical_and logical_not logical_or
        logical_xor
        """,
        Operator(samples=batch.elementwise),
    ),
    ("all any", Operator(samples=batch.along("dim"))),
    # Steps, which torch tags pointwise.
    ("ceil floor fmod frac remainder round trunc", Operator(curve=never)),
]
TABLE: dict[str, Operator] = {
    name: operator
    for names, operator in _AFFINE + _PIECEWISE_LINEAR + _OTHERS
    for name in names.split()
}
_UNKNOWN = Operator()


@cache  # every call of a pass asks for it several times
def operator_of(func: Any) -> Operator:
    """Return what the table says of an operator, as `__torch_dispatch__` gets it."""
    return TABLE.get(operator_name(func), _UNKNOWN)


def keeps_samples_apart(call: OperatorCall) -> bool:
    """Tell whether each sample of a call's result is made from the same sample of its operands."""
    return operator_of(call.func).samples(call)
