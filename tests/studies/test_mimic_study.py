import json
import sys
from dataclasses import fields, replace

import pytest
import torch
from networks import linear, mlp
from rich.console import Console
from torch import nn
from torch.utils.data import TensorDataset

from lightning_effcx.functional import ShallowStudent, fit_student, mimic_gap
from lightning_effcx.studies import mimic_result
from lightning_effcx.studies.mimic_study import mimic

pytestmark = pytest.mark.usefixtures("_float64")

FEW = {"students": (2, 8), "steps": 20}


def samples(count=60, inputs=4, classes=3):
    x = torch.randn(count, inputs)
    return x, x[:, :classes].argmax(1)


def rank_2(inputs=6, outputs=4):
    return linear(torch.randn(outputs, 2) @ torch.randn(2, inputs), torch.randn(outputs))


@pytest.fixture
def taught():
    return mlp(4, 16, 16, 3), samples()


@pytest.fixture
def fittings(monkeypatch):
    """Which fits were made: hidden units, on what."""
    module = sys.modules[mimic.__module__]  # whose name is also the function's

    made = []
    for name in ("fit_outputs", "fit_labels"):
        fit = getattr(module, name)

        def counted(student, *args, name=name, fit=fit):
            made.append((student.hidden.out_features, name))
            fit(student, *args)

        monkeypatch.setattr(module, name, counted)
    return made


def lines(study):
    console = Console(width=200)
    with console.capture() as captured:
        console.print(study.as_table())
    return captured.get().splitlines()


# What is found


def test_the_smallest_linear_student_of_a_linear_teacher_has_its_rank():
    x = 3 * torch.randn(40, 6) + 5
    study = mimic(rank_2(), (x,), students=(4, 1, 3, 2), activation="linear", labels=False)
    assert study.size == 2
    assert [row.hidden for row in study.students] == [1, 2, 3, 4]
    assert study.students[0].r2 < 0.95
    for row in study.students[1:]:
        assert row.r2 == pytest.approx(1, abs=1e-20)
        assert row.mse == pytest.approx(0, abs=1e-20)
        assert row.agreement == 1


@pytest.mark.parametrize(("bottleneck", "size"), [(1, None), (2, 8), (3, 8)])
def test_a_bottleneck_narrower_than_the_teacher_s_rank_leaves_no_student(bottleneck, size):
    teacher, x = rank_2(), torch.randn(40, 6)
    options = {"activation": "linear", "labels": False, "bottleneck": bottleneck}
    study = mimic(teacher, (x,), students=(8, 16), **options)
    assert study.size == size


def test_a_student_of_the_teacher_s_size_that_finds_its_function_has_no_gap():
    teacher = ShallowStudent(4, 3, hidden=3, activation=None)
    for parameter in teacher.parameters():
        nn.init.normal_(parameter)
    study = mimic(teacher, samples(), students=[3], activation="linear", steps=5)
    (student,) = study.students
    assert (student.parameters, student.relative) == (study.teacher.parameters, 1)
    assert student.r2 == pytest.approx(1, abs=1e-20)
    assert (student.agreement, student.accuracy) == (1, study.teacher.accuracy)


def test_the_teacher_has_a_row_of_its_own(taught):
    network, (x, y) = taught
    teacher = mimic(network, (x[:40], y[:40]), held_out=(x[40:], y[40:]), **FEW).teacher
    assert teacher.hidden is None
    assert teacher.parameters == sum(p.numel() for p in network.parameters())
    assert (teacher.relative, teacher.r2, teacher.mse, teacher.agreement) == (1, 1, 0, 1)
    assert teacher.accuracy == (network(x[40:]).argmax(1) == y[40:]).double().mean()
    assert teacher.accuracy_on_labels is None


def test_a_row_says_what_fitting_and_comparing_by_hand_find(taught):
    network, (x, y) = taught
    study = mimic(network, (x[:40], y[:40]), held_out=(x[40:], y[40:]), seed=3, **FEW)
    for row in study.students:
        student = fit_student(network, x[:40], hidden=row.hidden, steps=20, seed=3)
        outputs, z = student(x[40:]).detach(), network(x[40:]).detach()
        assert row.parameters == sum(p.numel() for p in student.parameters())
        assert row.relative == row.parameters / study.teacher.parameters
        assert row.mse == pytest.approx(float((outputs - z).square().mean()))
        spread = (z - network(x[:40]).detach().mean(0)).square().sum()
        assert row.r2 == pytest.approx(float(1 - (outputs - z).square().sum() / spread))
        found = mimic_gap(student, network, x[40:])
        assert (row.agreement, row.agreement_stderr) == (found.agreement, found.agreement_stderr)
        assert row.accuracy == (outputs.argmax(1) == y[40:]).double().mean()


def test_labels_are_learnt_by_the_same_student():
    x, y = samples(400)
    nonsense = mlp(4, 16, 3)
    study = mimic(nonsense, (x, y), students=(16,), steps=100)
    (student,) = study.students
    assert student.accuracy < 0.7
    assert student.accuracy_on_labels > 0.9


def test_labels_0_and_1_are_learnt_by_a_student_with_one_output():
    x = torch.randn(200, 3)
    study = mimic(mlp(3, 8, 1), (x, x[:, :1] > 0), students=(8,), steps=100)
    assert study.students[0].accuracy_on_labels > 0.9


def test_labels_are_not_needed(taught):
    network, (x, y) = taught
    expected = mimic(network, (x, y), **FEW)
    for dataset in ((x,), (x, y), TensorDataset(x, y), x):
        study = mimic(network, dataset, labels=False, **FEW)
        assert study.size == expected.size
        without = {"accuracy": None, "accuracy_on_labels": None}
        assert study.table == tuple(replace(row, **without) for row in expected.table)


def test_a_network_may_be_any_callable(taught):
    network, data = taught
    study = mimic(lambda x: network(x) + 0, data, **FEW)
    assert study.teacher.parameters is study.students[0].relative is None
    (expected, *_), (row, *_) = mimic(network.forward, data, **FEW).table, study.table
    assert replace(row, relative=expected.relative) == expected


def test_within_tolerance_are_logits_and_decisions():
    good = mimic_result.MimicRow(8, r2=0.96, agreement=0.96)
    assert good.within(0.05)
    assert not replace(good, r2=0.94).within(0.05)
    assert not replace(good, agreement=0.94).within(0.05)
    assert not mimic_result.MimicRow(8, error="lost").within(0.05)


# How it is run


def test_it_goes_on_where_it_was_and_repeats_nothing(taught, tmp_path, fittings):
    network, data = taught
    first = mimic(network, data, folder=tmp_path, **FEW)
    both = ["fit_outputs", "fit_labels"]
    assert fittings == [(size, on) for size in (2, 8) for on in both]
    fittings.clear()
    assert mimic(network, data, folder=tmp_path, **FEW) == first
    assert fittings == []
    options = FEW | {"students": (2, 4, 8), "tolerance": 0.5}
    more = mimic(network, data, folder=tmp_path, **options)
    assert fittings == [(4, on) for on in both]
    assert [row for row in more.table if row.hidden != 4] == [*first.table]


def test_a_folder_has_the_samples_once_and_is_refused_for_others(taught, tmp_path):
    network, (x, y) = taught
    mimic(network, (x, y), folder=tmp_path, **FEW)
    before = {file.name for file in tmp_path.iterdir()}
    assert len([name for name in before if name.endswith(".pt")]) == 1
    assert max(map(len, (tmp_path / "results.jsonl").read_text().splitlines())) < 500
    for other in ((x + 1, y), (x, 2 - y)):
        with pytest.raises(ValueError, match="holds another study, with data="):
            mimic(network, other, folder=tmp_path, **FEW)
    with pytest.raises(ValueError, match="holds another study, with steps=20"):
        mimic(network, (x, y), folder=tmp_path, **FEW | {"steps": 21})
    assert {file.name for file in tmp_path.iterdir()} == before


def test_a_training_that_fails_is_told_in_its_row(taught, monkeypatch):
    def fail(student, *args):
        if student.hidden.out_features == 2:
            raise MemoryError("too large")

    monkeypatch.setattr(sys.modules[mimic.__module__], "fit_outputs", fail)
    study = mimic(*taught, **FEW, tolerance=0.99)
    small, large = study.students
    assert study.failures == {"2 units": small.error}
    assert small.error.startswith("MemoryError: too large")
    assert (small.r2, small.parameters, large.error) == (None, None, "")
    assert small.accuracy_on_labels is not None


def test_it_leaves_no_trace(taught):
    network, data = taught
    state = torch.get_rng_state()
    mimic(network, data, **FEW)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


# How it is shown


def test_the_table_has_a_line_for_each_network_and_its_columns(taught):
    study = mimic(*taught, **FEW)
    _, head, _, small, large, teacher, *_, caption = lines(study)
    names = ["units", "parameters", "relative", "R²", "MSE", "agreement", "accuracy"]
    assert [name.strip() for name in head.strip("┃").split("┃")] == [*names, "on labels"]
    assert [line.split()[1] for line in (small, large, teacher)] == ["2", "8", "teacher"]
    assert f"{study.students[0].r2:.3f} ± {study.students[0].r2_stderr:.3f}" in small
    assert "none of 2 students is within 0.05 of the teacher" in caption
    assert "8 units are within" in lines(replace(study, tolerance=0.9999))[-1]
    unlabelled = lines(mimic(*taught, **FEW, labels=False))
    assert "accuracy" not in unlabelled[1]


def test_json_has_everything(taught):
    study = mimic(*taught, **FEW)
    kept = json.loads(study.as_json())
    assert (kept["size"], kept["tolerance"]) == (None, 0.05)
    columns = [field.name for field in fields(mimic_result.MimicRow)]
    assert all([*row] == columns for row in kept["table"])
    assert mimic_result.MimicRow(**kept["table"][0]) == study.table[0]


def test_the_figure_has_a_curve_for_each_column(taught):
    study = mimic(*taught, **FEW)
    left, right = study.plot().axes
    assert [line.get_label() for line in left.lines] == ["R²", "agreement", "tolerance"]
    curve, on_labels, teacher = right.lines
    assert [*curve.get_xdata()] == [2, 8]
    assert [*curve.get_ydata()] == [row.accuracy for row in study.students]
    assert [*on_labels.get_ydata()] == [row.accuracy_on_labels for row in study.students]
    assert teacher.get_ydata()[0] == study.teacher.accuracy
    assert len(mimic(*taught, **FEW, labels=False).plot().axes) == 1


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"students": ()}, r"students=\(\): expected the numbers of hidden units of the stu"),
        ({"students": (0, 2)}, "students=0: expected at least 1 hidden unit"),
        ({"bottleneck": 0}, "bottleneck=0: expected at least 1, or None for none"),
        ({"activation": "gelu"}, "activation='gelu': expected 'relu', 'tanh' or 'linear'"),
        ({"tolerance": 1}, "tolerance=1: expected a share of at least 0 and below 1"),
        ({"steps": 0}, "steps=0: expected at least 1"),
        ({"held_out": 0}, "held_out=0: expected a share between 0 and 1"),
    ],
)
def test_options_make_sense(taught, options, message):
    with pytest.raises(ValueError, match=message):
        mimic(*taught, **options)


def test_data_are_samples_with_classes(taught):
    network, (x, y) = taught
    with pytest.raises(ValueError, match="has no labels: expected \\(x, y\\), or labels=False"):
        mimic(network, (x,))
    for wrong in (y + 1, x[:, 0], x):
        message = "no classes of a network with 3 outputs: expected whole numbers from 0 to 2, or"
        with pytest.raises(ValueError, match=message):
            mimic(network, (x, wrong))
    with pytest.raises(ValueError, match="the dataset has no samples: expected some to fit"):
        mimic(network, (x[:0], y[:0]))
    with pytest.raises(TypeError, match="the dataset's samples are dict, expected tensors, or"):
        mimic(network, [{"x": row} for row in x])


def test_a_teacher_has_finite_logits_that_differ(taught):
    _, data = taught
    with pytest.raises(ValueError, match="outputs are not finite for 60 of 60 samples"):
        mimic(lambda x: x[:, :3] / 0, data)
    with pytest.raises(ValueError, match="the teacher's outputs are the same for all samples"):
        mimic(lambda x: torch.ones(len(x), 3), data)
