"""Figures: what all figures have in common, and how a figure is written to a file."""

from collections.abc import Iterable
from math import log
from pathlib import Path

try:
    from matplotlib.axes import Axes as Axes  # noqa: PLC0414 other files take it from here
    from matplotlib.figure import Figure as Figure  # noqa: PLC0414
except ImportError as error:
    raise ImportError(
        "Plots need matplotlib. Install it with `pip install 'lightning-effcx[plot]'`."
    ) from error

_INCHES_APART = 0.35  # between two numbers at a logarithmic axis, so that they do not overlap

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito, which colour-blind readers can tell apart.

Its yellow is left out, because it is too light for lines on white.
"""


def simplify(axes: Axes) -> None:
    """Remove the upper and right frame of a panel, and draw faint horizontal grid lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.tick_params(labelsize="small")


def label_logarithms(axes: Axes, which: str, values: Iterable[float]) -> None:
    """Make one axis logarithmic, and label it with these values, as many as there is room for.

    Args:
        axes: The panel.
        which: The axis: `x` or `y`.
        values: Positive numbers. The smallest is always labelled.
    """
    values = sorted(values)
    extent = axes.get_window_extent()
    dots = extent.width if which == "x" else extent.height
    distance = log(values[-1] / values[0]) * _INCHES_APART * axes.figure.dpi / dots
    labelled: list[float] = []
    for value in values:
        if not labelled or log(value / labelled[-1]) >= distance:
            labelled.append(value)
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks(labelled, [f"{value:g}" for value in labelled])
    axis.set_ticks([], minor=True)


def save_figure(figure: Figure, file: Path) -> None:
    """Save a figure in the format of the file's suffix. Without a suffix it is a PNG."""
    # The format is given, because matplotlib would append ".png" to a name without a suffix.
    figure.savefig(file, format=file.suffix.removeprefix(".").lower() or "png")
