import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from pathlib import Path

import pytest
from procedures import study as procedure

from lightning_effcx import studies
from lightning_effcx.cli import main
from lightning_effcx.cli.command import _parser
from lightning_effcx.studies import effective_model_complexity

SUPPORT = Path(__file__).parents[1] / "support"
FACTORIES = """
import torch
from torch import nn

def made():
    torch.manual_seed(0)
    x = torch.randn(60, 4)
    return {"network": nn.Linear(4, 3), "dataset": (x, x[:, :3].argmax(1))}

def with_others():
    given = made()
    return given | {"held_out": tuple(part[:10] for part in given["dataset"])}

def unlabelled():
    given = made()
    return given | {"dataset": given["dataset"][:1]}

def nothing():
    return None

def misspelt():
    return made() | {"heldout": 0.5}

def networkless():
    return {"dataset": made()["dataset"]}

def failing():
    return {}["data"]
"""
FEW = ["--students=1,8", "--steps=5", "--activation=linear"]


@pytest.fixture(autouse=True)
def _factories(tmp_path, monkeypatch):
    (tmp_path / "factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "factories", raising=False)


def mimic(factory, *options):
    return main(["mimic", f"factories:{factory}", *FEW, *options])


def emc(*options, factory="study"):
    return main(["emc", f"procedures:{factory}", *options])


def read(file):
    return json.loads(Path(file).read_text(encoding="utf-8"))


def rows(out):
    return [line.split("│")[1:-1] for line in out.splitlines() if line.startswith("│")]


def test_emc_prints_the_table_and_says_what_it_wrote(capsys):
    assert emc("--json=emc.json", "--plot=emc.png") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [int(row[0]) for row in rows(out)] == [1, 2, 4, 8, 16]
    assert rows(out)[0][1].strip() == "0.000 ± 0.000"
    assert "complexity 1 at error 0.1, below 2" in " ".join(out.split())
    assert out.splitlines()[-2:] == ["wrote emc.json", "wrote emc.png"]
    assert read("emc.json")["emc"] == 1
    assert Path("emc.png").read_bytes().startswith(b"\x89PNG")


def test_options_go_before_what_the_factory_of_emc_returns():
    options = ["--epsilon=0.7", "--sizes=1,8", "--repeats=2", "--seed=3", "--label-noise=0.1"]
    assert emc(*options, "--batch-size=99", "--threads=1", "--folder=kept", "--json=emc.json") == 0
    found = read("emc.json")
    assert (found["emc"], found["interval"], found["censored"]) == (8, [1, None], True)
    assert (found["epsilon"], found["failures"]) == (0.7, {})
    assert [(row["n"], row["repeats"]) for row in found["table"]] == [(1, 2), (8, 2)]
    known = read("kept/study.json")["arguments"]
    assert (known["seed"], known["label_noise"], known["batch_size"]) == (3, 0.1, 99)
    assert read("kept/found.json") == found


def test_trainings_that_failed_are_told_on_stderr(capsys):
    options = ["--sizes=2,8", "--repeats=1", "--json=emc.json"]
    assert emc(*options, factory="failing_study") == 1
    out, err = capsys.readouterr()
    assert err == "warning: n=2/repeat=0 failed: ValueError: too few: 2\n"
    assert "; 1 training failed" in " ".join(out.split())
    assert [*read("emc.json")["failures"]] == ["n=2/repeat=0"]
    assert emc("--sizes=2", "--repeats=1", factory="failing_study") == 2
    sentence = "effcx: all trainings failed, the first one with: ValueErr"
    assert sentence in capsys.readouterr().err


def test_interrupted_a_study_says_where_it_goes_on_from(capsys):
    assert emc("--folder=kept", factory="interrupted_study") == 130
    told = capsys.readouterr().err
    assert told == "effcx: interrupted: run the same command again to go on from kept\n"
    assert len(Path("kept/results.jsonl").read_text().splitlines()) == 2
    assert emc(factory="interrupted_study") == 130
    assert capsys.readouterr().err == "effcx: interrupted\n"


def test_what_a_factory_made_of_the_wrong_kind_is_told(capsys):
    assert emc(factory="unmade_study") == 2
    sentence = "effcx: make_module=Majority(): expected a class or function that makes a new module"
    assert capsys.readouterr().err.startswith(sentence)


def test_descent_prints_what_was_found_and_a_row_for_every_value(capsys):
    options = ["--samples=8", "--repeats=2", "--epsilon=0.4", "--folder=kept", "--plot=peak.png"]
    assert main(["descent", "procedures:descent", *options, "--json=peak.json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [row[0].strip() for row in rows(out)] == ["2", "4"]
    assert "with 8 samples the test error never rises along width" in " ".join(out.split())
    found = read("peak.json")
    assert (found["along"], found["samples"], found["peak"]) == ("width", 8, None)
    assert [each["emc"] for each in found["studies"]] == [
        read(f"kept/width={width}/found.json")["emc"] for width in (2, 4)
    ]
    assert Path("peak.png").read_bytes().startswith(b"\x89PNG")


def test_mimic_prints_the_table_and_says_what_it_wrote(capsys):
    assert mimic("made", "--json=out.json", "--plot=out.png", "--folder=kept") == 0
    out, err = capsys.readouterr()
    assert "8 units are within 0.05 of the teacher" in out
    assert "on labels" in out
    assert out.splitlines()[-2:] == ["wrote out.json", "wrote out.png"]
    assert err == ""
    assert read("out.json")["size"] == 8
    assert read("kept/found.json") == read("out.json")
    assert Path("out.png").read_bytes().startswith(b"\x89PNG")


def test_folders_of_studies_are_compared(capsys):
    for noise in (0.0, 0.5):
        emc(f"--label-noise={noise}", f"--folder=kept/noise_{noise}", "--repeats=2")
    mimic("made", "--folder=kept/mimic")
    capsys.readouterr()
    assert main(["compare", "kept", "--json=table.json", "--plot=curves.png"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "mimic.size" in out
    first, second, third = read("table.json")
    assert (first["label"], second["label"]) == ("label_noise=0", "label_noise=0.5")
    for group in (first, second):
        noise = group["hparams"]["label_noise"]
        assert group["columns"]["emc"]["mean"] == read(f"kept/noise_{noise}/found.json")["emc"]
    assert third["columns"]["mimic.size"]["mean"] == 8


def test_what_is_asked_for_reaches_mimic():
    options = ["--seed=3", "--bottleneck=2", "--tolerance=0.5", "--no-labels", "--folder=kept"]
    assert mimic("unlabelled", *options, "--json=out.json") == 0
    study = read("kept/study.json")
    assert study["kind"] == "mimic"
    given = {"bottleneck": 2, "activation": "linear", "steps": 5, "seed": 3}
    assert {name: study["arguments"][name] for name in given} == given
    found = read("out.json")
    assert found["tolerance"] == 0.5
    assert [row["accuracy_on_labels"] for row in found["table"]] == [None] * 3


def test_a_factory_may_return_the_samples_that_are_held_out():
    assert mimic("with_others", "--json=out.json") == 0
    assert all((10 * row["agreement"]).is_integer() for row in read("out.json")["table"])
    assert mimic("with_others", "--held-out=0.5", "--json=out.json") == 0
    assert all((30 * row["agreement"]).is_integer() for row in read("out.json")["table"])


def test_processes_train_and_it_prints_the_same(capsys, monkeypatch):
    pools = []

    class Pool(ThreadPoolExecutor):  # which starts sooner
        def __init__(self, count, context):
            super().__init__(count)
            pools.append((count, context.get_start_method()))

    monkeypatch.setattr("lightning_effcx.cli.studies.ProcessPoolExecutor", Pool)
    mimic("made")
    expected = capsys.readouterr().out
    assert pools == []
    mimic("made", "--processes=2")
    assert capsys.readouterr().out == expected
    assert pools == [(2, "spawn")]


@pytest.mark.slow
def test_processes_find_what_is_in_the_folder_and_give_the_same(tmp_path):
    script = tmp_path / "script.py"  # as the command is a script of another folder
    script.write_text(
        "import sys\nfrom lightning_effcx.cli import main\n"
        "if __name__ == '__main__':\n    sys.exit(main(sys.argv[1:]))\n"
    )
    file = tmp_path / "emc.json"
    options = ["--sizes=1,4", "--repeats=2", "--processes=1", f"--json={file}"]
    command = [sys.executable, str(script), "emc", "procedures:study", *options]
    ended = subprocess.run(command, cwd=SUPPORT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    here = effective_model_complexity(**procedure() | {"sizes": [1, 4], "repeats": 2})
    errors = [row["train_error"] for row in read(file)["table"]]
    assert errors == [row.train_error for row in here.table]


def test_a_student_that_failed_is_told_on_stderr(capsys, monkeypatch):
    def fail(*args):
        raise MemoryError("too large")

    monkeypatch.setattr(sys.modules["lightning_effcx.studies.mimic_study"], "fit_outputs", fail)
    assert mimic("made") == 1
    assert "warning: 8 units failed: MemoryError: too large\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("mimic factories:", "'factories:' is a module: expected a function, PACK"),
        ("mimic factories:no", "There is no 'factories:no' (module 'factories' has no attribute"),
        ("mimic nowhere:made", "There is no 'nowhere:made' (No module named 'nowhere'): expected "),
        ("mimic factories:nothing", "factories:nothing returned a NoneType: expected a dictionary"),
        (
            "mimic factories:misspelt",
            "factories:misspelt returned a dictionary with 'heldout': expected some of network, da",
        ),
        (
            "mimic factories:networkless",
            "factories:networkless returned a dictionary without 'network': expected network, data",
        ),
        ("descent procedures:study", "procedures:study returned a dictionary without 'samples': e"),
        ("mimic factories:unlabelled", "the dataset has no labels: expected (x, y), or labels=Fa"),
        ("mimic factories:made --plot=no/a.png", "There is no folder 'no' to write a.png to."),
        ("emc procedures:study --json=no/a.json", "There is no folder 'no' to write a.json to."),
        ("emc procedures:study --processes=-1", "processes=-1: expected at least 0."),
        (
            "emc procedures:study --sizes=99",
            "sizes=99: expected a whole number from 1 to 16, which",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence_on_stderr(capsys, options, sentence):
    assert main(options.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"effcx: {sentence}")
    assert (out, err.count("\n")) == ("", 1)


def test_a_factory_that_fails_is_told_with_the_place(capsys):
    assert mimic("failing") == 2
    err = capsys.readouterr().err
    assert 'return {}["data"]' in err
    assert err.endswith(
        "effcx: factories:failing failed with KeyError('data'); see the traceback above.\n"
    )


def test_sizes_are_numbers(capsys):
    for command in (["mimic", "a:b", "--students=8,x"], ["emc", "a:b", "--sizes=8,x"]):
        with pytest.raises(SystemExit, match=r"^2$"):
            main(command)
        sentence = "'8,x' are no sizes: expected whole numbers, such as 8,16,32"
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("command", ["emc", "descent", "mimic"])
def test_help_explains_the_factory_and_tells_the_defaults_of_the_study(capsys, command):
    function = _parser().parse_args([command, "a:b"]).study
    with pytest.raises(SystemExit, match=r"^0$"):
        main([command, "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert f"a dictionary of arguments for lightning_effcx.studies.{function}, such as" in out
    options = out.split(" --")
    parameters = signature(getattr(studies, function)).parameters
    told = [re.fullmatch(r"([a-z-]+) .*; default ([^ ]+)", option) for option in options]
    assert sum(map(bool, told)) > 3
    for option, default in (match.groups() for match in told if match):
        real = parameters[option.replace("-", "_")].default
        assert default in {str(real), str(real).replace(" ", "").strip("()")}, option
