"""Affine rules: for which calls an operator is affine in the tensors that depend on the input.

A rule that does not hold says that the call is not affine. Then the rest of the table says what it
is instead: an operation with kinks, a choice, a curve, or something else.
"""

import torch

from lightning_effcx.tracing.operators.calls import OperatorCall, Rule


def in_one_of(*names: str) -> Rule:
    """Hold where at most one of these arguments depends on the input, as one factor of `mul`."""

    def rule(call: OperatorCall) -> bool:
        return sum(call.depends(call.given[name]) for name in names) <= 1

    return rule


def in_one_of_list(name: str) -> Rule:
    """Hold where at most one tensor of a list depends on the input, as one factor of `einsum`."""

    def rule(call: OperatorCall) -> bool:
        return sum(map(call.depends, call.given[name])) <= 1

    return rule


def unless(*names: str) -> Rule:
    """Hold where none of these arguments depends on the input, such as the divisor of `div`."""

    def rule(call: OperatorCall) -> bool:
        return not any(call.depends(call.given.get(name)) for name in names)

    return rule


def without(name: str) -> Rule:
    """Hold where this argument is not given, such as `rounding_mode`."""

    def rule(call: OperatorCall) -> bool:
        return call.given.get(name) is None

    return rule


def exact_quotient(call: OperatorCall) -> bool:
    """Hold where a division does not round, and its divisor does not depend on the input."""
    return without("rounding_mode")(call) and unless("other")(call)


def in_eval_mode(call: OperatorCall) -> bool:
    """Hold where a batch normalisation uses statistics from before, which do not depend on x."""
    has_statistics = call.given.get("running_var") is not None
    is_training = call.given.get("training", False)
    return has_statistics and not is_training and unless("weight", "running_var")(call)


def is_pointwise(call: OperatorCall) -> bool:
    """Hold where torch itself says that the operator maps every entry alone."""
    return torch.Tag.pointwise in call.func.tags


def makes_integers(call: OperatorCall) -> bool:
    """Hold where a copy has whole numbers or truth values instead of what is copied."""
    dtype = call.given.get("dtype")
    return not (dtype is None or dtype.is_floating_point or dtype.is_complex)


def is_training(call: OperatorCall) -> bool:
    """Hold where an operator draws numbers by chance, as dropout and `rrelu` do in training."""
    return call.given["train" if "train" in call.given else "training"] is not False


def jumps_at_its_threshold(call: OperatorCall) -> bool:
    """Hold where `threshold` puts another value in place of small ones than its threshold."""
    return call.given["value"] != call.given["threshold"]


def leaves_order_open(call: OperatorCall) -> bool:
    """Hold where `topk` may return its elements in any order, which may change anywhere."""
    return call.given["sorted"] is False
