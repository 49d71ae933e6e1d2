"""Refusals: why an exact pass cannot follow an operation, in one sentence each."""


class RefusedError(ValueError):
    """An operation that cannot be followed. It counts only if the outputs depend on it."""


class CurveError(RefusedError):
    """A curve, such as a sigmoid: no other way to write the network would do without it."""


def bent(name: str, operator: str, *, curve: bool, trained: bool = False) -> RefusedError:
    """Return the error of a site that is not continuous and piecewise linear.

    Args:
        name: The site.
        operator: What runs there.
        curve: Whether it is a curve of each of its inputs.
        trained: Whether it would be piecewise linear in eval mode.
    """
    advice = "put it in eval mode, or " if trained else ""
    return (CurveError if curve else RefusedError)(
        f"site {name!r} ({operator}) is not continuous and piecewise linear, so the "
        f"network has no linear regions: {advice}count transitions instead."
    )


def mixing(name: str) -> RefusedError:
    """Return the error of what works across samples where each must be by itself."""
    return RefusedError(
        f"site {name!r} moves, joins or parts samples, expected operations that treat each sample "
        "by itself: count transitions instead."
    )


def deciding(operator: str) -> RefusedError:
    """Return the error of what lets the network do other things for other inputs, or by chance."""
    return RefusedError(
        f"{operator!r} lets what the network does depend on its input, or on chance, in ways that "
        "are not continuous and piecewise linear: count transitions instead."
    )


def writing_into_a_part(name: str) -> RefusedError:
    """Return the error of an in-place operation on a part of a tensor."""
    return RefusedError(
        f"site {name!r} writes in place into a part of a tensor, which cannot be followed: "
        "use torch.cat, torch.stack or an operation that is not in place."
    )
