"""The result of a study of students, as a table, as JSON and as a figure."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from lightning_effcx.studies.emc_result import number_text

if TYPE_CHECKING:
    from lightning_effcx.plotting import Axes, Figure


@dataclass(frozen=True)
class MimicRow:
    """How well one network, a student or the teacher, does what the teacher does.

    All scores are over the samples that were held out.

    Attributes:
        hidden: The number of hidden units of the student; `None` for the teacher.
        parameters: The number of parameters; `None` for a teacher that is no module.
        relative: The number of parameters, divided by the teacher's.
        r2: The share of the variance of the teacher's logits that the network explains.
        r2_stderr: The standard error of `r2`.
        mse: The mean squared error, over samples and logits.
        agreement: The share of the samples for which the network decides as the teacher does.
        agreement_stderr: The standard error of `agreement`.
        accuracy: The share of the samples for which the network decides for the label.
        accuracy_on_labels: The accuracy of the student after fitting it to the labels.
        error: Why a training of the student failed; empty if none did.
    """

    hidden: int | None = None
    parameters: int | None = None
    relative: float | None = None
    r2: float | None = None
    r2_stderr: float | None = None
    mse: float | None = None
    agreement: float | None = None
    agreement_stderr: float | None = None
    accuracy: float | None = None
    accuracy_on_labels: float | None = None
    error: str = ""

    def within(self, tolerance: float) -> bool:
        """Tell whether both `r2` and `agreement` are at most this far below 1."""
        if self.r2 is None or self.agreement is None:
            return False
        return min(self.r2, self.agreement) >= 1 - tolerance


@dataclass(frozen=True)
class MimicStudy:
    """The students of one teacher, and how well each does what the teacher does.

    Attributes:
        table: The students, from the smallest to the largest, then the teacher.
        tolerance: The share of variance and decisions that a student may miss.
    """

    table: tuple[MimicRow, ...]
    tolerance: float

    @property
    def size(self) -> int | None:
        """The number of hidden units of the smallest student within tolerance, or `None`."""
        return next((row.hidden for row in self.students if row.within(self.tolerance)), None)

    @property
    def students(self) -> tuple[MimicRow, ...]:
        """The rows of the students."""
        return self.table[:-1]

    @property
    def teacher(self) -> MimicRow:
        """The row of the teacher."""
        return self.table[-1]

    @property
    def failures(self) -> dict[str, str]:
        """Why trainings failed, by the size of their student."""
        return {f"{row.hidden} units": row.error for row in self.students if row.error}

    def as_table(self) -> Table:
        """Return a table for a terminal, with the smallest student within tolerance in bold."""
        size = self.size
        found = f"{size} units are" if size else f"none of {len(self.students)} students is"
        table = Table(caption=f"{found} within {self.tolerance:g} of the teacher")
        for name in ("units", "parameters", "relative", "R²", "MSE", "agreement"):
            table.add_column(name, justify="right")
        labelled = self.teacher.accuracy is not None
        for name in ("accuracy", "on labels") if labelled else ():
            table.add_column(name, justify="right")
        for row in self.table:
            accuracies = (row.accuracy, row.accuracy_on_labels) if labelled else ()
            cells = [
                "teacher" if row.hidden is None else str(row.hidden),
                "" if row.parameters is None else str(row.parameters),
                number_text(row.relative),
                number_text(row.r2, row.r2_stderr),
                "" if row.mse is None else f"{row.mse:.3g}",
                number_text(row.agreement, row.agreement_stderr),
                *map(number_text, accuracies),
            ]
            is_smallest = size is not None and row.hidden == size
            table.add_row(*cells, style="bold" if is_smallest else None)
        for column in table.columns:
            column.no_wrap = True
        return table

    def as_json(self) -> str:
        """Return everything as JSON, with null for what is unknown."""
        entries = {
            "size": self.size,
            "tolerance": self.tolerance,
            "table": [asdict(row) for row in self.table],
        }
        return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"

    def plot(self) -> "Figure":
        """Draw R² and agreement over the hidden units, and accuracies if there are labels."""
        from lightning_effcx.plotting import Figure  # noqa: PLC0415 an extra

        labelled = self.teacher.accuracy is not None
        figure = Figure((7.5 if labelled else 4, 3), layout="constrained")
        left, *right = figure.subplots(1, 2 if labelled else 1, squeeze=False)[0]
        self._draw(left, {"r2": "R²", "agreement": "agreement"})
        left.axhline(1 - self.tolerance, color="0.5", linestyle=":", label="tolerance")
        left.set_ylim(bottom=max(left.get_ylim()[0], -0.05))  # R² has no lower bound
        left.set_title("with the teacher", fontsize="medium", loc="left")
        for axes in right:
            fits = {"accuracy": "fitted to logits", "accuracy_on_labels": "fitted to labels"}
            self._draw(axes, fits)
            axes.axhline(self.teacher.accuracy, color="0.5", linestyle=":", label="teacher")
            axes.set_title("accuracy", fontsize="medium", loc="left")
        for axes in (left, *right):
            axes.legend(fontsize="small", frameon=False)
        return figure

    def _draw(self, axes: "Axes", curves: dict[str, str]) -> None:
        """Draw attributes of the students; `curves` has the label of each in the legend."""
        from lightning_effcx.plotting import COLOURS, label_logarithms, simplify  # noqa: PLC0415 an extra

        for (name, label), colour in zip(curves.items(), COLOURS[:2], strict=True):
            points = [
                (row.hidden, value)
                for row in self.students
                if (value := getattr(row, name)) is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=colour, label=label, ms=4)
        sizes = [row.hidden or 0 for row in self.students]
        label_logarithms(axes, "x", sizes)
        axes.set_xlabel("hidden units", fontsize="small")
        simplify(axes)
