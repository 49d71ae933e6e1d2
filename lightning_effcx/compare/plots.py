"""Plots: the curves of groups of runs, with a panel for each measure."""

from collections import defaultdict
from collections.abc import Sequence
from math import ceil

from lightning_effcx.compare.comparison import Comparison, mean_of, spread_of
from lightning_effcx.compare.groups import Group
from lightning_effcx.compare.runs import Run
from lightning_effcx.plotting import COLOURS, Axes, Figure, label_logarithms, simplify

_DASHES = ("-", "--", ":", "-.")  # the next style once all colours are used
_PANEL = (3.4, 2.5)  # inches
_ACROSS = 4  # panels in a row, at most
_LETTERS_PER_INCH = 12  # of the legend


def plot_runs(comparison: Comparison) -> Figure:
    """Draw each column of a comparison that is a curve.

    The gap is no curve, because it is computed from last values, nor is the number that a study
    found. The curves of a study are drawn over its sizes, on a logarithmic axis.

    A line is the mean over the runs of a group that logged the step. Its band is one standard
    deviation over these runs on both sides.
    """
    groups = [row.group for row in comparison.rows]
    panels = [
        (column.name, column.tag, along)
        for column in comparison.columns
        if column.minus is None and (along := _along(groups, column.tag))
    ]
    if not panels:
        raise ValueError("There is nothing to plot: no column of the comparison is a curve.")
    down = ceil(len(panels) / _ACROSS)
    across = ceil(len(panels) / down)  # 3 + 3 rather than 4 + 2
    width = max(across * _PANEL[0], 2 * _PANEL[0])
    legend_columns = _legend_columns(groups, width)
    legend_height = 0.2 * ceil(len(groups) / legend_columns) + 0.4
    figure = Figure((width, down * _PANEL[1] + legend_height), layout="constrained")
    for place, (name, tag, along) in enumerate(panels):
        axes = figure.add_subplot(down, across, place + 1)
        _draw(axes, groups, tag, along)
        axes.set_title(name, fontsize="medium", loc="left")
        # A panel has a label only if the panel below does not have the same one.
        if along not in {below for *_, below in panels[place + across : place + across + 1]}:
            axes.set_xlabel(along, fontsize="small")
    figure.legend(
        handles=figure.axes[0].get_lines(),
        title="mean over runs ± one standard deviation" if comparison.repeated else None,
        loc="outside lower center",
        ncols=legend_columns,
        fontsize="small",
        title_fontsize="small",
        frameon=False,
    )
    return figure


def _legend_columns(groups: Sequence[Group], width: float) -> int:
    longest = (
        max(len(group.label) for group in groups) + 6
    )  # letters that the line before the label takes
    return min(len(groups), max(1, int(width * _LETTERS_PER_INCH / longest)))


def _along(groups: Sequence[Group], tag: str) -> str:
    """Return what the steps of a curve count; empty if no run has more than a single number."""
    curves = (run.curves[tag] for group in groups for run in group.runs if tag in run.curves)
    return next((curve.along for curve in curves if curve.along), "")


def _draw(axes: Axes, groups: Sequence[Group], tag: str, along: str) -> None:
    """Draw one panel. A group without the curve gets an empty line, which the legend needs."""
    sizes: set[int] = set()
    for place, group in enumerate(groups):
        colour = COLOURS[place % len(COLOURS)]
        dashes = _DASHES[place // len(COLOURS) % len(_DASHES)]
        steps, means, spreads = _average(group.runs, tag, along)
        sizes.update(steps)
        marker = "o" if len(steps) == 1 else ""  # a line of one point cannot be seen
        axes.plot(steps, means, dashes, color=colour, marker=marker, label=group.label)
        lower = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        upper = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        axes.fill_between(steps, lower, upper, color=colour, alpha=0.2, linewidth=0)
    if along != "step":
        label_logarithms(axes, "x", sizes)
    simplify(axes)


def _average(
    runs: Sequence[Run], tag: str, along: str
) -> tuple[list[int], list[float], list[float]]:
    """Return steps, means and spreads over the runs that logged each step.

    Nothing is interpolated between the steps of a run.
    """
    points: defaultdict[int, list[float]] = defaultdict(list)
    for run in runs:
        if (curve := run.curves.get(tag)) and curve.along == along:
            for step, value in zip(curve.steps, curve.values, strict=True):
                points[step].append(value)
    steps = sorted(points)
    means = [mean_of(points[step]) for step in steps]
    return steps, means, [spread_of(points[step]) or 0.0 for step in steps]
