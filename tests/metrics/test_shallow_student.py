import random

import numpy as np
import pytest
import torch
from networks import linear, mlp
from torch.testing import assert_close

from lightning_effcx.functional import ShallowStudent, fit_student, mimic_gap

pytestmark = pytest.mark.usefixtures("_float64")


@pytest.mark.parametrize(("hidden", "bottleneck"), [(8, None), (8, 2), (2, None), (8, 3), (2, 3)])
def test_a_linear_student_finds_a_linear_teacher_where_its_rank_suffices(hidden, bottleneck):
    x = 3 * torch.randn(40, 6) + 5
    teacher = linear(torch.randn(4, 2) @ torch.randn(2, 6), torch.randn(4))  # of rank 2
    student = fit_student(teacher, x, hidden=hidden, bottleneck=bottleneck, activation=None)
    assert mimic_gap(student, teacher, torch.randn(9, 6)).r2 == pytest.approx(1, abs=1e-20)


def test_a_linear_student_is_the_least_squares_solution():
    x, teacher = torch.randn(40, 6), mlp(6, 20, 3)
    student = fit_student(teacher, x, hidden=6, activation=None)
    with_ones = torch.cat([x, torch.ones(40, 1)], 1)
    solution = torch.linalg.lstsq(with_ones, teacher(x).detach()).solution
    assert_close(student(x), with_ones @ solution)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("by", ["bottleneck", "hidden"])
def test_a_linear_student_of_too_low_a_rank_is_the_best_of_that_rank(rank, by):
    x, teacher = torch.randn(40, 6), mlp(6, 20, 4)
    widths = {"hidden": 8} | {by: rank}
    student = fit_student(teacher, x, **widths, activation=None)
    error = mimic_gap(student, teacher, x).squared_errors.sum()
    z = teacher(x).detach()
    centred, inputs = z - z.mean(0), x - x.mean(0)
    fitted = inputs @ torch.linalg.pinv(inputs) @ centred
    # What least squares miss, and what the rank cuts off: Eckart and Young.
    cut = torch.linalg.svdvals(fitted)[rank:].square().sum()
    assert_close(error, (centred - fitted).square().sum() + cut)


def test_more_inputs_than_samples_are_no_obstacle():
    x, teacher = torch.randn(5, 9), mlp(9, 3)
    student = fit_student(teacher, x, hidden=9, activation=None)
    assert mimic_gap(student, teacher, x).gap < 1e-20


@pytest.mark.parametrize("bottleneck", [None, 2])
@pytest.mark.parametrize("activation", [torch.relu, torch.tanh])
def test_a_shallow_teacher_is_fitted_well(activation, bottleneck):
    x = 20 * torch.randn(400, 3) - 50  # far from where weights start
    teacher = lambda x: activation((x[:, :2] + 50) / 20) @ torch.tensor([[1.0, 2], [3, -1]])  # noqa: E731
    student = fit_student(
        teacher, x[:300], hidden=16, bottleneck=bottleneck, activation=activation, steps=400
    )
    assert mimic_gap(student, teacher, x[300:]).gap < 0.01


def test_more_units_fit_a_rich_function_better():
    x = torch.linspace(-1, 1, 200)[:, None]
    teacher = lambda x: torch.sin(9 * x)  # noqa: E731
    gaps = [
        mimic_gap(fit_student(teacher, x, hidden=hidden), teacher, x).gap for hidden in (1, 4, 64)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.2 * gaps[0]


def test_a_factored_student_has_fewer_weights():
    count = lambda student: sum(p.numel() for p in student.parameters())  # noqa: E731
    assert count(ShallowStudent(100, 3, hidden=50)) == 100 * 50 + 50 + 50 * 3 + 3
    factored = ShallowStudent(100, 3, hidden=50, bottleneck=4)
    assert count(factored) == 4 * (100 + 50) + 50 + 50 * 3 + 3


def test_a_student_starts_as_0_from_weights_of_its_seed():
    one, same, other = (ShallowStudent(4, 3, hidden=8, seed=seed) for seed in (0, 0, 1))
    assert not one(torch.randn(5, 2, 2)).any()
    assert_close(one.state_dict(), same.state_dict())
    assert not torch.equal(one.hidden.weight, other.hidden.weight)


def states():
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002


def test_fitting_is_the_same_each_time_and_in_every_mode_and_leaves_no_trace():
    x, teacher = torch.randn(20, 4), mlp(4, 8, 3)
    before = states()
    expected = fit_student(teacher, x, hidden=5).state_dict()
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            student = fit_student(teacher, x + 0, hidden=5)
        assert_close(student.state_dict(), expected, rtol=0, atol=0)
        student(x).sum().backward()  # an ordinary module
    assert states() == before
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_students_fit_in_float64_whatever_the_teacher():
    x, teacher = torch.randn(20, 4), mlp(4, 8, 3)
    student = fit_student(teacher.float(), x.float(), hidden=5)
    assert {p.dtype for p in student.parameters()} == {torch.float64}
    assert mimic_gap(student, teacher, x.float()).gap < 1
