"""Curves approximated by tangents: what LANN complexity stands on."""

from lightning_effcx.tangents.amplification import error_amplification
from lightning_effcx.tangents.greedy import GreedyOrder
from lightning_effcx.tangents.layers import find_layers
from lightning_effcx.tangents.substitution import Substituted, difference

__all__ = [
    "GreedyOrder",
    "Substituted",
    "difference",
    "error_amplification",
    "find_layers",
]
