"""Tolerances: how much rounding may move a number, in the precision of a pass."""

import torch


def tolerance(share: float, dtype: torch.dtype) -> float:
    """Return the relative error at which a share of the digits of a number is right.

    So the same share of the digits counts in every precision. A number of roundings would be too
    few of them in double precision, or would leave no digits in half precision.

    Example:
        >>> [f"{tolerance(0.77, getattr(torch, name)):.0e}" for name in ("float64", "float32")]
        ['9e-13', '5e-06']
    """
    return torch.finfo(dtype).eps ** share


def nearness(dtype: torch.dtype) -> float:
    """Return how far apart positions may be, in segments, and still be the same place.

    Units that share a boundary find it at positions that differ by rounding.
    """
    return tolerance(0.77, dtype)
