import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from lightning_effcx.cli import main

FACTORIES = """
import torch
from torch import nn

def made():
    torch.manual_seed(0)
    x = torch.randn(60, 4)
    return nn.Linear(4, 3), (x, x[:, :3].argmax(1))

def with_others():
    network, data = made()
    return network, data, tuple(part[:10] for part in data)

def unlabelled():
    network, (x, _) = made()
    return network, (x,)

def nothing():
    return None
"""
FEW = ["--students=1,8", "--steps=5", "--activation=linear"]


@pytest.fixture(autouse=True)
def _factories(tmp_path, monkeypatch):
    (tmp_path / "factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "factories", raising=False)


def mimic(factory, *options):
    return main(["mimic", f"factories:{factory}", *FEW, *options])


def test_mimic_prints_the_table_and_says_what_it_wrote(tmp_path, capsys):
    path = [*sys.path]
    assert mimic("made", "--json=out.json", "--plot=out.png") == 0
    out, err = capsys.readouterr()
    assert "8 units are within 0.05 of the teacher" in out
    assert "on labels" in out
    assert out.splitlines()[-2:] == ["wrote out.json", "wrote out.png"]
    assert err == ""
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["size"] == 8
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert sys.path == path


def test_what_is_asked_for_reaches_the_study(tmp_path):
    options = ["--seed=3", "--bottleneck=2", "--tolerance=0.5", "--no-labels", "--folder=kept"]
    assert mimic("unlabelled", *options, "--json=out.json") == 0
    study = json.loads((tmp_path / "kept" / "study.json").read_text(encoding="utf-8"))
    assert study["kind"] == "mimic"
    given = {"bottleneck": 2, "activation": "linear", "steps": 5, "seed": 3}
    assert {name: study["arguments"][name] for name in given} == given
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert found["tolerance"] == 0.5
    assert [row["accuracy_on_labels"] for row in found["table"]] == [None] * 3


def test_a_factory_may_return_the_samples_that_are_held_out(tmp_path):
    assert mimic("with_others", "--json=out.json") == 0
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert all((10 * row["agreement"]).is_integer() for row in found["table"])


def test_processes_train_and_it_prints_the_same(capsys, monkeypatch):
    pools = []

    class Pool(ThreadPoolExecutor):  # which starts sooner
        def __init__(self, count, context):
            super().__init__(count)
            pools.append((count, context.get_start_method()))

    monkeypatch.setattr("lightning_effcx.cli.ProcessPoolExecutor", Pool)
    mimic("made")
    expected = capsys.readouterr().out
    assert pools == []
    mimic("made", "--processes=2")
    assert capsys.readouterr().out == expected
    assert pools == [(2, "spawn")]


def test_a_training_that_failed_is_said_on_stderr(capsys, monkeypatch):
    def fail(*args):
        raise MemoryError("too large")

    monkeypatch.setattr(sys.modules["lightning_effcx.studies.mimic"], "fit_outputs", fail)
    assert mimic("made") == 0
    assert "effcx: 8 units: MemoryError: too large" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("factories:no", "There is no 'factories:no' (module 'factories' has no attribute 'no')"),
        ("nowhere:made", "There is no 'nowhere:made' (No module named 'nowhere'): expected pack"),
        ("factories:nothing", "factories:nothing returned a NoneType, expected (network, dataset)"),
        ("factories:unlabelled", "the dataset has no labels: expected (x, y), or labels=False"),
    ],
)
def test_a_factory_that_is_none_is_one_sentence(capsys, factory, sentence):
    assert main(["mimic", factory]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"effcx: {sentence}")
    assert (out, err.count("\n")) == ("", 1)


def test_sizes_are_numbers(capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["mimic", "factories:made", "--students=8,x"])
    sentence = "'8,x' are no sizes, expected whole numbers, such as 8,16,32"
    assert sentence in capsys.readouterr().err


def test_there_is_a_folder_for_the_output(capsys):
    assert mimic("made", "--plot=no/a.png") == 2
    assert "There is no folder 'no' to write a.png to." in capsys.readouterr().err


def test_help_explains_the_factory(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["mimic", "--help"])
    assert "returns (network, dataset)" in " ".join(capsys.readouterr().out.split())
