import shutil
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from trainer_settings import (
    SETTINGS,
    Outcome,
    Setting,
    by_all,
    differences,
    exponential,
    fit,
    gaps,
    points,
    shuffled,
)
from user_training import STANDARD, Classifier, task

from lightning_effcx.functional import jacobian_norm
from lightning_effcx.network.observe import observing
from lightning_effcx.tags import Grain, Tag

NORM = "effcx/jacobian_norm"
WITHOUT_VALIDATION = ["no validation loader", "no validation_step", "limit_val_batches=0"]
AVERAGES = ["EMAWeightAveraging", "WeightAveraging"]


def curves(outcome: Outcome, grain: Grain = "value") -> dict[str, list[float]]:
    """The curves of what was found, without what it cost."""
    assert outcome.monitor is not None
    return {
        str(tag): [entry["values"][str(tag)] for entry in outcome.monitor.history]
        for tag in (Tag(name, grain) for name in STANDARD)
    }


def norm_of(outcome: Outcome, x: Tensor) -> Tensor:
    """The Jacobian norm of the weights that the training left, in their own precision."""
    module = outcome.module
    with observing(module):
        return jacobian_norm(module, x.to(next(module.parameters()).dtype)).mean()


def assert_ends_with_the_norm_at(outcome: Outcome, x: Tensor) -> None:
    last = torch.tensor(curves(outcome)[NORM][-1])
    torch.testing.assert_close(last, norm_of(outcome, x).float())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Fit with the monitor as a setting says, once for all tests that only look at the outcome."""
    return cache(lambda name: fit(tmp_path_factory.mktemp("fit"), SETTINGS[name], measured=True))


# --- all settings

NEEDS_COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")


def marks(name: str) -> list[pytest.MarkDecorator]:
    slow = [pytest.mark.slow] if SETTINGS[name].slow else []
    return [*slow, NEEDS_COMPILER] if "inductor" in name else slow


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in SETTINGS])
def test_training_is_bit_identical_and_the_curves_are_complete(tmp_path, fitted, name):
    plain, measured = fit(tmp_path, SETTINGS[name], measured=False), fitted(name)
    assert not differences(plain.left, measured.left)
    assert not gaps(SETTINGS[name], measured)
    assert not measured.warned - plain.warned


def test_what_differs_is_found():
    one = {"a": [torch.zeros(2), 1], "b": {"c": None}}
    assert differences(one, {"a": [torch.zeros(2), 1], "b": {"c": None}}) == []
    assert differences(one, {"a": [torch.ones(2), 2], "b": {"c": 0}}) == ["a/0", "a/1", "b/c"]
    assert differences(torch.zeros(2), torch.zeros(2).double(), "x") == ["x"]
    assert differences([1], [1, 2], "x") == ["x"]


def test_a_gap_is_found(tmp_path):
    outcome = fit(tmp_path, Setting(), measured=True)
    assert not gaps(Setting(), outcome)
    outcome.monitor.history[0]["values"][NORM] = float("nan")
    del outcome.loggers[0].points["effcx/fisher_rao_norm"]
    assert gaps(Setting(), outcome) == [
        f"history has {NORM} at [4, 9], expected [4, 9], and finite",
        "Recording has effcx/fisher_rao_norm at [], expected [4, 9], and finite",
    ]


# --- what is measured where


@pytest.mark.parametrize(
    "name",
    [
        "the default",
        "bf16-mixed",
        "64-true",
        "several validation loaders",
        "a compiled part, eager",
        "a part compiled in place, eager",
        "gradient checkpointing",
        "manual optimization with two optimizers",
        "inference_mode=True, then validate",
        "every='end'",
        *(f"{average} {order} us" for average in AVERAGES for order in ("before", "after")),
    ],
)
def test_curves_end_with_the_measure_of_the_final_weights_at_the_first_validation_samples(
    fitted, name
):
    assert_ends_with_the_norm_at(fitted(name), task().tensors[0][:64])


def test_the_probe_is_taken_from_the_loader_that_is_chosen(fitted):
    outcome = fitted("several validation loaders, loader=1")
    assert_ends_with_the_norm_at(outcome, task().tensors[0][:64] + 3)


@pytest.mark.parametrize("name", WITHOUT_VALIDATION)
def test_without_validation_the_first_training_samples_are_measured_and_it_is_said_once(
    tmp_path, name, caplog
):
    with caplog.at_level("INFO"):
        outcome = fit(tmp_path, SETTINGS[name], measured=True)
    assert caplog.text.count("effcx: no validation runs in this training, ") == 1
    assert_ends_with_the_norm_at(outcome, torch.cat(outcome.count.seen)[:64])


@pytest.mark.parametrize(
    "name", ["check_val_every_n_epoch=9", "max_steps=3, before any validation"]
)
def test_before_any_validation_the_final_weights_are_measured_at_samples_that_were_seen(
    fitted, name
):
    outcome = fitted(name)
    x = task().tensors[0]
    seen = [x[:64], x[:32], torch.cat(outcome.count.seen)[:64]]  # the sanity check sees 32
    assert curves(outcome)[NORM] in [[pytest.approx(float(norm_of(outcome, x)))] for x in seen]


def test_of_a_shuffled_validation_loader_the_probe_stays(tmp_path):
    def still() -> Classifier:
        module = Classifier(lr=0.0)
        module.network[1].momentum = 0.0  # BatchNorm's running statistics would move
        return module

    outcome = fit(tmp_path, Setting(module=still, given=shuffled), measured=True)
    for tag, (first, *later) in curves(outcome).items():
        assert later == [first], tag


# --- what is peculiar to a setting


@pytest.mark.parametrize("average", AVERAGES)
def test_averaged_weights_are_measured_in_either_order(fitted, average):
    before, after = fitted(f"{average} before us"), fitted(f"{average} after us")
    assert curves(before) == curves(after)
    assert curves(after)[NORM] != curves(fitted("the default"))[NORM]


@pytest.mark.parametrize("order", ["before", "after"])
def test_at_the_end_of_the_training_its_averaged_weights_are_measured_in_either_order(
    tmp_path, order
):
    setting = replace(SETTINGS["every='end'"], **{order: exponential})
    outcome = fit(tmp_path, setting, measured=True)
    assert not gaps(setting, outcome)
    assert_ends_with_the_norm_at(outcome, task().tensors[0][:64])


@pytest.mark.parametrize(
    "name",
    [
        "a compiled part, eager",
        "a part compiled in place, eager",
        "detect_anomaly",
        "deterministic",
        "barebones",
        "no logger",
        "num_sanity_val_steps=0",
        "num_sanity_val_steps=-1",
        "TQDMProgressBar",
    ],
)
def test_settings_that_leave_the_weights_alone_leave_the_curves_alone(fitted, name):
    usual, other = fitted("the default"), fitted(name)
    assert curves(other) == curves(usual)
    assert curves(other, "stderr") == curves(usual, "stderr")


def test_the_sites_of_a_compiled_part_are_named_as_if_it_were_not(tmp_path):
    setting = replace(SETTINGS["a compiled part, eager"], monitor={"detail": True})
    (*_, last) = fit(tmp_path, setting, measured=True).monitor.history
    assert "effcx_sites/transitions.segment/network.2" in last["values"]


def test_the_curves_share_their_steps_with_what_the_module_logs(tmp_path):
    setting = SETTINGS["several loggers"]
    outcome = fit(tmp_path, replace(setting, options={"val_check_interval": 2}), measured=True)
    assert len(outcome.loggers) == 3
    for logger in outcome.loggers:
        ours, theirs = ([step for step, _ in points(logger, tag)] for tag in (NORM, "val_loss"))
        assert ours == theirs == outcome.count.steps["validation"]


@pytest.mark.parametrize(
    "name", ["no validation loader", "max_steps=3, before any validation", "every='end'"]
)
def test_every_kind_of_logger_has_what_is_measured_apart_from_validations(tmp_path, name):
    setting = replace(SETTINGS[name], loggers=by_all)
    assert not gaps(setting, fit(tmp_path, setting, measured=True))


def test_loggers_and_history_agree_on_the_values(fitted):
    outcome = fitted("several loggers")
    for logger in outcome.loggers:
        for tag, values in curves(outcome).items():
            assert [value for _, value in points(logger, tag)] == pytest.approx(values)


def test_a_checkpoint_that_watches_a_measure_keeps_its_best(fitted):
    outcome = fitted("EarlyStopping and ModelCheckpoint on our key")
    checkpoint: Any = next(c for c in outcome.host.callbacks if isinstance(c, ModelCheckpoint))
    assert float(checkpoint.best_model_score) == pytest.approx(min(curves(outcome)[NORM]))
