"""Distributed trainings: how the processes, the ranks, exchange values and errors.

Every rank must call these functions, in the same order. In a training of one process they exchange
nothing.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DistributedSampler

T = TypeVar("T")

# The error of one rank becomes the nearest of these on the other ranks. Each takes one message.
_ERRORS = (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


def rank() -> int:
    """Return the number of this process, 0 if it is alone."""
    return dist.get_rank() if _are_many() else 0


def world_size() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if _are_many() else 1


def gather(value: T) -> list[T]:
    """Return the value of every rank, in order of rank, with all tensors on the CPU.

    Args:
        value: Anything that can be pickled. A process that is alone gets it back as it is.
    """
    return share_errors(lambda: value)


def run_on_all_ranks(work: Callable[[], T]) -> T:
    """Do work on every rank; return the result of this rank, or raise on all ranks alike.

    Args:
        work: As in `share_errors`. Its results are not exchanged.
    """
    results: list[T] = []
    share_errors(lambda: results.append(work()))
    return results[0]


def share_errors(work: Callable[[], T]) -> list[T]:
    """Do work on every rank; return the results of all ranks, or raise on all ranks alike.

    If all ranks fail with the same message, each raises its own error. Otherwise all raise the
    error of the first rank that failed, and the message names that rank.

    Args:
        work: Must not wait for another rank: a rank that fails early would never answer. Note that
            a metric's `compute` waits, unless the metric was made with `sync_on_compute=False`.
    """
    if not _are_many():
        return [work()]
    failure: Exception | None = None
    try:
        outcome: tuple[bytes, type[Exception] | None, str] = _packed(work()), None, ""
    except Exception as error:  # noqa: BLE001 whatever it is, the others must know
        failure = error
        outcome = b"", *_described(error)
    outcomes: list[Any] = [None] * world_size()
    dist.all_gather_object(outcomes, outcome)
    failed = [number for number, (_, kind, _) in enumerate(outcomes) if kind]
    if not failed:
        return [_unpacked(packed) for packed, _, _ in outcomes]
    if failure is not None and {(kind, text) for _, kind, text in outcomes} == {outcome[1:]}:
        raise failure
    _, kind, text = outcomes[failed[0]]
    raise kind(f"on rank {failed[0]}: {text}") from failure


def interleave(
    parts: Sequence[Any], samples: int | None = None, shards: Sequence[int] | None = None
) -> Any:
    """Put samples of all ranks in the order in which a single process would see them.

    A `DistributedSampler` deals samples out like cards, so they are collected in rounds. A rank
    without any more samples is passed over.

    Args:
        parts: A tensor `(n, ...)` or a list for each rank, of any lengths.
        samples: How many to return at most; see `count_distinct`.
        shards: The number of the part of the loader that each rank reads; by default the number of
            the rank. Ranks that compute one model together read the same part; it is used once.

    Example:
        >>> interleave([["a", "c", "e"], ["b", "d"]], samples=4)
        ['a', 'b', 'c', 'd']
    """
    dealt = dict(reversed(list(zip(shards or range(len(parts)), parts, strict=True))))
    hands = [dealt[shard] for shard in sorted(dealt)]
    rounds = sorted((turn, hand) for hand, part in enumerate(hands) for turn in range(len(part)))
    taken = [hands[hand][turn] for turn, hand in rounds[:samples]]
    if taken and isinstance(taken[0], Tensor):
        return torch.stack(taken)
    return taken or hands[0][:0]


def count_distinct(loader: Any) -> int | None:
    """Return how many different samples a loader deals out to all ranks, if it deals them out.

    A `DistributedSampler` repeats the first samples to fill its last round. A single process would
    not see these again.
    """
    inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    for sampler in (getattr(loader, "sampler", None), inner):
        if isinstance(sampler, DistributedSampler):
            return len(sampler.dataset)  # type: ignore[arg-type]  # it needs the length itself
    return None


def _are_many() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _packed(value: Any) -> bytes:
    """Pickle a value before anything is sent: a failure while sending leaves the others waiting."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(packed: bytes) -> Any:
    with torch.inference_mode(False):  # else autograd would refuse the tensors
        return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=False)


def _described(error: Exception) -> tuple[type[Exception], str]:
    """Describe an error by a type and a message: errors themselves often cannot be pickled."""
    kind = next((kind for kind in type(error).__mro__ if kind in _ERRORS), None)
    name, words = type(error).__name__, str(error)
    if kind is None or kind is LookupError:  # the message of a KeyError is only the key
        words = ": ".join(filter(None, [name, words]))
    return kind or RuntimeError, words or name
