"""Compatibility: what works alike in the two packages that Lightning is published as.

`lightning.pytorch` and `pytorch_lightning` hold the same code, but each has its own classes. A
Trainer of one package does not take the callbacks of the other, so our callbacks descend from both.
A Trainer may hold loggers and callbacks of either package: find them by the name of their class,
not by its identity. No other file imports the packages.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from lightning_utilities.core import rank_zero
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from lightning_effcx.network import observing

__all__ = [
    "Callback",
    "LightningModule",
    "Trainer",
    "averaged_weights",
    "callbacks_around",
    "find_by_class_name",
    "observing_silently",
    "package_of",
    "rank_zero_info",
    "rank_zero_warn",
    "validation_step",
]

_NAMES = ("lightning.pytorch", "pytorch_lightning")


def _installed() -> list[ModuleType]:
    """Import those of the two packages that are installed."""
    # Both packages write messages with one shared logger, and the package that is imported last
    # sets it. If the user has imported a package, and perhaps silenced it, its logger must stay.
    chosen = any(name in sys.modules for name in _NAMES)
    before = rank_zero.log, rank_zero.rank_zero_deprecation_category
    found = []
    for name in _NAMES:
        try:
            found.append(import_module(name))
        except ImportError:  # not installed, or broken, or another package of that name
            if name == "pytorch_lightning":  # our own dependency
                raise
    if chosen:
        rank_zero.log, rank_zero.rank_zero_deprecation_category = before
    return found


if TYPE_CHECKING:
    import lightning.pytorch
    import pytorch_lightning

    Trainer: TypeAlias = pytorch_lightning.Trainer | lightning.pytorch.Trainer
    LightningModule: TypeAlias = (
        pytorch_lightning.LightningModule | lightning.pytorch.LightningModule
    )

    class Callback(lightning.pytorch.Callback, pytorch_lightning.Callback):  # type: ignore[misc]
        """A callback to the Trainers of both packages."""

else:
    _hosts = _installed()
    Trainer = Union[tuple(host.Trainer for host in _hosts)]  # noqa: UP007 as many as there are
    LightningModule = Union[tuple(host.LightningModule for host in _hosts)]  # noqa: UP007

    class Callback(*(host.Callback for host in _hosts)):
        """A callback to the Trainers of both packages."""


@contextmanager
def averaged_weights(
    trainer: Trainer, pl_module: LightningModule, callbacks: Iterable[Any]
) -> Iterator[None]:
    """Put averaged weights into the module again, as callbacks that average do in a validation.

    When our hook is called, callbacks before ours have already put the trained weights back.

    Args:
        trainer: The Trainer.
        pl_module: The user's module.
        callbacks: Callbacks of which some may average.
    """
    averaging = find_by_class_name(callbacks, "WeightAveraging")
    for callback in averaging:
        callback.on_validation_epoch_start(trainer, pl_module)
    try:
        yield
    finally:
        for callback in averaging:
            callback.on_validation_epoch_end(trainer, pl_module)


def callbacks_around(trainer: Trainer, callback: Callback) -> tuple[list[Any], list[Any]]:
    """Return the callbacks of a Trainer that it calls before and after one of them."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[union-attr]
    places = [place for place, each in enumerate(callbacks) if each is callback]
    place = places[0] if places else len(callbacks)  # another callback may be calling it
    return callbacks[:place], callbacks[place + 1 :]


def find_by_class_name(objects: Iterable[Any], *names: str) -> list[Any]:
    """Return the callbacks or loggers whose class, or a base of it, has one of the names."""
    return [each for each in objects if {*names} & {kind.__name__ for kind in type(each).__mro__}]


@contextmanager
def observing_silently(pl_module: LightningModule, *beside: Any) -> Iterator[None]:
    """Observe the module, and ignore what its forward logs, since we cause these calls.

    Args:
        pl_module: The user's module.
        *beside: As in `observing`.
    """
    with observing(pl_module, *beside):
        for module in pl_module.modules():
            if isinstance(module, LightningModule):
                vars(module).update(log=_nothing, log_dict=_nothing)
        yield


def _nothing(*_: Any, **__: Any) -> None:
    pass


def package_of(module: LightningModule) -> ModuleType:
    """Return the package whose Trainer accepts a module."""
    names = {name for kind in type(module).__mro__ for name in _NAMES if _is_in(kind, name)}
    if not names:
        raise TypeError(f"got a {type(module).__name__}, expected a LightningModule.")
    return sys.modules[names.pop()]


def _is_in(kind: type, name: str) -> bool:
    return kind.__name__ == "LightningModule" and kind.__module__.startswith(f"{name}.")


def validation_step(trainer: Trainer) -> int:
    """Return the step at which Lightning writes what is logged in a validation.

    At the end of an epoch this number is larger by one, but Lightning writes at the same step.
    """
    epoch_loop = trainer.fit_loop.epoch_loop
    return int(getattr(epoch_loop, "_batches_that_stepped", trainer.global_step))
