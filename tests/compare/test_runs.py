import math
import re
import struct
import time

import numpy as np
import pytest
from event_files import ramp, write_events, write_finals
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.util.tensor_util import make_tensor_proto

from lightning_effcx.compare import Curve, Run, load_runs


def record(payload):
    size = struct.pack("<Q", len(payload))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (size, payload)]
    return size + checksums[0] + payload + checksums[1]


def test_a_run_is_its_path_its_hyperparameters_and_its_curves(tmp_path):
    write_events(
        tmp_path / "a" / "version_0",
        {"loss": {10: 0.5, 20: 0.25}},
        lr=0.5,
        width=64,
        norm=True,
        regularizer="l2",
    )
    hparams = {"lr": 0.5, "width": 64.0, "norm": True, "regularizer": "l2"}
    curves = {"loss": Curve((10, 20), (0.5, 0.25))}
    assert load_runs(tmp_path) == [Run("a/version_0", hparams, curves)]


def test_the_folder_itself_can_be_a_run(tmp_path):
    write_finals(tmp_path, {"loss": 1.0})
    assert [run.path for run in load_runs(tmp_path)] == ["."]


def test_runs_are_ordered_by_path(tmp_path):
    for name in ("b", "a/z", "c"):
        write_finals(tmp_path / name, {"loss": 1.0})
    assert [run.path for run in load_runs(tmp_path)] == ["a/z", "b", "c"]


def test_a_directory_without_scalars_is_no_run(tmp_path):
    write_events(tmp_path / "only_hparams", {}, lr=0.5)
    (tmp_path / "events.out.tfevents.folder").mkdir()
    (tmp_path / "notes.txt").write_text("no event file")
    assert load_runs(tmp_path) == []


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^There is no folder '.*nowhere'\.$"):
        load_runs(tmp_path / "nowhere")


def test_the_final_value_is_at_the_last_step_not_the_last_written(tmp_path):
    write_events(tmp_path, {"loss": {5: 1.0, 9: 2.0, 0: 3.0}})
    assert load_runs(tmp_path)[0].curves["loss"] == Curve((0, 5, 9), (3.0, 1.0, 2.0))
    assert load_runs(tmp_path)[0].curves["loss"].final == 2.0


def test_nan_is_kept_as_written(tmp_path):
    write_events(tmp_path, {"loss": ramp([1.0, math.nan, math.inf])})
    first, second, third = load_runs(tmp_path)[0].curves["loss"].values
    assert (first, third) == (1.0, math.inf)
    assert math.isnan(second)


def test_a_resumed_run_overrides_the_steps_that_it_did_again(tmp_path):
    write_events(tmp_path, {"loss": {0: 1.0, 10: 1.0, 20: 1.0, 29: 1.0}, "once": {0: 7.0}})
    write_events(tmp_path, {"loss": {15: 2.0, 20: 2.0, 30: 2.0, 40: 2.0}})
    (run,) = load_runs(tmp_path)
    assert run.curves["loss"] == Curve((0, 10, 15, 20, 30, 40), (1.0, 1.0, 2.0, 2.0, 2.0, 2.0))
    assert run.curves["once"] == Curve((0,), (7.0,))


def test_files_are_ordered_by_when_they_were_written_not_by_name(tmp_path):
    earlier = write_finals(tmp_path, {"loss": 1.0})
    time.sleep(0.01)
    write_finals(tmp_path, {"loss": 2.0})
    earlier.rename(tmp_path / "events.out.tfevents.zzz")
    assert load_runs(tmp_path)[0].curves["loss"].final == 2.0


def test_the_first_hyperparameters_win_and_later_ones_add(tmp_path):
    write_finals(tmp_path, {"loss": 1.0}, lr=0.5)
    time.sleep(0.01)
    write_finals(tmp_path, {"loss": 1.0}, lr=0.25, depth=3)
    assert load_runs(tmp_path)[0].hparams == {"lr": 0.5, "depth": 3.0}


def test_the_first_hyperparameters_win_within_a_file_too(tmp_path):
    first = write_finals(tmp_path / "run", {"loss": 1.0}, lr=0.5)
    second = write_finals(tmp_path / "elsewhere", {"loss": 1.0}, lr=0.25, depth=3)
    first.write_bytes(first.read_bytes() + second.read_bytes())
    second.unlink()
    assert load_runs(tmp_path)[0].hparams == {"lr": 0.5, "depth": 3.0}


def test_scalars_of_double_precision_are_read_in_double_precision(tmp_path):
    plugin = SummaryMetadata.PluginData(plugin_name="scalars")
    tensor = make_tensor_proto(np.float64(1 / 3))
    value = Summary.Value(tag="loss", tensor=tensor, metadata=SummaryMetadata(plugin_data=plugin))
    event = Event(step=1, summary=Summary(value=[value]))
    (tmp_path / "events.out.tfevents.1").write_bytes(record(event.SerializeToString()))
    assert load_runs(tmp_path)[0].curves["loss"].final == 1 / 3


def test_a_writer_may_say_only_once_that_a_tag_is_a_scalar(tmp_path):
    plugin = SummaryMetadata.PluginData(plugin_name="scalars")
    scalar = make_tensor_proto(2.0)
    values = [
        Summary.Value(tag="loss", tensor=scalar, metadata=SummaryMetadata(plugin_data=plugin)),
        Summary.Value(tag="loss", tensor=scalar),
        Summary.Value(tag="other", tensor=scalar),
    ]
    events = [Event(step=i, summary=Summary(value=[value])) for i, value in enumerate(values)]
    file = tmp_path / "events.out.tfevents.1"
    file.write_bytes(b"".join(record(event.SerializeToString()) for event in events))
    assert load_runs(tmp_path)[0].curves == {"loss": Curve((0, 1), (2.0, 2.0))}


def test_curves_of_version_0_1_are_those_of_today(tmp_path):
    before = {
        "effcx/transitions/segment": "effcx/transitions.segment",
        "effcx/transitions/segment_stderr": "effcx_stderr/transitions.segment",
        "effcx/transitions/segment/at/0.relu": "effcx_sites/transitions.segment/0.relu",
        "effcx/seconds/transitions/segment": "effcx_seconds/transitions.segment",
        "val_loss": "val_loss",
    }
    bands = {f"effcx_bands/transitions/segment/{edge}": ramp([0.5]) for edge in ("lower", "upper")}
    write_events(tmp_path / "old", {tag: ramp([0.0, 1.0]) for tag in before} | bands)
    write_events(tmp_path / "new", {tag: ramp([0.0, 1.0]) for tag in before.values()})
    new, old = load_runs(tmp_path)
    assert new.curves == old.curves
    assert set(new.curves) == set(before.values())


def test_a_run_of_version_0_1_that_was_resumed_since_has_one_curve(tmp_path):
    write_events(tmp_path, {"effcx/a/b": {0: 0.0, 1: 1.0, 2: 2.0}})
    time.sleep(0.01)
    write_events(tmp_path, {"effcx/a.b": {2: 20.0, 3: 30.0}})
    (run,) = load_runs(tmp_path)
    assert run.curves == {"effcx/a.b": Curve((0, 1, 2, 3), (0.0, 1.0, 20.0, 30.0))}


@pytest.mark.parametrize("missing", [1, 4, 20])
def test_a_truncated_file_is_named_and_read_up_to_there(tmp_path, missing):
    file = write_events(tmp_path / "a", {"loss": ramp([4.0, 3.0, 2.0])})
    file.write_bytes(file.read_bytes()[:-missing])
    # The file starts with an event that holds its version.
    message = f"{file}: the file ends in the middle of a record; the 3 events before that were read"
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}\\.$"):
        (run,) = load_runs(tmp_path)
    assert run.curves["loss"].values == (4.0, 3.0)


def test_a_file_may_end_in_the_middle_of_a_header(tmp_path):
    file = write_finals(tmp_path, {"loss": 1.0})
    file.write_bytes(file.read_bytes() + b"\x10\x00\x00")
    with pytest.warns(UserWarning, match=r"the middle of a record; the 2 events before that were"):
        assert load_runs(tmp_path)[0].curves["loss"].final == 1.0


def test_a_damaged_record_is_named(tmp_path):
    file = write_events(tmp_path, {"loss": ramp([4.0, 3.0])})
    content = bytearray(file.read_bytes())
    content[-6] ^= 1
    file.write_bytes(content)
    message = r"a record does not match its checksum; the 2 events before that were read\.$"
    with pytest.warns(UserWarning, match=message):
        (run,) = load_runs(tmp_path)
    assert run.curves["loss"].values == (4.0,)


def test_foreign_files_are_named_and_the_rest_is_read(tmp_path):
    write_finals(tmp_path / "good", {"loss": 1.0})
    noise = tmp_path / "bad" / "events.out.tfevents.noise"
    noise.parent.mkdir()
    noise.write_bytes(np.random.default_rng(0).bytes(1000))
    message = f"^{re.escape(str(noise))}: no record starts where one should; nothing was read\\.$"
    with pytest.warns(UserWarning, match=message):
        assert [run.path for run in load_runs(tmp_path)] == ["good"]


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "events.out.tfevents.empty").touch()
    with pytest.warns(UserWarning, match=r"empty: the file is empty; nothing was read\.$"):
        assert load_runs(tmp_path) == []


def test_records_of_something_else_are_named(tmp_path):
    whole = record(Event(step=1).SerializeToString())
    (tmp_path / "events.out.tfevents.other").write_bytes(whole + record(b"\xff\xff\xff"))
    message = r"other: a record is no event; the 1 event before that was read\.$"
    with pytest.warns(UserWarning, match=message):
        assert load_runs(tmp_path) == []


def test_a_file_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    file = write_finals(tmp_path, {"loss": 1.0})

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(file), "open", refuse)  # chmod would not stop root
    message = r"the file cannot be read \(Permission denied\); nothing was read\.$"
    with pytest.warns(UserWarning, match=message):
        assert load_runs(tmp_path) == []
