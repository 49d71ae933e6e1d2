import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_effcx.callbacks import Every, Geometric
from lightning_effcx.callbacks.budget import Budget
from lightning_effcx.callbacks.schedules import Schedule


@given(st.integers(1, 50), st.integers(0, 500))
def test_every_interval_th_validation_is_due_from_the_first_on(interval, count):
    assert Every(interval)(count) == (count % interval == 0)


def test_a_geometric_schedule_is_due_whenever_the_count_has_grown_by_the_factor():
    due = [count + 1 for count in range(200) if Geometric(1.5)(count)]
    assert due[0] == 1
    grown = [round(1.5**power) for power in range(30)]
    assert due == sorted({count for count in grown if count <= 200})


def test_schedules_pickle():
    for schedule in (Every(3), Geometric(2)):
        assert pickle.loads(pickle.dumps(schedule)) == schedule


@pytest.mark.parametrize("factor", [1.0, 0.5, -2.0])
def test_a_factor_that_does_not_grow_is_refused(factor):
    with pytest.raises(ValueError, match=f"factor={factor}: expected a number of more than 1"):
        Geometric(factor)


@pytest.mark.parametrize(
    ("rule", "wanted", "wanted_at_the_end"),
    [
        (Every(2), [True, False, True, False], [True, False, False, False]),
        ("end", [False] * 4, [True] * 4),
        (lambda count: count == 1, [False, True, False, False], [True, False, False, False]),
    ],
)
def test_a_schedule_answers_the_same_however_often_it_is_asked(rule, wanted, wanted_at_the_end):
    schedule = Schedule(rule, Budget())
    for _ in range(2):
        assert [schedule.wants(count) for count in range(4)] == wanted
        assert [schedule.wants_end(count) for count in range(4)] == wanted_at_the_end
        assert schedule.budget.affords()
