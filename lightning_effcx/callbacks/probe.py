"""Probe: the samples at which the monitor looks at a network, the same every time."""

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from lightning_effcx.callbacks.distributed import distinct, gather, interleave, rank, share_errors
from lightning_effcx.callbacks.lightning_compat import Trainer
from lightning_effcx.network import (
    Call,
    ChooseInput,
    ChooseNetwork,
    Recorder,
    choose_input,
    describe,
    find_input,
    parts,
)

Stage: TypeAlias = Literal["sanity", "validation", "training"]


class Probe:
    """The first samples that a loader gives to the network, and their targets.

    Those of a validation count most: what was kept of a sanity check, or of a training without any
    validation so far, is forgotten when there are some.

    Args:
        samples: How many to keep, of all processes together.
        network: As the monitor is told.
        batch: As the monitor is told.
        loader: As the monitor is told.
    """

    def __init__(
        self,
        samples: int,
        network: ChooseNetwork | None = None,
        batch: ChooseInput | None = None,
        loader: int = 0,
    ) -> None:
        self.samples = samples
        self.network = network
        self.batch = batch
        self.loader = loader
        self._stage: Stage | None = None
        self._saved: dict[str, Any] = {}
        self._recorder: Recorder | None = None
        self._clear()

    def _clear(self) -> None:
        self.stop()
        self.seen = ""
        """What the first batch was made of."""
        self.names: list[str] = []
        """Parts with parameters that may be the network, first those that ran by themselves."""
        self.target = ""
        """Where the targets are from, in words."""
        self._error: Exception | None = None
        self._calls: list[Call] = []
        self._targets: list[Tensor | None] = []
        self._found: tuple[Call, Tensor | None] | None = None

    # -- keeping

    def begin(self, stage: Stage) -> None:
        """Forget what was kept of another stage."""
        if self._stage != stage:
            self._stage = stage
            self._clear()

    def listen(self, trainer: Trainer, module: nn.Module) -> None:
        """Hear what the module, or its part, is called with from now on, if that is wanted."""
        self.stop()
        missing = self._missing(trainer)
        if missing > 0 and self.batch is None and not callable(self.network):
            self._recorder = Recorder(module, self.network, missing)

    def stop(self) -> Call | None:
        """Hear no more; return what was heard."""
        recorder, self._recorder = self._recorder, None
        return recorder.close() if recorder else None

    def take(self, trainer: Trainer, batch: Any) -> None:
        """Keep samples of a batch that was just evaluated; what goes wrong is raised at the end."""
        recorder = self._recorder
        failure = recorder.failure if recorder else None
        self.names = self.names or (recorder.parts() if recorder else [])
        call, missing = self.stop(), self._missing(trainer)
        if missing <= 0:
            return
        try:
            self.seen = self.seen or describe(batch)
            if call is None and failure is not None:
                raise failure  # noqa: TRY301 as all that goes wrong here
            if self.batch is not None:
                call, (y, origin) = choose_input(batch, self.batch, self.network)
            else:
                call, (y, origin) = find_input(batch, call, self.network)
        except Exception as error:  # noqa: BLE001 the user's function may raise anything
            self._error = error
            return
        call = call.rows(slice(missing))
        if not self._calls or self._calls[0].fits(call):
            self._calls.append(call)
            self._targets.append(None if y is None else y[:missing].detach().clone())
            self.target = self.target or origin

    def _missing(self, trainer: Trainer) -> int:
        """How many samples this process is still to keep."""
        if self._found is not None or self._error is not None or (self._saved and self._calls):
            return 0
        dealt = distinct(self._source(trainer)) is not None
        replicas = (trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1)
        share = -(-self.samples // replicas) if dealt else self.samples
        return share - sum(call.samples for call in self._calls)

    def _source(self, trainer: Trainer) -> Any:
        """Return the loader that the samples are from."""
        if self._stage == "training":
            return trainer.train_dataloader
        several = [*parts(trainer.val_dataloaders).values()]
        return several[self.loader] if self.loader < len(several) else trainer.val_dataloaders

    # -- giving

    def gathered(self, trainer: Trainer) -> tuple[Call, Tensor | None]:
        """Return the samples of all processes, in the order in which one would see them."""
        if self._found is None:
            found = [own for own in share_errors(self._own) if own is not None]
            if not found:
                raise ValueError(
                    "no input was found: no batch was seen of the validation loader "
                    f"{self.loader}, the first being 0"
                )
            shards = gather((trainer.distributed_sampler_kwargs or {}).get("rank", rank()))
            call, y = found[0]
            if len(found) > 1:
                call, y = self._together(found, distinct(self._source(trainer)), shards)
            self._found = self._as_saved(call, y)
            self._calls, self._targets = [], []
        return self._found

    def _own(self) -> tuple[Call, Tensor | None] | None:
        if self._error is not None:
            raise self._error
        if not self._calls:
            return None
        first, *others = self._calls
        call = first.joined(others)
        targets = [y for y in self._targets if y is not None]
        return call, torch.cat(targets) if len(targets) == len(self._targets) else None

    def _together(
        self,
        each: list[tuple[Call, Tensor | None]],
        most: int | None,
        shards: list[int],
    ) -> tuple[Call, Tensor | None]:
        first, y = each[0]
        if not all(first.fits(call) for call, _ in each):
            return first, y
        found = [call.of_samples() for call, _ in each]
        if all(torch.equal(f[p], found[0][p]) for f in found for p in first.varying):
            return first, y  # every process sees all of the data
        samples = min(self.samples, most or self.samples)
        shared = {
            place: interleave([f[place] for f in found], samples, shards) for place in first.varying
        }
        targets = [y for _, y in each if y is not None]
        y = interleave(targets, samples, shards) if len(targets) == len(each) else None
        return first.replaced(shared, len(next(iter(shared.values())))), y

    # -- checkpoints: nothing but what torch loads with weights_only

    def state(self) -> dict[str, Any]:
        """Return the samples, as far as they are known for good, for a checkpoint."""
        if self._found is None or self._stage == "sanity":
            return self._saved
        call, y = self._found
        tensors = [(list(place), tensor.cpu()) for place, tensor in call.of_samples().items()]
        plain = all(isinstance(key, (str, int)) for place, _ in tensors for key in place)
        return {"tensors": tensors, "y": None if y is None else y.cpu()} if plain else {}

    def load(self, state: dict[str, Any]) -> None:
        """Take the samples of a checkpoint; what else the network is called with is heard again."""
        self._saved = state

    def _as_saved(self, call: Call, y: Tensor | None) -> tuple[Call, Tensor | None]:
        saved = {tuple(place): tensor for place, tensor in self._saved.get("tensors", ())}
        if not saved or {*saved} != {*call.varying}:
            return call, y
        device = next(iter(call.of_samples().values())).device
        tensors = {place: tensor.to(device) for place, tensor in saved.items()}
        y = self._saved["y"]
        samples = len(next(iter(tensors.values())))
        return call.replaced(tensors, samples), None if y is None else y.to(device)
