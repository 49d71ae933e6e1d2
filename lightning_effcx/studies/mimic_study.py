"""Mimic: the size of the smallest shallow network that does what a network does.

Students with one hidden layer, each larger than the one before, are fitted to the logits of the
teacher, and once more, from the same weights and in the same steps, to the labels. All are judged
at samples that they have not seen. Ba and Caruana's finding is that students of a size which learns
little from labels learn much from logits, often as much as the teacher knows.

What the teacher returns is computed once, here, and written with the samples to one file, which the
trainings read wherever they run: on a cluster the folder must be one that all its machines see.

Ba, Caruana, "Do Deep Nets Really Need to be Deep?", NIPS 2014.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_effcx.metrics.shallow_student import (
    ShallowStudent,
    check_steps,
    check_widths,
    fit_labels,
    fit_outputs,
)
from lightning_effcx.network import Network
from lightning_effcx.options import (
    check_count,
    check_kind,
    check_number,
    check_seed,
    check_switch,
    check_word,
    refusal,
)
from lightning_effcx.studies.mimic_data import Examples, Lesson, module_of, parameters_of
from lightning_effcx.studies.mimic_result import Mimicry, MimicStudy
from lightning_effcx.studies.runner import Job, Row, Study, TorchSettings, run_jobs, write_found

_ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "linear": None}


def mimic(  # noqa: PLR0913 all by name
    network: Network,
    dataset: Examples,
    *,
    students: Sequence[int] = (8, 16, 32, 64, 128, 256),
    bottleneck: int | None = None,
    activation: str = "relu",
    tolerance: float = 0.05,
    steps: int = 500,
    held_out: float | Examples = 0.25,
    labels: bool = True,
    executor: Executor | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    progress: bool = True,
) -> MimicStudy:
    """Find the smallest shallow student that does what a network does, and compare it with labels.

    Every student is fitted as `fit_student` does: in float64, by full-batch steps, a linear one by
    least squares. The study is the same wherever its trainings run. The network is evaluated
    as it is in `observing()`, and stays as it is.

    Args:
        network: The teacher, maps `(n, ...)` to logits `(n, k)`.
        dataset: Examples `(x, y)` with classes y, or x alone if `labels` is false. Where the
            accuracies are to be fair, the teacher has not seen those that are held out.
        students: How many hidden units they have.
        bottleneck: Width of a linear layer before these, as in `ShallowStudent`.
        activation: Of the hidden units: `relu`, `tanh`, or `linear` for none.
        tolerance: The share of the logits' spread, 1 - R², and of the decisions that the smallest
            student may miss.
        steps: How many steps every training takes.
        held_out: Which share of the samples the students do not see; or such samples themselves.
        labels: Whether to fit the students to the labels too.
        executor: Where the trainings run, as in `run_jobs`.
        seed: Of the students' weights, and of which samples they do not see.
        folder: Where results are kept, and a study that stopped goes on, as in `run_jobs`. Other
            students, and another tolerance, may be asked of the same folder.
        progress: Show a bar, if this is a terminal.

    Example:
        >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> study = mimic(lambda x: x.abs(), (x,), students=(1, 32), labels=False)
        >>> study.size
        32
    """
    _check(students, bottleneck, activation, tolerance, steps)
    check_switch("labels", labels)
    check_seed(seed)
    sizes = sorted(set(students))
    with TorchSettings.current().seeded(seed):
        lesson = Lesson.of(network, dataset, held_out, seed, labelled=labels)
    arguments = {
        "bottleneck": bottleneck,
        "activation": activation,
        "steps": steps,
        "seed": seed,
        "data": lesson.digest,
    }
    jobs = [
        Job.of(f"hidden={size}/on={on}", {"hidden": size, "on": on}, seed=seed)
        for size in sizes
        for on in ("logits", *(["labels"] if labels else []))
    ]
    with lesson.kept(None if folder is None else Path(folder)) as file:
        rows = run_jobs(
            _Fitting(str(file.resolve()), bottleneck, activation, steps, seed),
            jobs,
            executor=executor,
            folder=folder,
            study=Study("mimic", arguments),
            progress=progress,
        )
    known: dict[str, Any] = lesson.figures(lesson.z[lesson.held])
    if parameters := parameters_of(module_of(network)):
        known |= {"parameters": parameters, "relative": 1.0}
    study = MimicStudy(_tabulated(rows, Mimicry(**known)), tolerance)
    if folder is not None:
        write_found(folder, study.as_json())
    return study


def _check(
    students: Sequence[int], bottleneck: int | None, activation: str, tolerance: float, steps: int
) -> None:
    expected = "the numbers of hidden units of the students, such as (8, 16, 32)"
    check_kind("students", students, Iterable, expected)
    if not students:
        raise refusal(ValueError, "students", students, expected)
    for hidden in students:
        check_count("students", hidden, of=" hidden unit")
        check_widths(hidden, bottleneck)
    check_word("activation", activation, *_ACTIVATIONS)
    below_1 = "a share of at least 0 and below 1"
    check_number("tolerance", tolerance, lambda given: 0 <= given < 1, below_1)
    check_steps(steps)


@dataclass(frozen=True)
class _Fitting:
    """Fits the student of a job, from weights that are the same for logits and for labels."""

    file: str
    bottleneck: int | None
    activation: str
    steps: int
    seed: int

    def __call__(self, job: Job) -> dict[str, float]:
        lesson = Lesson.read(self.file)
        x = lesson.x.flatten(1).double()
        student = ShallowStudent(
            x.shape[1],
            lesson.z.shape[1],
            hidden=job.arguments["hidden"],
            bottleneck=self.bottleneck,
            activation=_ACTIVATIONS[self.activation],
            seed=self.seed,
        ).double()
        seen, by_labels = lesson.seen, job.arguments["on"] == "labels"
        if by_labels:
            fit_labels(student, x[seen], lesson.y[seen], self.steps)
        else:
            fit_outputs(student, x[seen], lesson.z[seen], self.steps)
        with torch.no_grad():
            outputs = student(x[lesson.held])
        if by_labels:
            return lesson.accuracy(outputs)
        return lesson.figures(outputs) | {"parameters": parameters_of(student)}


def _tabulated(rows: Iterable[Row], teacher: Mimicry) -> tuple[Mimicry, ...]:
    table: dict[int, dict[str, Any]] = {}
    for row in rows:
        size = row.job.arguments["hidden"]
        entries = table.setdefault(size, {"hidden": size, "error": ""})
        entries["error"] = entries["error"] or row.error
        if row.job.arguments["on"] == "labels":
            entries |= {f"{name}_on_labels": value for name, value in row.values.items()}
        elif row.values:
            entries |= row.values | {"parameters": int(row.values["parameters"])}
            if teacher.parameters:
                entries["relative"] = entries["parameters"] / teacher.parameters
        table[size] = entries
    return (*(Mimicry(**entries) for entries in table.values()), teacher)
