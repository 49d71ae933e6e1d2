"""Figures: what all have in common, and how they are written to files."""

from io import BytesIO
from pathlib import Path

try:
    from matplotlib.axes import Axes as Axes  # noqa: PLC0414 for all who draw
    from matplotlib.figure import Figure as Figure  # noqa: PLC0414
    from PIL import Image  # comes with matplotlib
except ImportError as error:
    raise ImportError(
        "Plots need matplotlib, which `pip install 'lightning-effcx[plot]'` brings."
    ) from error

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito's palette, which colour-blind readers can tell apart, less its yellow (too light)."""


def simplify(axes: Axes) -> None:
    """Draw of a panel only what helps to read it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.tick_params(labelsize="small")


def label_powers(axes: Axes, most: float) -> None:
    """Write powers of two, up to `most`, below a logarithmic axis as numbers."""
    ticks = [2**i for i in range(int(most).bit_length())]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


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
