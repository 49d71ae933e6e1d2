import pytest
from user_training import fit

from lightning_effcx.callbacks import ComplexityMonitor, budget
from lightning_effcx.callbacks.budget import Budget
from lightning_effcx.metrics import JacobianNorm


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only when it is told to."""

    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(budget, "perf_counter", clock)
    return clock


def measured(budget, clock, validations=400, every=1.0, cost=0.5):
    """Which validations are measured, and what share of the whole time that takes."""
    found, spent = [], 0.0
    for count in range(validations):
        clock.now += every
        if budget.affords():
            with budget.spending():
                clock.now += cost
            spent += cost
            found.append(count)
    return found, spent / clock.now


@pytest.mark.parametrize("share", [0.02, 0.05, 0.3])
def test_measurements_stay_within_their_share_by_waiting_longer(clock, share):
    found, taken = measured(Budget(share), clock)
    assert found[0] == 0
    assert taken <= share
    assert taken > 0.9 * share


def test_without_a_budget_every_validation_is_measured(clock):
    found, _ = measured(Budget(), clock, validations=9)
    assert found == list(range(9))


def test_what_the_budget_covers_is_measured_every_time(clock):
    found, _ = measured(Budget(0.5), clock, validations=9, cost=0.9)
    assert found == list(range(9))


def test_looking_counts_as_spent_but_not_as_the_cost_of_the_next(clock):
    budget = Budget(0.1)
    with budget.spending():
        clock.now += 1
    clock.now += 9
    assert budget.last == 1
    with budget.spending(measuring=False):
        clock.now += 5
    assert budget.last == 1
    assert not budget.affords()


@pytest.mark.parametrize("share", [0, 1, -0.1, 5])
def test_a_budget_is_a_share_of_the_time(share):
    message = f"budget={share}: expected a share of the training's time between 0 and 1, such as"
    with pytest.raises(ValueError, match=message):
        ComplexityMonitor(budget=share)


def test_what_is_skipped_is_not_logged_and_said_once(tmp_path, caplog):
    monitor = ComplexityMonitor([JacobianNorm()], budget=1e-9)
    with caplog.at_level("INFO"):
        host, _ = fit(tmp_path, monitor, max_epochs=4)
    assert [entry["epoch"] for entry in monitor.history] == [0]  # which is always measured
    assert caplog.text.count("more than budget=1e-09 allows at every validation") == 1
    assert "effcx/jacobian_norm" in host.callback_metrics  # for those who watch it
