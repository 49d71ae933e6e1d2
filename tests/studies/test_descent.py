import json
from functools import partial

import pytest
import torch
from procedures import Failing, Majority, Projected, trainer
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
    assert 1 <= found.ratio <= 1.5  # at the peak


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


def test_what_failed_is_told_with_its_value():
    found = descend({1: partial(Failing, 1), 2: partial(Failing, 2)}, repeats=1)
    assert [*found.failures] == ["width=2/n=1/repeat=0"]
    assert found.failures["width=2/n=1/repeat=0"].startswith("ValueError: too few: 1\n")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"make_module": Majority}, "neither make_module nor make_trainer is a dictionary by valu"),
        ({"make_module": {}}, "neither make_module nor make_trainer is a dictionary by value: ex"),
        (
            {"make_module": {1: Majority}, "make_trainer": {2: trainer}},
            r"make_module has the values \[1\], but make_trainer \[2\]: expected the same values i",
        ),
        ({"make_module": {1: Majority}, "samples": 65}, "samples=65: expected a whole number from"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        descend(**options)
