import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver, get_context
from queue import LifoQueue
from time import sleep

import psutil
import pytest
from dask_clusters import dask_executor
from watched_studies import STUDIES, Diary, run

from lightning_effcx.studies import Job

GRID = (1, 2, 4, 8, 16, 32, 80)
"""The sizes of the study of the complexity, before what it finds there chooses others."""


class LastFirst(ThreadPoolExecutor):
    """Runs the first job, then the others from the last on."""

    def __init__(self):
        super().__init__(1)
        self._work_queue = LifoQueue()


@pytest.fixture(scope="module", autouse=True)
def _server():
    """Begin to import what takes long, so that processes forked from there start at once."""
    modules = ["lightning.pytorch", "pytorch_lightning", "distributed"]
    get_context("forkserver").set_forkserver_preload(modules)
    forkserver.ensure_running()


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        yield executor


@pytest.fixture(scope="module")
def dask():
    with dask_executor() as executor:
        yield executor


@pytest.fixture(scope="module")
def threads():
    with LastFirst() as executor:
        yield executor


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """What the studies find in this process, and their rows."""
    folders = {name: tmp_path_factory.mktemp(name) for name in STUDIES}
    return {
        name: (study(folder=folders[name]), rows(folders[name])) for name, study in STUDIES.items()
    }


def rows(folder):
    """Those of a study, without how long each took, as they came."""
    file = folder / "results.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    known = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{name: row[name] for name in row if name != "seconds"} for row in known]


def by_key(rows):
    return sorted(rows, key=lambda row: row["key"])


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("where", ["pool", "dask", "threads"])
def test_a_study_is_the_same_wherever_it_runs(name, where, here, tmp_path, request):
    executor = request.getfixturevalue(where)
    found, expected = here[name]
    assert STUDIES[name](executor=executor, folder=tmp_path) == found
    assert by_key(rows(tmp_path)) == by_key(expected)
    if where == "threads":
        assert rows(tmp_path) != expected  # it is another order


def test_the_studies_have_what_could_differ(here):
    found, _ = here["emc"]
    assert {*GRID} - {1} < {row.n for row in found.table}  # the others came afterwards
    assert 32 <= found.emc < 80
    assert found.monotone
    assert found.interval[1] <= 1.1 * found.emc
    assert [*found.failures] == ["n=1/repeat=0", "n=1/repeat=1"]
    found, _ = here["mimic"]
    assert len({(row.r2, row.accuracy_on_labels) for row in found.table}) == 4


def test_another_seed_gives_other_rows(here):
    emc, mimic = (found for found, _ in here.values())
    assert STUDIES["emc"](seed=1, sizes=[80]).table[0] != emc.table[-1]
    assert STUDIES["mimic"](seed=1).table[0] != mimic.table[0]


@contextmanager
def studied(*arguments):
    """A process that runs a study, and ends here."""
    process = get_context("forkserver").Process(target=run, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize(
    ("name", "workers", "waits"),
    [
        ("emc", 0, []),  # but for the first of the refinement, which has more to come
        ("emc", 2, ["n=8/repeat=0", "n=8/repeat=1"]),
        ("mimic", 0, ["hidden=4/on=labels"]),
        ("mimic", 2, ["hidden=4/on=logits", "hidden=4/on=labels"]),
    ],
)
def test_killed_a_study_goes_on_and_repeats_nothing(name, workers, waits, here, tmp_path):
    found, expected = here[name]
    refined = [row["key"] for row in expected if row["arguments"].get("n") not in GRID]
    waits = waits or refined[:1]
    assert {*waits} < {row["key"] for row in expected[:-1]}
    folder = tmp_path / "study"
    waiting = [Job.of(key, {}).seed for key in waits]
    diary = Diary(tmp_path / "diary", (*waiting,))

    def undone():
        known = {row["seed"] for row in rows(folder)}
        return [seed for seed in diary.read("starts") if seed not in known]

    with studied(name, diary, folder, workers) as process:
        while sorted(undone()) != sorted(waiting):
            assert process.is_alive()
            sleep(0.02)
        others = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        assert not psutil.wait_procs(others, timeout=10)[1]
    assert len(others) == workers
    done = {row["seed"] for row in rows(folder) if not row["error"]}
    assert done == {*diary.read("ends")}

    before = len(diary.read("starts"))
    assert STUDIES[name](Diary(diary.file), folder=folder) == found
    again = diary.read("starts")[before:]
    assert again == [row["seed"] for row in expected if row["seed"] not in done]
    assert {*waiting} <= {*again}
    assert max(Counter(diary.read("ends")).values()) == 1
