import json

import pytest

from lightning_effcx.studies import DescentStudy, EMCRow, EMCStudy

SAMPLES = 64


def study(emc, test_error, *, stderr=0.01, censored=False):
    rows = [EMCRow(32, 0.0, 0.0, 0.5, stderr, 3)]
    if test_error is not None:
        rows.append(EMCRow(SAMPLES, 0.25, 0.02, test_error, stderr, 3))
    upper = None if censored else 2 * emc
    return EMCStudy(emc, (0, upper), 0.1, tuple(rows), monotone=True, failures={})


@pytest.fixture
def found():
    """The narrowest is the worst, since it fits too little; the peak is that of the rise."""
    studies = {2: study(8, 0.6), 4: study(32, 0.3), 8: study(80, 0.4), 16: study(128, 0.35)}
    return DescentStudy("width", SAMPLES, studies)


def summary(*errors, **options):
    studies = {2**i: study(48, error, **options) for i, error in enumerate(errors)}
    return DescentStudy("width", SAMPLES, studies).summary()


def test_the_peak_is_where_the_rise_ends_however_bad_the_smallest(found):
    assert found.rise == (4, 8)
    assert found.peak == 8
    assert found.ratio == 80 / 64


def test_a_rise_may_have_steps_and_falls_in_between():
    errors = (0.3, 0.35, 0.34, 0.5, 0.2, 0.3)
    studies = {i: study(48, error) for i, error in enumerate(errors)}
    assert DescentStudy("epochs", SAMPLES, studies).rise == (0, 3)


def test_the_summary_says_how_high_the_peak_is_and_where(found):
    assert found.summary() == (
        "with 64 samples the test error rises by 0.100 ± 0.009 to a peak at width 8, where the EMC "
        "at error 0.1 is 1.25 times 64"
    )
    assert "to the largest width 2, where the EMC at error 0.1 is 0.75" in summary(0.1, 0.2)
    assert "is ≥ 0.75 times" in summary(0.1, 0.2, censored=True)
    assert "rises by 0.100 to the" in summary(0.1, 0.2, stderr=None)


def test_without_a_rise_there_is_no_peak():
    found = DescentStudy("width", SAMPLES, {1: study(8, 0.5), 2: study(16, 0.5), 4: study(32, 0.2)})
    assert (found.rise, found.peak, found.ratio) == (None, None, None)
    assert found.summary() == "with 64 samples the test error never rises along width"
    assert {row.style for row in found.as_table().rows} == {None}
    assert json.loads(found.as_json())["peak"] is None
    labels = [text.get_text() for text in found.plot().axes[0].get_legend().get_texts()]
    assert labels == ["training", "test"]
    assert summary(0.5) == found.summary()  # of a single value


def test_the_table_has_a_row_for_every_value(found):
    table = found.as_table()
    assert [column.header for column in table.columns] == [
        "width", "EMC", "EMC / samples", "training error", "test error",
    ]  # fmt: skip
    cells = [[*column.cells] for column in table.columns]
    assert cells[:3] == [
        ["2", "4", "8", "16"], ["8", "32", "80", "128"], ["0.12", "0.50", "1.25", "2.00"],
    ]  # fmt: skip
    assert cells[3] == ["0.250 ± 0.020"] * 4
    assert cells[4] == [f"{error} ± 0.010" for error in ("0.600", "0.300", "0.400", "0.350")]
    assert [row.style for row in table.rows] == [None, None, "bold", None]
    assert table.caption == found.summary()


def test_a_value_of_which_all_trainings_at_hand_failed_has_no_errors():
    studies = {2: study(8, 0.3), 4: study(32, None), 8: study(80, 0.4)}
    found = DescentStudy("width", SAMPLES, studies)
    assert [*found.table] == [2, 8]
    assert found.rise == (2, 8)
    assert [*found.as_table().columns[4].cells] == ["0.300 ± 0.010", "", "0.400 ± 0.010"]
    assert found.plot().axes[0].containers[1].lines[0].get_xdata().tolist() == [2, 8]


def test_json_has_everything(found):
    told = json.loads(found.as_json())
    assert (told["along"], told["samples"]) == ("width", SAMPLES)
    assert (told["rise"], told["peak"], told["ratio"]) == ([4, 8], 8, 1.25)
    assert [each["width"] for each in told["studies"]] == [2, 4, 8, 16]
    for each, study in zip(told["studies"], found.studies.values(), strict=True):
        assert (each["emc"], each["censored"]) == (study.emc, study.censored)
        assert [row["test_error"] for row in each["table"]] == [
            row.test_error for row in study.table
        ]


def test_the_figure_has_errors_above_and_complexities_below(found):
    top, bottom = found.plot().axes
    assert [container.get_label() for container in top.containers] == ["training", "test"]
    line = top.containers[1].lines[0]
    assert line.get_xdata().tolist() == [2, 4, 8, 16]
    assert line.get_ydata().tolist() == [0.6, 0.3, 0.4, 0.35]
    assert bottom.get_lines()[0].get_ydata().tolist() == [8, 32, 80, 128]
    labels = [text.get_text() for text in bottom.get_legend().get_texts()]
    assert labels == ["EMC", "samples at hand", "peak"]


def test_a_complexity_that_is_censored_is_drawn_as_at_least():
    studies = {1: study(64, 0.3, censored=True), 2: study(8, 0.4)}
    _, bottom = DescentStudy("width", SAMPLES, studies).plot().axes
    (line,) = [line for line in bottom.get_lines() if line.get_label() == "at least"]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([1], [64])
