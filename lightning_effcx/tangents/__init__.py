"""Approximation of activation curves by tangents, for LANN complexity."""

from lightning_effcx.tangents.amplification import error_amplification
from lightning_effcx.tangents.greedy import GreedyOrder
from lightning_effcx.tangents.layers import Layer, find_layers
from lightning_effcx.tangents.piecewise_linear import Tangents
from lightning_effcx.tangents.substitution import SubstitutedNetwork, difference

__all__ = [
    "GreedyOrder",
    "Layer",
    "SubstitutedNetwork",
    "Tangents",
    "difference",
    "error_amplification",
    "find_layers",
]
