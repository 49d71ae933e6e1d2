import json
from functools import partial

import pytest
import torch
from procedures import Failing, Lookup, Majority, Projected, trainer
from torch import Generator

from lightning_effcx.studies import double_descent, effective_model_complexity

WIDTHS = (8, 12, 16, 20, 48)
SAMPLES = 16


def data(n, seed=0):
    """Labels that a line decides, but for a fifth."""
    generator = Generator().manual_seed(seed)
    x = torch.randn(n, 60, generator=generator)
    wrong = torch.rand(n, generator=generator) < 0.2
    return x, ((x[:, :6].sum(1) > 0) ^ wrong).long()


descend = partial(
    double_descent, dataset=data(64), test=data(500, seed=1), samples=SAMPLES, repeats=8,
    epsilon=0.0, make_trainer=trainer, batch_size=64, progress=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def found():
    return descend({width: partial(Projected, width) for width in WIDTHS})


def test_least_squares_peaks_where_the_dimensions_are_the_samples(found):
    assert found.peak == SAMPLES
    errors = {width: row.test_error for width, row in found.table.items()}
    assert errors[16] > errors[12] > errors[8]
    assert errors[16] > errors[20] > errors[48]


def test_the_complexity_of_least_squares_is_at_least_the_number_of_dimensions(found):
    for width, study in found.studies.items():
        assert study.emc >= width  # all equations can be solved
        if not study.censored:
            assert study.emc <= 1.5 * width  # of a few more the signs are right by chance
    assert 1 <= found.ratio <= 1.5


def test_every_value_has_the_study_of_its_complexity(found):
    alone = effective_model_complexity(
        partial(Projected, 12), data(64), test=data(500, seed=1), repeats=8, epsilon=0.0,
        including=[SAMPLES], make_trainer=trainer, batch_size=64, progress=False,
    )  # fmt: skip
    assert found.studies[12] == alone
    assert found.table[12] == alone.at(SAMPLES)


def test_epochs_are_those_of_trainers(tmp_path):
    epochs = {3: partial(trainer, 3), 1: partial(trainer, 1)}
    found = descend(
        partial(Projected, 4), make_trainer=epochs, along="epochs", repeats=1, folder=tmp_path
    )
    assert [*found.studies] == [1, 3]
    assert found.studies[1] == found.studies[3]  # whose one step is repeated
    known = json.loads((tmp_path / "epochs=3" / "study.json").read_text())["arguments"]
    assert known["make_trainer"] == "procedures:trainer(3)"


def test_both_may_go_by_value():
    made = {4: partial(Projected, 4), 8: partial(Projected, 8)}
    found = descend(made, make_trainer={4: trainer, 8: partial(trainer, 2)}, repeats=1)
    assert [*found.studies] == [4, 8]


def test_a_study_goes_on_where_it_was_and_other_widths_may_be_added(tmp_path):
    few = partial(descend, repeats=1, folder=tmp_path)
    first = few({4: partial(Projected, 4)})
    lines = (tmp_path / "width=4/results.jsonl").read_text()
    both = few({4: partial(Projected, 4), 8: partial(Projected, 8)})
    assert both.studies[4] == first.studies[4]
    assert (tmp_path / "width=4/results.jsonl").read_text() == lines


def test_the_table_has_a_row_for_every_value_and_says_where_the_peak_is(found):
    table = found.as_table()
    cells = [[*column.cells] for column in table.columns]
    assert [column.header for column in table.columns] == [
        "width", "EMC", "EMC / samples", "training error", "test error",
    ]  # fmt: skip
    assert cells[0] == [str(width) for width in WIDTHS]
    assert cells[1] == [study.shown() for study in found.studies.values()]
    assert float(cells[2][2]) == pytest.approx(found.ratio, abs=0.005)
    assert [row.style for row in table.rows] == [None, None, "bold", None, None]
    assert table.caption == (
        "with 16 samples the test error peaks at width 16, where the EMC at error 0 is "
        f"{found.ratio:.2f} times that many"
    )


def test_json_has_everything(found):
    told = json.loads(found.as_json())
    assert (told["along"], told["samples"], told["peak"]) == ("width", 16, 16)
    assert told["ratio"] == found.ratio
    assert [each["width"] for each in told["studies"]] == [*WIDTHS]
    for each, study in zip(told["studies"], found.studies.values(), strict=True):
        assert (each["emc"], each["censored"]) == (study.emc, study.censored)
        assert [row["test_error"] for row in each["table"]] == [
            row.test_error for row in study.table
        ]


def test_the_figure_has_errors_above_and_complexities_below(found):
    top, bottom = found.plot().axes
    assert [container.get_label() for container in top.containers] == ["training", "test"]
    line = top.containers[1].lines[0]
    assert line.get_xdata().tolist() == [*WIDTHS]
    assert line.get_ydata().tolist() == [row.test_error for row in found.table.values()]
    assert bottom.get_lines()[0].get_ydata().tolist() == [
        study.emc for study in found.studies.values()
    ]
    labels = [text.get_text() for text in bottom.get_legend().get_texts()]
    assert labels == ["EMC", "samples at hand", "peak"]


def test_a_complexity_that_is_censored_is_drawn_as_at_least():
    _, bottom = descend({1: Lookup, 2: Majority}, repeats=1).plot().axes
    (line,) = [line for line in bottom.get_lines() if line.get_label() == "at least"]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([1], [64])


def test_what_failed_is_told_with_its_value():
    found = descend({1: partial(Failing, 1), 2: partial(Failing, 2)}, repeats=1)
    assert [*found.failures] == ["width=2/n=1/repeat=0"]
    assert found.failures["width=2/n=1/repeat=0"].startswith("ValueError: too few: 1\n")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"make_module": Majority}, "neither make_module nor make_trainer is made by value: expec"),
        ({"make_module": {}}, "neither make_module nor make_trainer is made by value: expected a"),
        (
            {"make_module": {1: Majority}, "make_trainer": {2: trainer}},
            r"make_module is made for \[1\], but make_trainer for \[2\]: expected the same values",
        ),
        ({"make_module": {1: Majority}, "samples": 65}, "n=65 in sizes: expected whole numbers of"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        descend(**options)
