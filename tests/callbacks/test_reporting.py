"""Loggers that raise, and what reaches those that do not."""

import csv
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, Logger
from user_training import STANDARD, Classifier, fit, trainer

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.tags import Tag


class Kept(Logger):
    """A logger that keeps what it is given, and raises where it is told to."""

    def __init__(self, refuses=lambda metrics: False) -> None:
        super().__init__()
        self.refuses = refuses
        self.given: list[tuple[int | None, dict[str, float]]] = []

    name = "kept"
    version = 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.refuses(metrics):
            raise OSError("no space is left on the device")
        self.given.append((step, dict(metrics)))


def ours(metrics):
    return any(key.startswith("effcx") for key in metrics)


def test_a_logger_that_refuses_our_values_ends_no_training(tmp_path):
    kept, broken = Kept(), Kept(refuses=ours)
    message = r"^effcx leaves out its curves in Kept: no space is left on the device\. The tr"
    with pytest.warns(UserWarning, match=message) as record:
        host, watched = fit(tmp_path, ComplexityMonitor(), max_epochs=2, logger=[broken, kept])
    assert len([each for each in record if "effcx" in str(each.message)]) == 1
    assert sum(ours(metrics) for _, metrics in kept.given) == 2
    assert any("val_loss" in metrics for _, metrics in broken.given)
    assert {str(Tag(name)) for name in STANDARD} <= host.callback_metrics.keys()
    _, alone = fit(tmp_path / "alone", max_epochs=2, logger=[Kept()])
    for found, expected in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_if_strict_a_logger_that_refuses_our_values_raises(tmp_path):
    with pytest.raises(OSError, match="no space is left"):
        fit(tmp_path, ComplexityMonitor(strict=True), logger=[Kept(refuses=ours)])


def test_values_come_at_the_step_and_epoch_of_the_validation_loss(tmp_path):
    kept = Kept()
    monitor = ComplexityMonitor()
    fit(tmp_path, monitor, max_epochs=3, logger=[kept])
    losses = {step: m["epoch"] for step, m in kept.given if "val_loss" in m}
    measured = {step: m["epoch"] for step, m in kept.given if "effcx/jacobian_norm" in m}
    assert measured == losses
    assert [entry["step"] for entry in monitor.history] == [*measured]


@pytest.mark.parametrize("options", [{"every": "end"}, {}])
def test_what_is_measured_once_or_without_a_validation_comes_at_the_last_step(tmp_path, options):
    kept = Kept()
    limits = {} if options else {"limit_val_batches": 0}
    fit(tmp_path, ComplexityMonitor(**options), max_epochs=3, logger=[kept], **limits)
    last = max(step for step, _ in kept.given)
    steps = [step for step, metrics in kept.given if "effcx/jacobian_norm" in metrics]
    assert steps[-1] == last
    assert len(steps) == (1 if options else 3)


def test_a_module_that_logs_its_own_step_moves_the_measures_too(tmp_path):
    class Numbered(Classifier):
        def on_validation_epoch_end(self) -> None:
            self.log("step", 100.0 * (1 + self.current_epoch))

    kept = Kept()
    fit(tmp_path, ComplexityMonitor(), module=Numbered(), max_epochs=2, logger=[kept])
    assert [step for step, metrics in kept.given if ours(metrics)] == [100, 200]
    assert [step for step, metrics in kept.given if "val_loss" in metrics] == [100, 200]


def test_the_csv_logger_has_the_measures_by_epoch(tmp_path):
    fit(tmp_path, ComplexityMonitor(), max_epochs=2, logger=CSVLogger(tmp_path, "", ""))
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["effcx/jacobian_norm"]]
    assert [row["epoch"] for row in rows] == ["0", "1"]


def test_what_a_validation_alone_finds_is_returned(tmp_path):
    host, module = fit(tmp_path, ComplexityMonitor(), max_epochs=1)
    alone = trainer(tmp_path, ComplexityMonitor())
    (found,) = alone.validate(module, host.val_dataloaders, verbose=False)
    assert found["effcx/jacobian_norm"] == pytest.approx(
        host.callback_metrics["effcx/jacobian_norm"].item(), rel=1e-5
    )
