import math

import numpy as np
import pytest

from lightning_effcx.compare import Curve, Run, compare_runs
from lightning_effcx.compare.plots import plot_runs
from lightning_effcx.plotting import save_figure


def made(path, **curves):
    """Make a run of curves given as `{step: value}`."""
    read = {
        tag.replace("__", "/"): Curve(tuple(points), tuple(points.values()))
        for tag, points in curves.items()
    }
    return Run(path, {}, read)


def test_there_is_a_panel_for_every_column_but_the_gap():
    point = {1: 1.0}
    run = made("a", effcx__m=point, effcx__n=point, val_loss=point, train_loss=point)
    figure = plot_runs(compare_runs([run]))
    assert [axes.get_title("left") for axes in figure.axes] == ["m", "n", "val_loss"]


def test_a_line_is_the_mean_of_the_runs_that_logged_the_step():
    runs = [
        made("a/seed_0", effcx__m={0: 1.0, 10: 2.0}),
        made("a/seed_1", effcx__m={10: 6.0, 20: 5.0}),
    ]
    (axes,) = plot_runs(compare_runs(runs)).axes
    (line,) = axes.get_lines()
    assert line.get_xydata().tolist() == [[0, 1], [10, 4], [20, 5]]


def test_the_band_is_one_standard_deviation_on_both_sides():
    runs = [made(f"seed_{i}", effcx__m={0: value}) for i, value in enumerate([1.0, 2.0, 3.0])]
    (axes,) = plot_runs(compare_runs(runs)).axes
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1.0, 3.0)  # mean 2, deviation 1


def test_groups_keep_their_colours_over_the_panels_and_one_legend_names_them():
    runs = [
        made("a", effcx__m={0: 1.0, 1: 1.0}),
        made("b", effcx__m={0: 2.0, 1: 2.0}, effcx__n={0: 2.0, 1: 2.0}),
    ]
    figure = plot_runs(compare_runs(runs))
    colours = [[line.get_color() for line in axes.get_lines()] for axes in figure.axes]
    assert colours[0] == colours[1]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert not any(axes.get_legend() for axes in figure.axes)


def test_the_legend_speaks_of_deviations_where_a_group_has_several_runs():
    for path, title in (("b", ""), ("a/seed_1", "mean over runs ± one standard deviation")):
        runs = [made("a/seed_0", effcx__m={0: 1.0}), made(path, effcx__m={0: 2.0})]
        (legend,) = plot_runs(compare_runs(runs)).legends
        assert legend.get_title().get_text() == title


def test_twenty_groups_differ_in_colour_or_dashes():
    runs = [made(f"group{i}", effcx__m={0: 1.0}) for i in range(20)]
    lines = plot_runs(compare_runs(runs)).axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20


def test_values_that_are_not_finite_leave_a_hole(tmp_path):
    runs = [made("a", effcx__m={0: 1.0, 1: math.nan, 2: math.inf, 3: 1.0})]
    figure = plot_runs(compare_runs(runs))
    (line,) = figure.axes[0].get_lines()
    assert np.isfinite(line.get_ydata()).tolist() == [True, False, False, True]
    save_figure(figure, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_a_comparison_without_curves_cannot_be_plotted():
    with pytest.raises(ValueError, match=r"^There is nothing to plot: no column of the comparison"):
        plot_runs(compare_runs([made("a", lr={0: 1.0})]))


def study(path, along, **points):
    curves = {
        tag.replace("__", "/"): Curve(tuple(it), tuple(it.values()), along)
        for tag, it in points.items()
    }
    return Run(path, {}, curves | {"effcx/emc": Curve((0,), (8.0,), along="")}, study="emc")


def test_curves_of_a_study_go_along_its_sizes_which_a_training_s_panel_does_not():
    sizes = {1: 0.0, 8: 0.0, 64: 0.5}
    runs = [study("a", "samples", effcx__emc__train_error=sizes), made("b", effcx__m={0: 1, 9: 1})]
    figure = plot_runs(compare_runs(runs))
    titles, along, scales = zip(
        *((it.get_title("left"), it.get_xlabel(), it.get_xscale()) for it in figure.axes),
        strict=True,
    )
    assert titles == ("emc.train_error", "m")  # emc itself is a single number
    assert along == ("samples", "step")
    assert scales == ("log", "linear")
    figure.draw_without_rendering()
    ticks = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert {"1", "8", "64"} <= set(ticks)


def test_a_panel_tells_along_what_it_goes_unless_the_one_below_does():
    runs = [made("a", **{f"effcx__{name}": {0: 1.0, 9: 1.0} for name in "ghijk"})]
    runs.append(study("b", "samples", **{f"effcx__{name}": {8: 1.0, 32: 1.0} for name in "lm"}))
    figure = plot_runs(compare_runs(runs))  # four above, three below
    assert [axes.get_xlabel() for axes in figure.axes] == [
        *("", "step", "step", "step"),
        *("step", "samples", "samples"),
    ]


def test_single_numbers_alone_cannot_be_plotted():
    with pytest.raises(ValueError, match=r"^There is nothing to plot: no column of the comparison"):
        plot_runs(compare_runs([study("a", "samples")]))


def test_eight_panels_make_a_file_under_250_kilobytes(tmp_path):
    noise = np.random.default_rng(0)
    runs = [
        made(
            f"regularizer_{group}/seed_{seed}",
            **{
                f"effcx__measure_{i}": {
                    50 * t: noise.normal(group, 0.3) + t / 9 for t in range(200)
                }
                for i in range(8)
            },
        )
        for group in range(4)
        for seed in range(3)
    ]
    file = tmp_path / "plot.png"
    save_figure(plot_runs(compare_runs(runs)), file)
    assert file.stat().st_size < 250_000
