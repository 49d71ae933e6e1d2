"""Figures: what all have in common, and how they are written to files."""

from collections.abc import Iterable
from io import BytesIO
from math import log
from pathlib import Path

try:
    from matplotlib.axes import Axes as Axes  # noqa: PLC0414 for all who draw
    from matplotlib.figure import Figure as Figure  # noqa: PLC0414
    from PIL import Image  # comes with matplotlib
except ImportError as error:
    raise ImportError(
        "Plots need matplotlib, which `pip install 'lightning-effcx[plot]'` brings."
    ) from error

_ROOM = 0.35  # inches between numbers at a logarithmic axis

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito's palette, which colour-blind readers can tell apart, less its yellow (too light)."""


def simplify(axes: Axes) -> None:
    """Draw of a panel only what helps to read it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.tick_params(labelsize="small")


def label_logarithms(axes: Axes, which: str, values: Iterable[float]) -> None:
    """Make the axis `x` or `y` logarithmic, and name values there, as many as there is room for."""
    values = sorted(values)
    extent = axes.get_window_extent()
    dots = extent.width if which == "x" else extent.height
    apart = log(values[-1] / values[0]) * _ROOM * axes.figure.dpi / dots
    shown: list[float] = []
    for value in values:
        if not shown or log(value / shown[-1]) >= apart:
            shown.append(value)
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks(shown, [f"{value:g}" for value in shown])
    axis.set_ticks([], minor=True)


def save_figure(figure: Figure, file: Path) -> None:
    """Save a figure in the format of the file's suffix, PNG if it has none."""
    form = file.suffix.removeprefix(".").lower() or "png"
    picture = BytesIO()
    figure.savefig(picture, format=form)
    if form == "png":
        # 256 colours look the same as millions here, in a third of the bytes.
        with Image.open(picture) as image:
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, format=form)
    else:
        file.write_bytes(picture.getvalue())
