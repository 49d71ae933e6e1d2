"""Lessons: what a teacher returns for samples, and which of these its students see.

What the teacher returns is computed once, and written with the samples to one file, which trainings
read wherever they run.
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
from lightning_effcx.metrics.shallow_student import check_share, logits, split_samples
from lightning_effcx.network import Network, check_finite, observing
from lightning_effcx.reading import open_regular, visible
from lightning_effcx.studies.runner import digest_of
from lightning_effcx.targets import decisions

Examples: TypeAlias = Dataset[Any] | tuple[Tensor, ...]
"""A dataset of `(x, y)`, or of x alone, or tensors of all of them."""

_BATCH = 256  # samples that the teacher is given at once


@dataclass(frozen=True, eq=False)
class Lesson:
    """What students are taught.

    Attributes:
        x: The samples `(n, ...)`.
        z: The teacher's logits `(n, k)`.
        y: The classes `(n,)`; empty where they are not asked for.
        seen: Which samples the students see,
        held: and which not.
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
        """Ask the teacher for its logits, once."""
        if isinstance(held_out, (int, float)):
            check_share(held_out)
            x, z, y = _taught(network, dataset, labelled=labelled)
            held, seen = split_samples(len(x), held_out, seed)
        else:
            parts = [_taught(network, part, labelled=labelled) for part in (dataset, held_out)]
            x, z, y = (torch.cat(both) for both in zip(*parts, strict=True))
            seen, held = torch.arange(len(x)).split([len(part[0]) for part in parts])
        check_finite(z)
        lesson = cls(x, z, y, seen, held)
        _ = lesson.judged(z[held]).gap  # refuses a teacher whose outputs are all the same
        return lesson

    @property
    def digest(self) -> str:
        """What tells it from other lessons."""
        return digest_of(vars(self).values())

    @contextmanager
    def kept(self, folder: Path | None) -> Iterator[Path]:
        """Write it to a file of the folder, where it stays, or else to one for the time inside."""
        with ExitStack() as stack:
            if folder is None:
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="effcx-")))
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"lesson-{self.digest}.pt"
            is_new = not file.exists()
            if is_new or not self._is_in(file):
                part = file.with_suffix(".part")
                torch.save(vars(self), part)
                part.replace(file)  # so that it is never half there
            try:
                yield file
            except ValueError:  # the folder holds another study
                if is_new:
                    file.unlink()
                raise

    def _is_in(self, file: Path) -> bool:
        """Tell whether a file holds this lesson; warn if it is damaged."""
        try:
            is_same = self.read(str(file)).digest == self.digest
        except ValueError:
            is_same = False
        if not is_same:
            warnings.warn(f"{visible(file)} is damaged, so it is written anew.", stacklevel=2)
        return is_same

    @classmethod
    def read(cls, file: str) -> Self:
        """Read what was kept."""
        try:
            with open_regular(Path(file)) as opened:
                return cls(**torch.load(opened, weights_only=True))
        except Exception as error:  # torch raises many sorts for damaged files
            raise ValueError(
                f"{visible(file)} holds no lesson ({type(error).__name__}): delete it, and run the "
                "study again."
            ) from error

    def judged(self, outputs: Tensor) -> Fidelity:
        """Compare outputs at the samples held out with the teacher's."""
        return fidelity(outputs, self.z[self.held], self.z[self.seen].mean(0))

    def accuracy(self, outputs: Tensor) -> dict[str, float]:
        """Share of the samples held out for which outputs decide for the class, if it is known."""
        if not len(self.y):
            return {}
        return {"accuracy": float((decisions(outputs) == self.y[self.held]).double().mean())}

    def figures(self, outputs: Tensor) -> dict[str, float]:
        """All that is said of outputs at the samples held out."""
        found = self.judged(outputs)
        figures = {
            "r2": found.r2,
            "r2_stderr": found.gap_stderr,
            "mse": 2 * found.loss / outputs.shape[1],
            "agreement": found.agreement,
            "agreement_stderr": found.agreement_stderr,
        } | self.accuracy(outputs)
        return {name: value for name, value in figures.items() if value is not None}


def _taught(network: Network, data: Examples, *, labelled: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return samples, the teacher's logits in float64, and classes if asked for."""
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
            ys += [torch.as_tensor(rest[0]).cpu()] if labelled else []
    if not xs:
        raise ValueError("the dataset has no samples, expected some to fit students at.")
    x, z = torch.cat(xs), torch.cat(zs)
    return x, z, _classes(torch.cat(ys), z.shape[1]) if labelled else torch.zeros(0).long()


def _classes(y: Tensor, outputs: int) -> Tensor:
    most = max(outputs, 2) - 1
    if y.numel() != len(y) or not torch.equal(y.double(), y.double().round().clamp(0, most)):
        raise ValueError(
            f"the labels are no classes of a network with {outputs} outputs: expected whole "
            f"numbers from 0 to {most}, or labels=False to do without."
        )
    return y.flatten().long()


def module_of(network: Network) -> nn.Module:
    """Return the module that a network is, or is a method of; an empty one if it is neither."""
    owner = getattr(network, "__self__", network)
    return owner if isinstance(owner, nn.Module) else nn.Module()


def parameters_of(module: nn.Module) -> int:
    """Count the parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
