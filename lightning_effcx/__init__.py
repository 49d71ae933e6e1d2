"""See how complex the function is that a network's weights represent, while Lightning trains it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_effcx.callbacks import ComplexityMonitor

__all__ = ["ComplexityMonitor", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the monitor when it is asked for, since torch and Lightning take seconds to load."""
    if name == "ComplexityMonitor":
        from lightning_effcx.callbacks import ComplexityMonitor  # noqa: PLC0415 see above

        return ComplexityMonitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
