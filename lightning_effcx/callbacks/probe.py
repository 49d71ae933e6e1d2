"""Probe: the samples at which the monitor looks at a network, the same every time."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_effcx.callbacks.ranks import interleave, share_errors
from lightning_effcx.calls import Call, Recorder
from lightning_effcx.capture import ChooseInput, ChooseNetwork, chosen, heard
from lightning_effcx.structures import structure


class Probe:
    """The first samples that a loader gives to the network, and their targets.

    Args:
        samples: How many to keep, of all processes together.
        network: As the monitor is told.
        batch: As the monitor is told.
    """

    def __init__(
        self,
        samples: int,
        network: ChooseNetwork | None = None,
        batch: ChooseInput | None = None,
    ) -> None:
        self.samples = samples
        self.network = network
        self.batch = batch
        self._saved: dict[str, Any] = {}
        self._recorder: Recorder | None = None
        self.clear()

    def clear(self) -> None:
        """Forget the samples, but not those of a checkpoint that the training resumed from."""
        self.stop()
        self.seen = ""
        """What the first batch was made of."""
        self.skipped = 0
        """How many batches were of another shape than the first."""
        self._error: Exception | None = None
        self._calls: list[Call] = []
        self._targets: list[Tensor | None] = []
        self._found: tuple[Call, Tensor | None] | None = None

    def wants(self, share: int) -> bool:
        """Tell whether this process is to keep more samples, of its `share` of them."""
        return self._missing(share) > 0

    def _missing(self, share: int) -> int:
        if self._found is not None or self._error is not None or (self._saved and self._calls):
            return 0
        return share - sum(call.samples for call in self._calls)

    def listen(self, module: nn.Module, share: int) -> None:
        """Hear what the module, or its part, is called with from now on."""
        self.stop()
        if self.batch is None and not callable(self.network):
            self._recorder = Recorder(module, self.network, self._missing(share))

    def stop(self) -> Call | None:
        """Hear no more; return what was heard."""
        recorder, self._recorder = self._recorder, None
        return recorder.close() if recorder else None

    def take(self, batch: Any, share: int) -> None:
        """Keep samples of a batch that was just evaluated; what goes wrong is raised at the end."""
        failure = self._recorder.failure if self._recorder else None
        call, missing = self.stop(), self._missing(share)
        try:
            self.seen = self.seen or structure(batch)
            if call is None and failure is not None:
                raise failure  # noqa: TRY301 as all that goes wrong here
            if self.batch is not None:
                call, y = chosen(batch, self.batch, self.network)
            else:
                call, y = heard(batch, call, self.network)
        except Exception as error:  # noqa: BLE001 the user's function may raise anything
            self._error = error
            return
        call = call.rows(slice(missing))
        if self._calls and not self._calls[0].fits(call):
            self.skipped += 1
            return
        self._calls.append(call)
        self._targets.append(None if y is None else y[:missing].detach().clone())

    def gathered(self, most: int | None, shards: list[int] | None) -> tuple[Call, Tensor | None]:
        """Return the samples of all processes, in the order in which one would see them.

        Args:
            most: How many different samples there are, if that is known.
            shards: Which part of the data each process was given, by default its own.
        """
        if self._found is None:
            parts = [part for part in share_errors(self._own) if part is not None]
            if not parts:
                raise ValueError("no input was found: no batch was seen")
            call, y = parts[0]
            if len(parts) > 1:
                call, y = self._together(parts, most, shards)
            self._found = self._as_saved(call, y)
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
        parts: list[tuple[Call, Tensor | None]],
        most: int | None,
        shards: list[int] | None,
    ) -> tuple[Call, Tensor | None]:
        first, y = parts[0]
        if not all(first.fits(call) for call, _ in parts):
            return first, y
        found = [call.of_samples() for call, _ in parts]
        if all(torch.equal(f[p], found[0][p]) for f in found for p in first.varying):
            return first, y  # every process sees all of the data
        samples = min(self.samples, most or self.samples)
        shared = {
            place: interleave([f[place] for f in found], samples, shards) for place in first.varying
        }
        targets = [y for _, y in parts if y is not None]
        y = interleave(targets, samples, shards) if len(targets) == len(parts) else None
        return first.replaced(shared, len(next(iter(shared.values())))), y

    # -- checkpoints: nothing but what torch loads with weights_only

    def state(self, *, lasting: bool = True) -> dict[str, Any]:
        """Return the samples, as far as they are known and `lasting`, for a checkpoint."""
        if self._found is None or not lasting:
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
