"""Folders that studies wrote before the files of the package moved into rooms are still read."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from procedures import Majority, trainer

from lightning_effcx.cli import main
from lightning_effcx.studies import effective_model_complexity, mimic

EARLIER = Path(__file__).parent / "earlier_folders"
X = torch.arange(24.0).reshape(8, 3)
Y = torch.tensor([0, 1, 1, 0, 1, 0, 0, 0])


def absolute(x):
    return x.sub(8).abs()  # exact, so that all machines have the same digest


STUDIES = {
    "emc": partial(
        effective_model_complexity, Majority, (X, Y), test=(X, 1 - Y), sizes=[1, 4], repeats=2,
        make_trainer=trainer, progress=False,
    ),
    "mimic": partial(
        mimic, absolute, (X, Y), students=(1, 8), steps=5, progress=False,
    ),
}  # fmt: skip


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "lock"}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_finds_the_same_in_an_earlier_folder_and_trains_nothing(name, tmp_path):
    folder = shutil.copytree(EARLIER / name, tmp_path / name)
    found = STUDIES[name](folder=folder)
    assert found.as_json().encode() == contents(EARLIER / name)["found.json"]
    assert not found.failures
    assert contents(folder) == contents(EARLIER / name)


def test_earlier_folders_are_compared(capsys):
    assert main(["compare", str(EARLIER)]) == 0
    out = capsys.readouterr().out
    assert "emc.test_error" in out
    assert "mimic.r2" in out
