"""Mimic: the size of the smallest shallow network that does what a given network does.

The given network is the teacher. Its students have one hidden layer, of several sizes. Each student
is fitted to the teacher's logits; then again, from the same weights and with the same steps, to the
labels. All students are tested at samples that they have not seen. Ba and Caruana found that a
student which learns little from labels learns much from logits, often as much as the teacher.

The teacher is evaluated once, in this process. The trainings read its logits from a file. On a
cluster, all machines must see the folder of the study.

Ba, Caruana, "Do Deep Nets Really Need to be Deep?", NIPS 2014.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_effcx.metrics.shallow_student import ShallowStudent, check_widths
from lightning_effcx.metrics.student_fit import check_steps, fit_labels, fit_outputs
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
from lightning_effcx.studies.mimic_data import Examples, TeacherData, module_of, parameters_of
from lightning_effcx.studies.mimic_result import MimicRow, MimicStudy
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
    """Find the smallest shallow student that does what a network does; also fit it to the labels.

    Students are fitted as by `fit_student`: in float64, by steps on all samples at once, and by
    least squares if they are linear. The result does not depend on the executor. The network is
    evaluated in eval mode and is not changed.

    Args:
        network: The teacher, a map from `(n, ...)` to logits `(n, k)`.
        dataset: Samples `(x, y)` with classes y, or x alone if `labels` is false. The accuracies
            are only fair if the teacher was not trained on the samples that are held out.
        students: The numbers of hidden units of the students.
        bottleneck: The width of a linear layer before the hidden units, as in `ShallowStudent`.
        activation: The activation of the hidden units: `relu`, `tanh`, or `linear` for none.
        tolerance: What the smallest student may miss: a share of the variance of the logits,
            1 - R², and the same share of the decisions.
        steps: How many steps each training takes.
        held_out: The share of the samples that students do not see; or other samples for that.
        labels: Whether to fit the students to the labels, too.
        executor: Where the trainings run, as in `run_jobs`.
        seed: The seed of the students' weights, and of the choice of samples to hold out.
        folder: Where results are kept, and where a study that was stopped goes on, as in
            `run_jobs`. A folder may be used again with other students or another tolerance.
        progress: Whether to show a bar, if this is a terminal.

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
        data = TeacherData.of(network, dataset, held_out, seed, labelled=labels)
    # Before the trainings, because it refuses a teacher whose outputs are all the same.
    teacher = _teacher_row(network, data)
    arguments = {
        "bottleneck": bottleneck,
        "activation": activation,
        "steps": steps,
        "seed": seed,
        "data": data.digest,
    }
    jobs = [
        Job.of(f"hidden={size}/on={on}", {"hidden": size, "on": on}, seed=seed)
        for size in sizes
        for on in ("logits", *(["labels"] if labels else []))
    ]
    with data.saved(None if folder is None else Path(folder)) as file:
        rows = run_jobs(
            _FitStudent(str(file.resolve()), bottleneck, activation, steps, seed),
            jobs,
            executor=executor,
            folder=folder,
            study=Study("mimic", arguments),
            progress=progress,
        )
    study = MimicStudy((*_student_rows(rows, teacher.parameters), teacher), tolerance)
    if folder is not None:
        write_found(folder, study.as_json())
    return study


def _check(
    students: Sequence[int], bottleneck: int | None, activation: str, tolerance: float, steps: int
) -> None:
    expected = "the numbers of hidden units of the students, such as (8, 16, 32)"
    check_kind("students", students, Sequence, expected)
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
class _FitStudent:
    """The work of a job: fit one student, to logits or to labels from the same first weights."""

    file: str
    bottleneck: int | None
    activation: str
    steps: int
    seed: int

    def __call__(self, job: Job) -> dict[str, float]:
        data = TeacherData.read(self.file)
        x = data.x.flatten(1).to(data.z)
        student = ShallowStudent(
            x.shape[1],
            data.z.shape[1],
            hidden=job.arguments["hidden"],
            bottleneck=self.bottleneck,
            activation=_ACTIVATIONS[self.activation],
            seed=self.seed,
        ).to(data.z)
        seen, by_labels = data.seen, job.arguments["on"] == "labels"
        if by_labels:
            fit_labels(student, x[seen], data.y[seen], self.steps)
        else:
            fit_outputs(student, x[seen], data.z[seen], self.steps)
        with torch.no_grad():
            outputs = student(x[data.held])
        if by_labels:
            return data.accuracy(outputs)
        return data.scores(outputs) | {"parameters": parameters_of(student)}


def _teacher_row(network: Network, data: TeacherData) -> MimicRow:
    scores: dict[str, Any] = data.scores(data.z[data.held])
    if parameters := parameters_of(module_of(network)):
        scores |= {"parameters": parameters, "relative": 1.0}
    return MimicRow(**scores)


def _student_rows(rows: Iterable[Row], parameters: int | None) -> list[MimicRow]:
    """Join the two trainings of each student to one row.

    Args:
        rows: The trainings, those on logits before those on labels.
        parameters: How many the teacher has, if that is known.
    """
    table: dict[int, dict[str, Any]] = {}
    for row in rows:
        size = row.job.arguments["hidden"]
        entries = table.setdefault(size, {"hidden": size, "error": ""})
        entries["error"] = entries["error"] or row.error
        if row.job.arguments["on"] == "labels":
            entries |= {f"{name}_on_labels": value for name, value in row.values.items()}
        elif row.values:
            entries |= row.values | {"parameters": int(row.values["parameters"])}
            if parameters:
                entries["relative"] = entries["parameters"] / parameters
    return [MimicRow(**entries) for entries in table.values()]
