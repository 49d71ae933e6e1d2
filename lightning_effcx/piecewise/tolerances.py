"""Tolerances: how much rounding may move a number, in the precision of a pass."""

import torch


def roundings(count: int, dtype: torch.dtype) -> float:
    """Return a multiple of the relative error of one operation; at most half of the digits.

    Example:
        >>> f"{roundings(4096, torch.float64):.0e}, {roundings(4096, torch.float16):.0e}"
        '9e-13, 3e-02'
    """
    eps = torch.finfo(dtype).eps
    return min(count * eps, eps**0.5)


def nearness(dtype: torch.dtype) -> float:
    """Return how far apart positions may be, in segments, and still be the same place.

    Units that share a boundary find it at positions that differ by rounding.
    """
    return roundings(4096, dtype)
