"""Files that older versions wrote are still read: `before_rooms` says which, and how they came."""

import json
import shutil
from pathlib import Path

import before_rooms
import pytest
import torch
from before_rooms import RESULTS, STUDIES
from torch.utils.data import TensorDataset

from lightning_effcx.cli import main

FIXTURES = Path(__file__).parent / "fixtures" / "before_rooms"
TRAINING = FIXTURES / "training"
# Where the tests run with the oldest Lightning that we allow, the files are from a newer one.
NEWER_LIGHTNING = pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with Light")


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def alike(found, recorded):
    """Whether values are as recorded, but for the rounding of other processors."""
    if isinstance(recorded, dict):
        return found.keys() == recorded.keys() and all(
            alike(found[key], recorded[key]) for key in recorded
        )
    if isinstance(recorded, list):
        return len(found) == len(recorded) and all(map(alike, found, recorded))
    return found == (
        pytest.approx(recorded, rel=1e-4, abs=1e-6) if isinstance(recorded, float) else recorded
    )


# Error bars are now widened by Student's t, and shares have bounds. Paths are drawn in another way.
_OF_NOW = ("stderr", "low", "high", "segment", "origin_line")


def without_what_changed(values):
    """Results without error bars, and without the measures that draw paths."""
    if isinstance(values, dict):
        kept = {key: value for key, value in values.items() if not any(w in key for w in _OF_NOW)}
        return {key: without_what_changed(value) for key, value in kept.items()}
    return [*map(without_what_changed, values)] if isinstance(values, list) else values


@pytest.mark.parametrize(
    ("folder", "recorded"),
    [
        ("events", "events.json"),
        ("events_of_version_0_1", "events.json"),
        ("studies/finished", "studies.json"),
    ],
)
def test_compare_finds_the_same_numbers(folder, recorded, tmp_path, capsys):
    assert main(["compare", str(FIXTURES / folder), f"--json={tmp_path / 'found.json'}"]) == 0
    assert capsys.readouterr().err == ""
    assert read(tmp_path / "found.json") == read(FIXTURES / recorded)


@NEWER_LIGHTNING
@pytest.mark.filterwarnings("error:Be aware that when using `ckpt_path`")  # the states are found
def test_a_training_resumed_from_an_older_checkpoint_has_the_curves_of_one_that_ran_through(
    tmp_path,
):
    recorded = read(TRAINING / "curves.json")
    resumed = before_rooms.monitors()
    others = before_rooms.task(48)  # of which none are measured: the samples are in the checkpoint
    before_rooms.train(
        tmp_path, resumed, resume=TRAINING / "half.ckpt", validation=TensorDataset(*others[24:])
    )
    for name, monitor in resumed.items():
        found = before_rooms.curves(monitor)
        before = [entry for entry in recorded[name] if entry["epoch"] < before_rooms.STOPPED]
        assert 0 < len(before) < len(recorded[name])
        assert found[: len(before)] == before  # to the last bit: they are in the checkpoint
        assert alike(*map(without_what_changed, (found, recorded[name]))), name
    # Only with what the metric remembered, at epoch 2, does it hold since the second measurement.
    assert found[-1]["values"]["effcx/body_error.since"] == 1


@NEWER_LIGHTNING
def test_a_training_resumed_from_an_older_checkpoint_is_bit_identical_without_the_monitor(tmp_path):
    half = torch.load(TRAINING / "half.ckpt", weights_only=True)
    torch.save(half | {"callbacks": {}}, tmp_path / "half.ckpt")
    plain = before_rooms.train(tmp_path, {}, resume=tmp_path / "half.ckpt").state_dict()
    measured = before_rooms.train(
        tmp_path, before_rooms.monitors(), resume=TRAINING / "half.ckpt"
    ).state_dict()
    assert plain.keys() == measured.keys()
    for name, value in plain.items():
        assert torch.equal(value, measured[name]), name


def results(folder):
    """The bytes of the results of each study below, by its place."""
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob(RESULTS)}


@pytest.mark.parametrize("name", STUDIES)
def test_a_finished_study_is_not_run_again(name, tmp_path):
    folder = shutil.copytree(FIXTURES / "studies" / "finished" / name, tmp_path / name)
    before = results(folder)
    found, recorded = json.loads(STUDIES[name](folder)), read(FIXTURES / "studies" / f"{name}.json")
    assert without_what_changed(found) == without_what_changed(recorded)
    assert results(folder) == before


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_that_was_stopped_goes_on(name, tmp_path):
    folder = shutil.copytree(FIXTURES / "studies" / "stopped" / name, tmp_path / name)
    before, whole = results(folder), results(FIXTURES / "studies" / "finished" / name)
    found, recorded = json.loads(STUDIES[name](folder)), read(FIXTURES / "studies" / f"{name}.json")
    assert alike(*map(without_what_changed, (found, recorded)))
    for place, after in results(folder).items():
        kept = before[place][: before[place].rfind(b"\n") + 1]  # the last line was cut off
        assert after.startswith(kept), place  # with the seconds of then: nothing was repeated
        assert keys(after) == keys(whole[place])
    assert any(results(folder)[place] != before[place] for place in before)


def keys(lines):
    return [json.loads(line)["key"] for line in lines.splitlines()]
