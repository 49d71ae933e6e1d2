"""Files that somebody else wrote, damaged or meant to harm: named, bounded, never printed raw."""

import json
import os
import re
import struct
import tracemalloc
import warnings

import pytest
from event_files import write_events, write_finals
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study_folders import emc, write_study
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.util.tensor_util import make_tensor_proto
from unreadable_files import DEEP, broken, endless, listening, pipe

from lightning_effcx.cli import main
from lightning_effcx.compare import load_runs, load_studies
from lightning_effcx.reading import from_json, open_regular, read_json, visible

ERRORS = {8: (0.0, 0.5), 16: (0.25, 0.5)}
SCALARS = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))


def checksum(content):
    return struct.pack("<I", masked_crc32c(content))


def header(size, *, right=True):
    packed = struct.pack("<Q", size)
    return packed + (checksum(packed) if right else b"\0\0\0\0")


def record(payload):
    return header(len(payload)) + payload + checksum(payload)


def of_value(**value):
    return record(
        Event(step=1, summary=Summary(value=[Summary.Value(**value)])).SerializeToString()
    )


def of_tensor(tensor):
    return of_value(tag="odd", metadata=SCALARS, tensor=tensor)


def shaped(*sizes):
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])
    return TensorProto(dtype=1, tensor_shape=shape, float_val=[1.0])


def of_hparams(content):
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    return of_value(tag=SESSION_START_INFO_TAG, metadata=SummaryMetadata(plugin_data=plugin))


NO_NUMBERS = "the tag 'odd' has values that are no numbers; the rest was read"
ENDS = "the file ends in the middle of a record; the 3 events before that were read"
APPENDED = {
    "8 GB": (header(8 * 2**30), ENDS),
    "the largest size": (header(2**64 - 1), ENDS),
    "a wrong checksum": (
        header(8 * 2**30, right=False),
        "no record starts where one should; the 3 events before that were read",
    ),
    "a huge tensor": (of_tensor(shaped(10**10)), NO_NUMBERS),
    "a tensor of many dimensions": (of_tensor(shaped(*[2] * 60)), NO_NUMBERS),
    "a tensor of negative size": (of_tensor(shaped(-1)), NO_NUMBERS),
    "an unknown type": (of_tensor(TensorProto(dtype=20, float_val=[1.0])), NO_NUMBERS),
    "text": (of_tensor(make_tensor_proto("text")), NO_NUMBERS),
    "an empty tensor": (of_tensor(TensorProto(dtype=1)), NO_NUMBERS),
    "damaged hyperparameters": (
        of_hparams(b"\xff\xff\xff"),
        "its hyperparameters are damaged; the rest was read",
    ),
    "a deep message": (
        record(b"\x2a\x7f" * 2000),
        "a record is no event; the 3 events before that were read",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), APPENDED.values(), ids=APPENDED)
def test_what_is_wrong_in_an_event_file_is_one_warning_and_the_rest_is_read(
    tmp_path, damage, sentence
):
    file = write_events(tmp_path / "a", {"loss": {0: 2.0, 1: 1.0}})
    file.write_bytes(file.read_bytes() + damage)
    tracemalloc.start()
    with pytest.warns(UserWarning, match=f"^{re.escape(f'{file}: {sentence}.')}$") as caught:
        (run,) = load_runs(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(caught) == 1
    assert run.curves["loss"].values == (2.0, 1.0)
    assert peak < 2**24


def test_what_comes_after_a_record_that_is_too_large_is_read(tmp_path):
    file = write_events(tmp_path, {"loss": {0: 2.0}})
    size = 2**29
    with file.open("r+b") as sparse:
        after = file.stat().st_size + 12 + size + 4
        sparse.seek(0, os.SEEK_END)
        sparse.write(header(size))
        sparse.seek(after)
        sparse.write(of_value(tag="loss", simple_value=1.0))
    message = r"a record of 536,870,916 bytes was left out; the rest was read\.$"
    with pytest.warns(UserWarning, match=message):
        (run,) = load_runs(tmp_path)
    assert run.curves["loss"].values == (2.0, 1.0)


@pytest.mark.parametrize("make", [pipe, endless, listening, broken])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_no_file_in_the_place_of_an_event_file_is_named(tmp_path, make):
    write_finals(tmp_path / "good", {"loss": 1.0})
    make(tmp_path / "events.out.tfevents.1")
    with pytest.warns(UserWarning, match=r"tfevents.1: the file cannot be read \(.+\); noth"):
        assert [run.path for run in load_runs(tmp_path)] == ["good"]


@pytest.mark.parametrize("make", [pipe, endless, listening])
@pytest.mark.parametrize("name", ["study.json", "found.json"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_no_file_in_the_place_of_a_study_is_named(tmp_path, make, name):
    folder = write_study(tmp_path / "a", "emc", emc(8, ERRORS))
    (folder / name).unlink()
    make(folder / name)
    with pytest.warns(UserWarning, match=r"(study.json|found.json) does not say|has not ended"):
        assert load_studies(tmp_path) == []


JSON = {
    "deep": DEEP,
    "deep in a table": json.dumps(emc(8, ERRORS))[:-1] + f', "more": {DEEP}',
    "infinity": json.dumps(emc(8, ERRORS) | {"emc": float("inf")}),
    "no number": json.dumps(emc(8, ERRORS) | {"epsilon": float("nan")}),
    "400 digits": json.dumps(emc(8, ERRORS)).replace('"emc": 8', f'"emc": {"9" * 400}'),
    "5000 digits": json.dumps(emc(8, ERRORS)).replace('"emc": 8', f'"emc": {"9" * 5000}'),
    "a huge exponent": json.dumps(emc(8, ERRORS)).replace('"emc": 8', '"emc": 1e999999, "x": []'),
    "a list": "[1, 2]",
    "a number": "8",
    "null": "null",
    "a table of numbers": json.dumps(emc(8, ERRORS) | {"table": [1, 2]}),
    "a table of text": json.dumps(emc(8, ERRORS) | {"table": "rows"}),
    "sizes of text": json.dumps(emc(8, ERRORS) | {"table": [{"n": "x", "train_error": 1}]}),
    "no fields": "{}",
    "no UTF-8": b"\xff\xfe{".decode("latin-1"),
}


@pytest.mark.parametrize("text", [t for name, t in JSON.items() if name != "a huge exponent"])
def test_what_is_wrong_in_a_study_is_one_warning(tmp_path, text):
    folder = write_study(tmp_path / "a", "emc", emc(8, ERRORS))
    write_study(tmp_path / "b", "emc", emc(8, ERRORS))
    (folder / "found.json").write_text(text, encoding="latin-1")
    with pytest.warns(UserWarning, match="found.json does not say what the study found") as caught:
        assert [run.path for run in load_studies(tmp_path)] == ["b"]
    assert len(caught) == 1


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_what_does_not_say_what_a_study_is_is_one_warning(tmp_path, text):
    folder = write_study(tmp_path / "a", "emc", emc(8, ERRORS))
    (folder / "study.json").write_text(text, encoding="latin-1")
    with pytest.warns(UserWarning, match="study.json does not say what the study is") as caught:
        assert load_studies(tmp_path) == []
    assert len(caught) == 1


def test_json_that_is_too_large_is_not_read(tmp_path):
    file = tmp_path / "found.json"
    with file.open("wb") as sparse:
        sparse.truncate(2**33)
    tracemalloc.start()
    with pytest.raises(ValueError, match="it has more than 16 MB"):
        read_json(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**26


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEEP.encode(), "^it is nested too deeply$"),
        (b"[Infinity]", "^it has Infinity, which is no JSON$"),
        (b"9" * 400, "^it has a number of 400 digits$"),
        (b"{", "^it is no JSON \\(Expecting property name"),
        (b"\xff", "^it is no text in UTF-8$"),
    ],
)
def test_what_is_no_json_of_ours_is_said(text, message):
    with pytest.raises(ValueError, match=message):
        from_json(text)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    pipe(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is no regular file"):
        open_regular(tmp_path / "pipe")


# --- what is printed


CONTROLS = re.compile(r"[^\n\x20-\x7e\u00a1-\u2fff]")
EVIL = "red\x1b[31m\r\x07\u202e\nnew"


def test_nothing_of_a_run_is_printed_raw(tmp_path, capsysbinary):
    folder = tmp_path / "runs"
    for seed, name in enumerate([os.fsdecode(b"bad\xff\xfename"), "b\x1b[2Jell"]):
        write_finals(folder / "new", {EVIL: 1.0, "val_loss": 1.0}, **{EVIL: EVIL + str(seed)})
        (folder / "new").rename(folder / name)
        (folder / name / f"events.out.tfevents.{seed}\x1b[31m").write_bytes(b"noise" * 9)
    options = [f"--csv={tmp_path / 'a.csv'}", f"--json={tmp_path / 'a.json'}", "--metric=*"]
    assert main(["compare", str(folder), *options, f"--plot={tmp_path / 'a.png'}"]) == 1
    out, err = (stream.decode() for stream in capsysbinary.readouterr())
    assert err.count("warning: ") == err.count("\n") == 2
    for text in (out, err, *((tmp_path / f"a.{kind}").read_text() for kind in ("csv", "json"))):
        assert not CONTROLS.search(text)
    assert r"\x1b[31m" in out + err


def test_nothing_of_a_study_is_printed_raw(tmp_path, capsysbinary):
    folder = tmp_path / "studies"
    write_study(folder / "a\x1b[2J", "emc", emc(8, ERRORS), **{EVIL: EVIL, "n": "\ud800"})
    write_study(folder / "b", "emc", emc(8, ERRORS), **{EVIL: "other"})
    write_study(folder / "c\x07", "mimic", None)
    assert main(["compare", str(folder), f"--json={tmp_path / 'a.json'}"]) == 1
    out, err = (stream.decode() for stream in capsysbinary.readouterr())
    for text in (out, err, (tmp_path / "a.json").read_text()):
        assert not CONTROLS.search(text)


@given(st.text())
def test_whatever_is_made_visible_can_be_printed(text):
    shown = visible(text)
    assert shown.isprintable()
    shown.encode()
    assert visible(shown) == shown


# --- whatever is in them


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    events = write_events(folder, {"loss": {0: 2.0, 1: 1.0}}, lr=0.5, name="a")
    return events.read_bytes(), json.dumps(emc(8, ERRORS)).encode()


CHANGES = st.lists(st.tuples(st.integers(0, 10**4), st.binary(min_size=0, max_size=6)), max_size=4)


def changed(content, changes):
    for where, new in changes:
        place = where % (len(content) + 1)
        content = content[:place] + new + content[place + len(new) :]
    return content


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(changes=CHANGES, noise=st.binary(max_size=60), mends=st.booleans())
def test_whatever_is_in_files_nothing_but_warnings_comes_of_it(
    tmp_path, good, changes, noise, mends
):
    events, found = good
    file = tmp_path / "run" / "events.out.tfevents.1"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(
        record(noise) + changed(events, changes) if mends else changed(events, changes)
    )
    folder = write_study(tmp_path / "study", "emc", {})
    (folder / "found.json").write_bytes(changed(found, changes) + noise)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_runs(tmp_path)
        load_studies(tmp_path)
    assert all(str(warning.message).isprintable() for warning in caught)
    assert all(warning.category is UserWarning for warning in caught)
