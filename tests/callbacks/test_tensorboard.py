import json
import re
import socket
import subprocess
import sys
import time
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from user_training import METRICS, OTHERS, STANDARD, Classifier, fit, loaders, trainer

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.callbacks.tensorboard import flatten
from lightning_effcx.compare import load_runs
from lightning_effcx.metrics import JacobianNorm
from lightning_effcx.tags import Tag


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs, with Lightning's default logger."""
    folder = tmp_path_factory.mktemp("runs")
    for lr in (0.1, 0.01):
        logger = TensorBoardLogger(folder, name="", version=f"lr_{lr}")
        monitor = ComplexityMonitor(hparams={"regularizer": "none"})
        fit(folder, monitor, module=Classifier(lr), logger=logger)
    return folder


@pytest.fixture(scope="module")
def ask(folder):
    """Start TensorBoard; return a function that asks its HTTP interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--logdir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "tensorboard.main", *options, "--load_fast=false"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as server:

        def ask(route: str, question: Any = None) -> Any:
            data = None if question is None else json.dumps(question).encode()
            url = f"http://127.0.0.1:{port}/data/{route}"
            headers = {"Content-Type": "application/json"}
            with urlopen(Request(url, data, headers), timeout=30) as answer:
                return json.load(answer)

        try:
            wait_for_runs(ask, 2)
            yield ask
        finally:
            server.terminate()


def wait_for_runs(ask: Any, count: int) -> None:
    for _ in range(240):
        try:
            if len(ask("plugin/scalars/tags")) == count:
                return
        except (URLError, ConnectionError):
            pass
        time.sleep(0.25)
    raise TimeoutError("TensorBoard does not answer")


def test_tensorboard_lists_the_scalars_of_every_run(ask):
    runs = ask("plugin/scalars/tags")
    assert set(runs) == {"lr_0.1", "lr_0.01"}
    for tags in runs.values():
        for name in STANDARD:
            assert f"effcx/{name}" in tags
            assert f"effcx_stderr/{name}" in tags
        assert {f"effcx_seconds/{name}" for name in METRICS} <= set(tags)


def test_the_layout_has_a_chart_for_a_measure_and_its_variants(ask):
    values, errors, cost = ask("plugin/custom_scalars/layout")["category"]
    assert values["title"] == "Effective complexity"
    assert errors["title"] == "Effective complexity: standard errors"
    assert cost["title"] == "Effective complexity: cost"
    measures = [*dict.fromkeys(name.partition(".")[0] for name in [*STANDARD, *OTHERS])]
    tags = ask("plugin/scalars/tags")["lr_0.1"]
    for category, grain, expected in (
        (values, "value", STANDARD),
        (errors, "stderr", STANDARD),
        (cost, "seconds", METRICS),
    ):
        charts = {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}
        assert list(charts) == (["seconds"] if grain == "seconds" else measures)
        shown = [
            tag for lines in charts.values() for line in lines for tag in tags_like(line, tags)
        ]
        assert sorted(shown) == sorted(str(Tag(name, grain)) for name in expected)
        if grain == "value":
            assert {*tags_like(*charts["jacobian_norm"], tags)} == {
                "effcx/jacobian_norm",
                "effcx/jacobian_norm.probabilities",
            }


def tags_like(pattern, tags):
    return [tag for tag in tags if re.match(pattern, tag)]


def test_the_table_of_hyperparameters_shows_the_last_value_of_every_measure(ask, folder):
    question = {"experimentName": "", "includeMetrics": True}
    experiment = ask("plugin/hparams/experiment", question)
    columns = [info["name"]["tag"] for info in experiment["metricInfos"]]
    declared = [*STANDARD, *OTHERS]
    assert columns == [*(f"effcx/{name}" for name in declared), "val_loss"]
    assert {info["name"] for info in experiment["hparamInfos"]} == {"lr", "seed", "regularizer"}

    columns = [{"metric": info["name"]} for info in experiment["metricInfos"]]
    question |= {"colParams": columns, "startIndex": 0, "sliceSize": 9}
    question["allowedStatuses"] = ["STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_RUNNING"]
    sessions = ask("plugin/hparams/session_groups", question)["sessionGroups"]
    shown = {
        group["hparams"]["lr"]: {v["name"]["tag"]: v["value"] for v in group["metricValues"]}
        for group in sessions
    }
    for run in load_runs(folder):
        lr = run.hparams["lr"]
        assert set(shown[lr]) == {*(f"effcx/{name}" for name in STANDARD), "val_loss"}
        for tag, value in shown[lr].items():
            assert value == pytest.approx(run.curves[tag].final)


def test_values_alone_stand_in_the_first_group_of_scalars(ask):
    for tags in ask("plugin/scalars/tags").values():
        ours = [tag for tag in sorted(tags) if tag.startswith("effcx")]
        assert sorted(f"effcx/{name}" for name in STANDARD) == ours[: len(STANDARD)]
        assert not any(tag.startswith("effcx/") for tag in ours[len(STANDARD) :])


def test_hyperparameters_that_the_user_does_not_log_stay_out(tmp_path):
    class Private(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters(logger=False)

    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit(tmp_path, ComplexityMonitor([JacobianNorm()]), module=Private(), logger=logger)
    (run,) = load_runs(tmp_path)
    assert run.hparams == {}


def test_validate_alone_writes_the_measures(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    host = trainer(tmp_path, ComplexityMonitor([JacobianNorm()]), logger=logger)
    host.validate(Classifier(), loaders()[1], verbose=False)
    (run,) = load_runs(tmp_path)
    assert "effcx/jacobian_norm" in run.curves


def test_hyperparameters_are_flattened_to_what_the_table_takes():
    nested = {"a": {"b": True, "c": {"d": "x"}}, "t": torch.tensor(2.0), "l": [1], "n": None}
    expected = {"a/b": True, "a/c/d": "x", "t": 2.0, "l": "[1]", "n": "None"}
    assert flatten(nested) == expected
