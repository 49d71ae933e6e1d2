import json
from itertools import pairwise

import pytest

from lightning_effcx.metrics.error_bars import widening
from lightning_effcx.studies import EMCRow, EMCStudy, Job, Row
from lightning_effcx.studies.emc_result import _rises


def study(upper=128, *, tested=True, **options):
    errors = [(16, 0.0), (64, 0.05), (128, 0.3)]
    table = tuple(EMCRow(n, error, 0.01, 0.5 if tested else None, None, 3) for n, error in errors)
    given = {"epsilon": 0.1, "monotone": True, "failures": {}} | options
    return EMCStudy(emc=64, interval=(16, upper), table=table, **given)


def ended(n, error="", **values):
    return Row(Job.of(f"n={n}/{values}", {"n": n}), values, error)


def test_rows_of_one_size_are_averaged():
    rows = [ended(4, train_error=0.0, test_error=0.5), ended(4, train_error=0.1, test_error=0.7)]
    found = EMCStudy.of([*rows, ended(8, train_error=0.5), ended(2, "it broke")], 0.1)
    first, second = found.table
    assert (first.n, first.train_error, first.repeats) == (4, pytest.approx(0.05), 2)
    assert first.train_stderr == pytest.approx(0.05 * widening(2))
    assert first.test_error == pytest.approx(0.6)
    assert first.test_stderr == pytest.approx(0.1 * widening(2))
    assert (second.train_stderr, second.test_error, second.test_stderr) == (None, None, None)
    assert (found.emc, found.interval) == (4, (0, 8))
    assert [*found.failures.values()] == ["it broke"]


def test_the_summary_says_what_is_not_certain():
    assert study().summary() == "effective model complexity 64 at error 0.1, below 128"
    assert "complexity ≥ 64 at error 0.1: all sizes are fitted" in study(upper=None).summary()
    doubt = "; training errors fall somewhere, so it may be larger"
    assert study(monotone=False).summary().endswith(doubt)
    assert study(failures={"a": "b"}).summary().endswith("; 1 training failed")
    assert study(failures={"a": "b", "c": "d"}).summary().endswith("; 2 trainings failed")


def test_the_table_has_a_row_for_every_size_and_a_line_below_the_complexity():
    table = study().as_table()
    assert [column.header for column in table.columns] == [
        "samples", "training error", "test error", "repeats",
    ]  # fmt: skip
    assert [*table.columns[0].cells] == ["16", "64", "128"]
    assert [*table.columns[1].cells] == ["0.000 ± 0.010", "0.050 ± 0.010", "0.300 ± 0.010"]
    assert [*table.columns[2].cells] == ["0.500"] * 3
    assert [row.end_section for row in table.rows] == [False, True, False]
    assert len(study(tested=False).as_table().columns) == 3


def test_json_has_everything():
    told = json.loads(study(upper=None).as_json())
    assert (told["emc"], told["interval"], told["censored"]) == (64, [16, None], True)
    assert told["table"][1] == {
        "n": 64, "train_error": 0.05, "train_stderr": 0.01,
        "test_error": 0.5, "test_stderr": None, "repeats": 3,
    }  # fmt: skip


@pytest.mark.parametrize(("tested", "lines"), [(True, ["training", "test"]), (False, ["training"])])
def test_the_figure_has_a_line_for_each_error_that_is_known(tested, lines):
    (axes,) = study(tested=tested).plot().axes
    assert [container.get_label() for container in axes.containers] == lines
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    assert legend == {*lines, "ε = 0.1", "EMC = 64"}
    assert [*axes.containers[0].lines[0].get_ydata()] == [0.0, 0.05, 0.3]


def test_the_figure_says_that_a_complexity_is_censored():
    legend = study(upper=None).plot().axes[0].get_legend()
    assert "EMC ≥ 64" in [text.get_text() for text in legend.get_texts()]


def test_a_row_is_found_by_its_size():
    assert study().at(64).train_error == 0.05
    assert study().at(65) is None


def test_errors_that_fall_clearly_with_the_size_are_not_monotone():
    def row(n, error, stderr=0.01):
        return EMCRow(n, error, stderr, None, None, 3)

    assert _rises([row(100, 0.1), row(200, 0.3)])
    assert _rises([row(100, 0.32), row(200, 0.3)])  # by chance
    assert not _rises([row(100, 0.5), row(200, 0.3)])
    assert _rises([row(4, 0.5, 0.0), row(8, 0.3, 0.0)])  # few samples tell little
    assert _rises([row(100, 0.5, 0.2), row(200, 0.3)])
    steps = [row(100 * 2**i, 0.5 - 0.04 * i) for i in range(4)]
    assert all(_rises(pair) for pair in pairwise(steps))
    assert not _rises(steps)  # though no step is clear
