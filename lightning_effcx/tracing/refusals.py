"""Refusals: why an exact pass cannot follow a network, in one sentence each."""


class RefusedError(ValueError):
    """An operation that cannot be followed. It counts only if the outputs depend on it."""


class CurveError(RefusedError):
    """A curve, such as a sigmoid: no other way to write the network would do without it."""


def choose_refusal(refused: list[RefusedError]) -> RefusedError:
    """Choose what to say of several refusals: a curve first, which would stay in any case."""
    curves = (refusal for refusal in refused if isinstance(refusal, CurveError))
    return next(curves, refused[0])


def not_piecewise_linear(
    name: str, operator: str, *, is_curve: bool, needs_eval_mode: bool = False
) -> RefusedError:
    """Return the error of a site that is not continuous and piecewise linear.

    Args:
        name: The site.
        operator: The operator that runs there.
        is_curve: Whether it is a curve of each of its inputs.
        needs_eval_mode: Whether it would be piecewise linear in eval mode.
    """
    advice = "put the network in eval mode, or " if needs_eval_mode else ""
    other = " or LANNComplexity" if is_curve else ""
    known = "" if is_curve else "known to be "  # the table does not say what the operator does
    return (CurveError if is_curve else RefusedError)(
        f"site {name!r} ({operator}) is not {known}piecewise linear, so it has no exact regions: "
        f"{advice}use Transitions{other}."
    )


def jumping(name: str, operator: str) -> RefusedError:
    """Return the error of a site that is not continuous, such as a comparison or a rounding."""
    return RefusedError(
        f"site {name!r} ({operator}) is not continuous, so it has no exact regions: "
        "use Transitions."
    )


def mixing(name: str) -> RefusedError:
    """Return the error of an operation across samples."""
    return RefusedError(
        f"site {name!r} mixes the samples of a batch, or is not known to keep them apart, so it "
        "has no exact regions: use Transitions, or let only samples lie along dimension 0."
    )


def deciding(operator: str) -> RefusedError:
    """Return the error of an operator by which the network decides what it does."""
    return RefusedError(
        f"{operator!r} lets the network decide by its input, or by chance, what it computes, so it "
        "has no exact regions: use Transitions."
    )


def writing(name: str) -> RefusedError:
    """Return the error of an operation that writes in place where it cannot be followed."""
    return RefusedError(
        f"site {name!r} writes in place into a tensor that cannot be followed, such as a buffer or "
        "whole numbers: use torch.cat, torch.stack or an operation that is not in place."
    )


def becoming_infinite() -> RefusedError:
    """Return the error of values that are infinite in some places only."""
    return RefusedError(
        "a value of the network is infinite at one point of a path, but not at the next one, so it "
        "is not piecewise linear there: keep the values finite, such as by smaller inputs."
    )


def losing_digits(operator: str, dtype: object, own: object) -> RefusedError:
    """Return the error of a cast that rounds, so that a line becomes a staircase."""
    return RefusedError(
        f"{operator!r} rounds numbers of {own} to {dtype}, which has fewer digits, so the network "
        "has steps and no exact regions: leave this cast out, or use Transitions."
    )


def tying(name: str, operator: str) -> RefusedError:
    """Return the error of a choice whose elements are too close to each other for the precision."""
    return RefusedError(
        f"site {name!r} ({operator}) picks among elements that are too close to each other for the "
        "precision of the pass: use dtype=torch.float64, or Transitions."
    )
