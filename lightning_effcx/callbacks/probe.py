"""The probe: the samples at which the monitor measures a network, the same every time."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from lightning_effcx.callbacks.choices import Choices
from lightning_effcx.callbacks.distributed import (
    count_distinct,
    gather,
    interleave,
    rank,
    share_errors,
)
from lightning_effcx.callbacks.lightning_compat import Trainer
from lightning_effcx.network import (
    Call,
    Recorder,
    choose_input,
    describe,
    find_input,
    is_empty,
    parts,
)

Stage: TypeAlias = Literal["sanity", "validation", "training"]
ProbeSamples: TypeAlias = tuple[Call, Tensor | None]
"""What the network is called with, and the targets if all samples have one."""


@dataclass
class Collection:
    """What one process collected in one stage.

    Attributes:
        batch: What the first batch looks like.
        parts: Names of parts with parameters that may be the network.
        origin: Where the targets are from, in words.
        error: Why no samples could be taken from a batch, if so.
        calls: What the network was called with, in one call for each batch.
        targets: The targets for each of these calls.
    """

    batch: str = ""
    parts: list[str] = field(default_factory=list)
    origin: str = ""
    error: Exception | None = None
    calls: list[Call] = field(default_factory=list)
    targets: list[Tensor | None] = field(default_factory=list)

    def samples(self) -> ProbeSamples | None:
        """Return all samples, none if there are none, or raise the error."""
        if self.error is not None:
            raise self.error
        if not self.calls:
            return None
        first, *others = self.calls
        targets = [y for y in self.targets if y is not None]
        return first.joined(others), torch.cat(targets) if len(targets) == len(self.calls) else None


class Probe:
    """The first samples that a loader gives to the network, and their targets.

    The samples of a validation count most. Those of a sanity check, or of a training without any
    validation so far, are forgotten as soon as a validation begins.

    Args:
        choices: What the user chose.
    """

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.stage: Stage | None = None
        self.collected = Collection()
        self._gathered: ProbeSamples | None = None
        self._saved: dict[str, Any] = {}
        self._recorder: Recorder | None = None

    # -- collecting

    def start_stage(self, stage: Stage) -> None:
        """Forget the samples of another stage."""
        if self.stage != stage:
            self.stop_recording()
            self.stage, self.collected, self._gathered = stage, Collection(), None

    def start_batch(self, trainer: Trainer, module: nn.Module, loader: int = 0) -> None:
        """Record what the module or its part is called with, if samples of this loader are wanted.

        Args:
            trainer: The Trainer, before the step for a batch.
            module: The user's module.
            loader: Which of several validation loaders the batch is from.
        """
        if not self._is_source(trainer, loader):
            return
        self.stop_recording()
        missing = self._missing(trainer)
        if missing > 0 and self.choices.batch is None and not callable(self.choices.network):
            self._recorder = Recorder(module, self.choices.network, missing)

    def end_batch(self, trainer: Trainer, batch: Any, loader: int = 0) -> None:
        """Keep samples of a batch after its step; `gather_samples` raises what goes wrong."""
        if not self._is_source(trainer, loader):
            return
        recorder, collected = self._recorder, self.collected
        collected.parts = collected.parts or (recorder.parts() if recorder else [])
        call, missing = self.stop_recording(), self._missing(trainer)
        if missing <= 0 or is_empty(batch):
            return
        try:
            collected.batch = collected.batch or describe(batch)
            if call is None and recorder is not None and recorder.failure is not None:
                collected.error = recorder.failure
                return
            if self.choices.batch is not None:
                call, (y, origin) = choose_input(batch, self.choices.batch, self.choices.network)
            else:
                call, (y, origin) = find_input(batch, call, self.choices.network)
        except Exception as error:  # noqa: BLE001 the user's function may raise anything
            collected.error = error
            return
        call = call.rows(slice(missing))
        if not collected.calls or collected.calls[0].fits(call):
            collected.calls.append(call)
            collected.targets.append(None if y is None else y[:missing].detach().clone())
            collected.origin = collected.origin or origin

    def stop_recording(self) -> Call | None:
        """Remove all hooks from the module; return the call that was recorded."""
        recorder, self._recorder = self._recorder, None
        return recorder.close() if recorder else None

    def _is_source(self, trainer: Trainer, loader: int) -> bool:
        """Tell whether samples are to be taken from the batches that now come."""
        if trainer.training:
            return self.stage == "training"
        return loader == self.choices.loader

    def _missing(self, trainer: Trainer) -> int:
        """Return how many samples this process is still to collect."""
        collected = self.collected
        if self._gathered is not None or collected.error is not None:
            return 0
        if self._saved and collected.calls:  # the samples are known, and one call tells the rest
            return 0
        wanted = self.choices.samples
        if count_distinct(self._loader(trainer)) is not None:  # each process has a share of them
            wanted = -(-wanted // (trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1))
        return wanted - sum(call.samples for call in collected.calls)

    def _loader(self, trainer: Trainer) -> Any:
        """Return the loader that the samples are from."""
        if self.stage == "training":
            return trainer.train_dataloader
        several = [*parts(trainer.val_dataloaders).values()]
        number = self.choices.loader
        return several[number] if number < len(several) else trainer.val_dataloaders

    # -- gathering

    def gather_samples(self, trainer: Trainer) -> ProbeSamples:
        """Return the samples of all processes, in the order in which one process would see them."""
        if self._gathered is None:
            found = [own for own in share_errors(self.collected.samples) if own is not None]
            if not found:
                raise ValueError(
                    "no input was found: no batch with samples came from the validation loader "
                    f"number {self.choices.loader} (the first is number 0)"
                )
            shards = gather((trainer.distributed_sampler_kwargs or {}).get("rank", rank()))
            most = count_distinct(self._loader(trainer)) or self.choices.samples
            merged = _merged(found, min(self.choices.samples, most), shards)
            self._gathered = self._as_saved(*merged)
            self.collected.calls, self.collected.targets = [], []
        return self._gathered

    # -- checkpoints

    def state(self) -> dict[str, Any]:
        """Return the samples for a checkpoint, if they are final.

        It holds nothing but what `torch.load` accepts with `weights_only=True`.
        """
        if self._gathered is None or self.stage == "sanity":
            return self._saved
        call, y = self._gathered
        tensors = [(list(place), tensor.cpu()) for place, tensor in call.of_samples().items()]
        plain = all(isinstance(key, (str, int)) for place, _ in tensors for key in place)
        return {"tensors": tensors, "y": None if y is None else y.cpu()} if plain else {}

    def load(self, state: dict[str, Any]) -> None:
        """Take the samples from a checkpoint; all other arguments of the network are recorded."""
        self._saved = state

    def _as_saved(self, call: Call, y: Tensor | None) -> ProbeSamples:
        """Put the samples of the checkpoint in place of others, if it is of the same network."""
        saved = {tuple(place): tensor for place, tensor in self._saved.get("tensors", ())}
        if not saved or {*saved} != {*call.varying}:
            return call, y
        device = next(iter(call.of_samples().values())).device
        tensors = {place: tensor.to(device) for place, tensor in saved.items()}
        y = self._saved["y"]
        samples = len(next(iter(tensors.values())))
        return call.replaced(tensors, samples), None if y is None else y.to(device)


def _merged(found: list[ProbeSamples], samples: int, shards: list[int]) -> ProbeSamples:
    """Merge what the processes found.

    Args:
        found: The samples of each process that has some.
        samples: How many to keep.
        shards: Which part of the loader each process was given.
    """
    first, y = found[0]
    if len(found) == 1 or not all(first.fits(call) for call, _ in found):
        return first, y
    each = [call.of_samples() for call, _ in found]
    if all(torch.equal(own[place], each[0][place]) for own in each for place in first.varying):
        return first, y  # every process sees all of the data
    merged = {
        place: interleave([own[place] for own in each], samples, shards) for place in first.varying
    }
    targets = [y for _, y in found if y is not None]
    y = interleave(targets, samples, shards) if len(targets) == len(found) else None
    return first.replaced(merged, len(next(iter(merged.values())))), y
