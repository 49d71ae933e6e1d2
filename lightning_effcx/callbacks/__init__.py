"""Lightning callbacks: the complexity of the network, at every validation of its training."""

from lightning_effcx.callbacks.monitor import ComplexityMonitor
from lightning_effcx.callbacks.schedules import Every, Geometric

__all__ = ["ComplexityMonitor", "Every", "Geometric"]
