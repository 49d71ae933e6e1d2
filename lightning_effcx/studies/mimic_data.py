"""The data of a study of students: samples, the teacher's logits, and which samples are held out.

The teacher is evaluated once. Samples and logits are written to one file, `lesson-….pt`, which the
trainings of all students read, in whichever process they run.
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_effcx.metrics.mimic import Fidelity, fidelity
from lightning_effcx.metrics.student_fit import check_held_out, logits, split_samples
from lightning_effcx.network import Network, check_finite, observing, to_precision
from lightning_effcx.reading import open_regular, visible
from lightning_effcx.studies.runner import digest_of
from lightning_effcx.targets import decisions

Examples: TypeAlias = Dataset[Any] | tuple[Tensor, ...]
"""A dataset of `(x, y)` or of x alone, or the tensors of all samples."""

_BATCH = 256  # samples that the teacher evaluates at once


@dataclass(frozen=True, eq=False)
class TeacherData:
    """Samples with the logits that their teacher gives them.

    The names of the attributes are also those in the file.

    Attributes:
        x: The samples `(n, ...)`.
        z: The teacher's logits `(n, k)`.
        y: The classes `(n,)`; empty if the study has no labels.
        seen: The indices of the samples that students are fitted to.
        held: The indices of the samples that are held out.
    """

    x: Tensor
    z: Tensor
    y: Tensor
    seen: Tensor
    held: Tensor

    @classmethod
    def of(
        cls,
        network: Network,
        dataset: Examples,
        held_out: float | Examples,
        seed: int,
        *,
        labelled: bool,
    ) -> Self:
        """Evaluate the teacher at all samples."""
        if isinstance(held_out, (int, float)):
            check_held_out(held_out)
            x, z, y = _evaluate_teacher(network, dataset, labelled=labelled)
            held, seen = split_samples(len(x), held_out, seed)
        else:
            parts = [
                _evaluate_teacher(network, part, labelled=labelled) for part in (dataset, held_out)
            ]
            x, z, y = (torch.cat(both) for both in zip(*parts, strict=True))
            seen, held = torch.arange(len(x)).split([len(part[0]) for part in parts])
        check_finite(z)
        return cls(x, z, y, seen, held)

    @property
    def digest(self) -> str:
        """A hash of everything, by which a folder recognizes the data."""
        return digest_of(vars(self).values())

    @contextmanager
    def saved(self, folder: Path | None) -> Iterator[Path]:
        """Save the data, and yield the file; without a folder to a file that is deleted at the end.

        In a folder the file stays, unless it turns out inside that the folder is another study's.
        """
        with ExitStack() as stack:
            if folder is None:
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="effcx-")))
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"lesson-{self.digest}.pt"
            is_new = not file.exists()
            if is_new or not self._is_in(file):
                part = file.with_suffix(".part")
                torch.save(vars(self), part)
                part.replace(file)  # at once, so that a kill leaves no half file
            try:
                yield file
            except ValueError:  # the folder holds another study
                if is_new:
                    file.unlink()
                raise

    def _is_in(self, file: Path) -> bool:
        """Tell whether a file holds exactly these data; warn if it is damaged."""
        try:
            is_same = self.read(str(file)).digest == self.digest
        except ValueError:
            is_same = False
        if not is_same:
            warnings.warn(f"{visible(file)} is damaged, so it is written again.", stacklevel=2)
        return is_same

    @classmethod
    def read(cls, file: str) -> Self:
        """Read a file that `saved` wrote."""
        try:
            with open_regular(Path(file)) as opened:
                return cls(**torch.load(opened, weights_only=True))
        except Exception as error:  # torch raises many types of errors for damaged files
            raise ValueError(
                f"{visible(file)} holds no data of a teacher ({type(error).__name__}): delete it, "
                "and run the study again."
            ) from error

    def accuracy(self, outputs: Tensor) -> dict[str, float]:
        """Return for how many of the held out samples outputs decide for the label, as a share.

        The dictionary is empty if the study has no labels.
        """
        if not len(self.y):
            return {}
        return {"accuracy": float((decisions(outputs) == self.y[self.held]).to(self.z).mean())}

    def scores(self, outputs: Tensor) -> dict[str, float]:
        """Compare outputs at the held out samples with the teacher's; return all scores by name.

        Raises:
            ValueError: The teacher's outputs are the same for all samples.
        """
        found: Fidelity = fidelity(outputs, self.z[self.held], self.z[self.seen].mean(0))
        scores = {
            "r2": found.r2,
            "r2_stderr": found.gap_stderr,
            "mse": 2 * found.loss / outputs.shape[1],
            "agreement": found.agreement,
            "agreement_stderr": found.agreement_stderr,
        } | self.accuracy(outputs)
        return {name: value for name, value in scores.items() if value is not None}


def _evaluate_teacher(
    network: Network, data: Examples, *, labelled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return samples, the teacher's logits in float64, and classes if the study has labels."""
    dataset = TensorDataset(*data) if isinstance(data, tuple) else data
    device = next((p.device for p in module_of(network).parameters()), torch.device("cpu"))
    xs, zs, ys = [], [], []
    with observing(network):
        for batch in DataLoader(dataset, _BATCH):
            x, *rest = batch if isinstance(batch, (list, tuple)) else [batch]
            if not isinstance(x, Tensor):
                raise TypeError(
                    f"the dataset's samples are {type(x).__name__}, expected tensors, or pairs of "
                    "a tensor and a class."
                )
            if labelled and not rest:
                raise ValueError(
                    "the dataset has no labels: expected (x, y), or labels=False to do without."
                )
            xs.append(x.detach().cpu())
            zs.append(logits(network, x.to(device), len(x), centred=False).cpu())
            if labelled:
                ys.append(torch.as_tensor(rest[0]).cpu())
    if not xs:
        raise ValueError("the dataset has no samples: expected some to fit students to.")
    x, z = torch.cat(xs), torch.cat(zs)
    return x, z, _classes(torch.cat(ys), z.shape[1]) if labelled else torch.zeros(0).long()


def _classes(y: Tensor, outputs: int) -> Tensor:
    """Return labels as whole numbers `(n,)`; refuse what is no class of the network."""
    most = max(outputs, 2) - 1
    exact = to_precision(y, torch.float64)
    if y.numel() != len(y) or not torch.equal(exact, exact.round().clamp(0, most)):
        raise ValueError(
            f"the labels are no classes of a network with {outputs} outputs: expected whole "
            f"numbers from 0 to {most}, or labels=False to do without."
        )
    return y.flatten().long()


def module_of(network: Network) -> nn.Module:
    """Return the module of a network that is one, or a method of one; else an empty module."""
    owner = getattr(network, "__self__", network)
    return owner if isinstance(owner, nn.Module) else nn.Module()


def parameters_of(module: nn.Module) -> int:
    """Count the parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
