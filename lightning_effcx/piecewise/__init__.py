"""The exact anatomy of piecewise-linear networks."""

from lightning_effcx.piecewise.affine import Bends, bends
from lightning_effcx.piecewise.lines import Pieces, check_piecewise_linear, pieces
from lightning_effcx.piecewise.rows import Rows

__all__ = [
    "Bends",
    "Pieces",
    "Rows",
    "bends",
    "check_piecewise_linear",
    "pieces",
]
