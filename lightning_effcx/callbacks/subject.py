"""The subject: which network is measured, and at which samples."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from lightning_effcx.callbacks.distributed import run_on_all_ranks
from lightning_effcx.callbacks.guard import Guard
from lightning_effcx.callbacks.lightning_compat import LightningModule, Trainer
from lightning_effcx.callbacks.probe import Collection, Probe
from lightning_effcx.network import (
    Network,
    Target,
    UnrestorableError,
    capture_network,
    is_target,
    join_words,
)

_SHOWN = 4  # names of parts, in a message


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        network: A function of one tensor.
        x: The samples `(n, ...)`.
        outputs: What the network returns for them, `(n, k)`.
        y: Their targets, if there are any.
        words: All of this in words, for the user.
    """

    network: Network
    x: Tensor
    outputs: Tensor
    y: Tensor | None
    words: str


def find_subject(trainer: Trainer, module: LightningModule, probe: Probe) -> Subject:
    """Find the network that the user means and its samples; call it inside `observing`.

    An error says what the batch looks like, and how the user can specify input and network.
    """
    with _explain_errors(probe.collected):
        call, y = probe.gather_samples(trainer)
        choices = probe.choices
        found = run_on_all_ranks(
            lambda: capture_network(module, call, choices.network, choices.output)
        )
    # A part may be called with several rows for each sample; then no target belongs to a row.
    y = y.to(found.x.device, copy=True) if y is not None and is_target(y, len(found.x)) else None
    words = f"{found.words}; {Target(y, probe.collected.origin).words()}"
    return Subject(found.network, found.x, found.outputs, y, words)


def announce_subject(subject: Subject, name: str, guard: Guard) -> None:
    """Log what is measured, unless the same was logged before.

    Args:
        subject: What is measured.
        name: Of the monitor, if it has one.
        guard: Logs the line.
    """
    who = f"the monitor {name!r} is " if name else ""
    line = f"{who}measuring {subject.words}"
    # The sanity check has fewer samples than the validation; their number alone is no news.
    guard.inform(line, about=re.sub(rf"\({len(subject.x)}(?=[,)])", "(n", line))


@contextmanager
def _explain_errors(collected: Collection) -> Iterator[None]:
    """Add to an error what the batch looks like, and how to specify input and network."""
    try:
        yield
    except UnrestorableError:  # which is not about the batch
        raise
    except ValueError as error:
        raise ValueError(_explanation(str(error), collected)) from error


def _explanation(problem: str, collected: Collection) -> str:
    sentences = [f"{problem}."]
    if collected.batch not in problem:
        sentences.append(f"The batch is {collected.batch}.")
    if "batch=lambda" not in problem:
        names = [f"network={name!r}" for name in collected.parts[:_SHOWN]]
        examples = f", such as {join_words(names, 'or')}" if names else ""
        sentences.append(
            "Specify the input with batch=, such as ComplexityMonitor(batch=lambda batch: "
            f"(batch['x'], batch['y'])), and the network with network=: the name of a part"
            f"{examples}, or a function (module, x) -> outputs."
        )
    return " ".join(sentences)
