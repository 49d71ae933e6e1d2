import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import docstring_parser
import lightning.pytorch
import lightning.pytorch.cli
import pytest
import pytorch_lightning
import pytorch_lightning.cli
import yaml
from both_lightnings import FirstPair, OfLightning, OfPytorchLightning, hidden, input_of
from jsonargparse import ArgumentParser
from lightning_utilities.core import rank_zero
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchmetrics import Metric

import lightning_effcx
from lightning_effcx import metrics, paths
from lightning_effcx.callbacks import ComplexityMonitor, Every, Geometric, lightning_compat
from lightning_effcx.metrics import (
    JacobianNorm,
    LinearRegions,
    NetworkMetric,
    PathMetric,
    Transitions,
)
from lightning_effcx.paths import Arc, Segment

MODULES = {pytorch_lightning: OfPytorchLightning, lightning.pytorch: OfLightning}
EITHER = pytest.mark.parametrize("host", MODULES, ids=lambda host: host.__name__)
MONITOR = "lightning_effcx.callbacks.ComplexityMonitor"
ADD = f"--trainer.callbacks+={MONITOR}"
# Lightning 2.6 calls a method of its parser that jsonargparse 4.5 has another name for.
pytestmark = pytest.mark.filterwarnings(
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"
)


@pytest.fixture(autouse=True)
def _unread_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])  # which LightningCLI warns about


def options(folder: Path, **others: Any) -> dict[str, Any]:
    return {
        "default_root_dir": str(folder),
        "accelerator": "cpu",
        "max_epochs": 3,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    } | others


def measured(monitor: ComplexityMonitor) -> list[dict[str, float]]:
    """The history without what differs each time: the seconds."""
    return [
        {tag: v for tag, v in entry["values"].items() if "seconds" not in tag}
        for entry in monitor.history
    ]


# --- Trainers


def fit(host: ModuleType, folder: Path, monitor: ComplexityMonitor) -> Any:
    """Train with all that may watch a measure, each from the package of the Trainer."""
    host.seed_everything(1, verbose=False)
    stopping = host.callbacks.EarlyStopping("effcx/jacobian_norm", patience=1, min_delta=1e6)
    best = host.callbacks.ModelCheckpoint(
        folder / "best", monitor="effcx/jacobian_norm", mode="max"
    )
    logger = host.loggers.TensorBoardLogger(folder, "runs")
    callbacks = [stopping, best, monitor]
    trainer = host.Trainer(callbacks=callbacks, logger=logger, **options(folder))
    trainer.fit(MODULES[host]())
    return trainer


def test_a_training_has_the_same_numbers_in_both_packages(tmp_path):
    histories = []
    for host in MODULES:
        monitor = ComplexityMonitor(batch=input_of, samples=16, strict=True)
        trainer = fit(host, tmp_path / host.__name__, monitor)
        histories.append(measured(monitor))
        assert trainer.early_stopping_callback.stopped_epoch == 1
        best = max(entry["effcx/jacobian_norm"] for entry in histories[-1])
        assert float(trainer.checkpoint_callback.best_model_score) == pytest.approx(best)
        events = EventAccumulator(trainer.logger.log_dir)
        events.Reload()
        assert {*monitor.history[-1]["values"]} <= {*events.Tags()["scalars"]}
    assert histories[0] == histories[1]
    assert len(histories[0]) == 2


@EITHER
def test_a_trainer_takes_the_monitor_by_itself(tmp_path, host):
    monitor = ComplexityMonitor([JacobianNorm()], batch=input_of, strict=True)
    trainer = host.Trainer(callbacks=monitor, logger=False, **options(tmp_path, max_epochs=1))
    module = MODULES[host]()
    trainer.fit(module)
    trainer.validate(module, verbose=False)
    assert "effcx/jacobian_norm" in trainer.callback_metrics
    assert len(monitor.history) == 2


def test_a_checkpoint_of_one_package_resumes_in_the_other(tmp_path):
    histories = []
    last = None
    for host, module in MODULES.items():
        monitor = ComplexityMonitor([JacobianNorm()], batch=input_of, strict=True)
        others = {"max_epochs": len(histories) + 1, "logger": False, "enable_checkpointing": False}
        trainer = host.Trainer(callbacks=monitor, **options(tmp_path, **others))
        trainer.fit(module(), ckpt_path=last)
        last = tmp_path / "last.ckpt"
        trainer.save_checkpoint(last)
        histories.append(monitor.history)
    first, second = histories
    assert second[:-1] == first
    assert [entry["epoch"] for entry in second] == [0, 1]


# --- packages that are not there


def test_the_base_is_that_of_both_packages():
    assert lightning_compat.Callback.__bases__ == (
        lightning.pytorch.Callback,
        pytorch_lightning.Callback,
    )


def test_no_other_file_imports_a_package():
    """What `lightning_compat` sees to is undone by who imports a package before it does."""
    for file in Path(lightning_effcx.__file__).parent.rglob("*.py"):
        found = {
            line.split()[1].split(".")[0]
            for line in file.read_text().splitlines()
            if line.lstrip().startswith(("import ", "from "))
        }
        assert file.stem == "lightning_compat" or not found & {"lightning", "pytorch_lightning"}, (
            file
        )


def test_a_package_that_cannot_be_imported_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    assert lightning_compat._installed() == [pytorch_lightning]


def test_pytorch_lightning_cannot_be_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(ModuleNotFoundError, match="pytorch_lightning"):
        lightning_compat._installed()


def python(code: str) -> str:
    """Run code in a new process from the package's folder, and return all that it says."""
    root = Path(lightning_effcx.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root
    )
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def test_pytorch_lightning_is_enough(tmp_path):
    said = python(f"""
import sys
sys.modules["lightning"] = None  # every import of it fails
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from lightning_effcx.callbacks import ComplexityMonitor, lightning_compat
assert lightning_compat.Callback.__bases__ == (Callback,)
assert lightning_compat.Trainer is Trainer

class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU())

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        return self(batch).square().mean()

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self):
        return torch.randn(2, 8, 3)

    val_dataloader = train_dataloader

trainer = Trainer(callbacks=ComplexityMonitor(), **{options(tmp_path, max_epochs=1)})
trainer.fit(Module())
assert "effcx/jacobian_norm" in trainer.callback_metrics
print([name for name in sys.modules if name.split(".")[0] == "lightning"])
""")
    assert "['lightning']" in said


def test_silencing_ones_own_package_still_silences_the_trainer():
    """The other package, which we import, must not speak in its place."""
    said = python("""
import logging, lightning.pytorch as host
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
from lightning_effcx.callbacks import ComplexityMonitor
host.Trainer(callbacks=ComplexityMonitor(), accelerator="cpu", logger=False)
""")
    assert "GPU available" not in said


def test_messages_go_on_in_the_name_of_the_package_imported_first(monkeypatch):
    def imported(name: str) -> ModuleType:
        rank_zero.log = logging.getLogger(name)  # as both packages do
        return sys.modules[name]

    before = logging.getLogger("before")
    monkeypatch.setattr(rank_zero, "log", before)
    monkeypatch.setattr(lightning_compat, "import_module", imported)
    lightning_compat._installed()
    assert rank_zero.log is before


# --- the command line


def cli(host: ModuleType, folder: Path, *args: str, run: bool = False) -> ComplexityMonitor:
    """Run a user's `LightningCLI(TheirModule)` and return the monitor that it made."""
    made = host.cli.LightningCLI(
        MODULES[host],
        args=list(args),
        run=run,
        seed_everything_default=1,
        trainer_defaults=options(folder, max_epochs=1),
    )
    monitors = [m for m in made.trainer.callbacks if isinstance(m, ComplexityMonitor)]
    assert len(monitors) == 1
    return monitors[0]


@EITHER
def test_the_command_line_makes_a_monitor(tmp_path, host):
    monitor = cli(host, tmp_path, ADD, "--trainer.callbacks.samples=8")
    assert monitor.samples == 8
    assert list(monitor.metrics) == list(ComplexityMonitor().metrics)


@EITHER
def test_the_command_line_chooses_network_and_batch(tmp_path, host):
    start = [ADD, "--trainer.callbacks.batch=both_lightnings.input_of"]
    monitor = cli(host, tmp_path, *start, "--trainer.callbacks.network=backbone")
    assert monitor.batch is input_of
    assert monitor.network == "backbone"
    monitor = cli(host, tmp_path, *start, "--trainer.callbacks.network=backbone.0")
    assert monitor.network == "backbone.0"
    monitor = cli(host, tmp_path, *start, "--trainer.callbacks.network=both_lightnings.hidden")
    assert monitor.network is hidden


@EITHER
def test_the_command_line_takes_a_number_or_a_schedule(tmp_path, host):
    every = "--trainer.callbacks.every"
    assert cli(host, tmp_path, ADD, f"{every}=5").every == Every(5)
    schedule = [f"{every}=lightning_effcx.callbacks.Geometric", f"{every}.factor=2"]
    assert cli(host, tmp_path, ADD, *schedule).every == Geometric(2)


@EITHER
def test_the_command_line_shows_what_the_docstring_says_of_each_argument(tmp_path, host, capsys):
    with pytest.raises(SystemExit):
        cli(host, tmp_path, f"--trainer.callbacks.help={MONITOR}")
    said = "".join(capsys.readouterr().out.split())  # however it is wrapped
    documented = docstring_parser.parse(str(inspect.getdoc(ComplexityMonitor))).params
    assert [p.arg_name for p in documented] == list(inspect.signature(ComplexityMonitor).parameters)
    for parameter in documented:
        _, found, rest = said.rpartition(f"--trainer.callbacks.{parameter.arg_name}")
        assert found, parameter.arg_name
        text = "".join(str(parameter.description).split())
        assert text in rest.partition("(type:")[0], parameter.arg_name


def config(folder: Path, **init_args: Any) -> str:
    """Write a configuration file for the monitor, and return the argument that names it."""
    callback = {"class_path": MONITOR, "init_args": init_args}
    folder.mkdir(exist_ok=True)
    file = folder / "user.yaml"
    file.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    return f"--config={file}"


def made_by(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": f"lightning_effcx.{name}", "init_args": init_args}


ON_SEGMENTS = made_by(
    "metrics.Transitions", paths=made_by("paths.Segment", between="same", count=4)
)


@EITHER
def test_a_configuration_lists_metrics(tmp_path, host):
    probabilities = made_by("metrics.JacobianNorm", of="probabilities", directions=8)
    monitor = cli(host, tmp_path, config(tmp_path, metrics=[ON_SEGMENTS, probabilities]))
    on_segments, jacobian = monitor.metrics.values()
    assert isinstance(on_segments, Transitions)
    assert on_segments.paths == Segment("same", count=4)
    assert isinstance(jacobian, JacobianNorm)
    assert (jacobian.of, jacobian.directions) == ("probabilities", 8)


@EITHER
def test_a_configuration_names_metrics_and_has_a_schedule(tmp_path, host):
    own = made_by("metrics.LinearRegions", paths={"class_path": "both_lightnings.FirstPair"})
    monitor = cli(
        host,
        tmp_path,
        config(
            tmp_path,
            metrics={"bends": ON_SEGMENTS, "own": own},
            every=made_by("callbacks.Geometric", factor=3.0),
            hparams={"dropout": 0.5},
            strict=True,
        ),
    )
    assert list(monitor.metrics) == ["bends", "own"]
    assert isinstance(monitor.metrics["own"], LinearRegions)
    assert isinstance(monitor.metrics["own"].paths, FirstPair)
    assert monitor.every == Geometric(3)
    assert monitor.hparams == {"dropout": 0.5}
    assert monitor.strict


@EITHER
def test_the_saved_configuration_runs_again_with_the_same_numbers(tmp_path, host):
    written = config(
        tmp_path,
        metrics={"bends": ON_SEGMENTS, "steepness": made_by("metrics.JacobianNorm")},
        every=made_by("callbacks.Geometric"),
        network="backbone",
        batch="both_lightnings.input_of",
        strict=True,
    )
    first = cli(host, tmp_path, "fit", written, run=True)
    (saved,) = tmp_path.rglob("config.yaml")
    again = cli(host, tmp_path, "fit", f"--config={saved}", run=True)
    assert measured(again) == measured(first)
    assert "effcx/bends" in measured(first)[0]


# --- what a configuration can name


def instantiated(hint: Any, value: Any) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=hint)
    return parser.instantiate_classes(parser.parse_object({"it": value})).it


def arguments(kind: type) -> dict[str, Any]:
    """Every argument of a class of ours and of its bases, with its default."""
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        if base.__module__.startswith("lightning_effcx") and "__init__" in vars(base):
            found |= {
                name: parameter.default
                for name, parameter in inspect.signature(base).parameters.items()
                if parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
            }
    return found


CONCRETE = [name for name in metrics.__all__ if not inspect.isabstract(getattr(metrics, name))]


@pytest.mark.parametrize("name", CONCRETE)
def test_a_configuration_makes_every_metric_with_every_argument(name):
    kind = getattr(metrics, name)
    given = arguments(kind) | {"sync_on_compute": False}
    if issubclass(kind, NetworkMetric):
        given["chunk"] = 7
    if issubclass(kind, PathMetric):
        given["paths"] = made_by("paths.Arc", count=3, turn=0.5)
    if "data" in given:
        given["data"] = {"class_path": "both_lightnings.Digits", "init_args": {"classes": 2}}
    metric = instantiated(Metric, made_by(f"metrics.{name}", **given))
    assert type(metric) is kind
    assert not metric.sync_on_compute
    if issubclass(kind, NetworkMetric):
        assert metric.chunk == 7
    if "data" in given:
        assert metric.y.tolist() == [0, 1, 0, 1, 0]
    if issubclass(kind, PathMetric):
        assert metric.paths == Arc(count=3, turn=0.5)


@pytest.mark.parametrize("name", ["Segment", "Arc", "Ellipse", "Translation", "OriginLine"])
def test_a_configuration_makes_every_kind_of_paths(name):
    kind = getattr(paths, name)
    assert instantiated(paths.Paths, made_by(f"paths.{name}", **arguments(kind))) == kind()


@EITHER
def test_the_gallerys_configuration_is_read(tmp_path, host):
    gallery = Path(__file__).parents[2] / "examples" / "README.md"
    (shown,) = re.findall(r"```yaml\n(.*?)```", gallery.read_text(), re.DOTALL)
    (tmp_path / "user.yaml").write_text(shown)
    monitor = cli(host, tmp_path, f"--config={tmp_path / 'user.yaml'}")
    assert [*monitor.metrics] == ["jacobian_norm", "linear_regions.segment_same"]
    assert monitor.budget == 0.05
