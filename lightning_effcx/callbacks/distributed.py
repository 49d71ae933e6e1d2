"""Ranks: what the processes of a distributed training tell each other; one alone tells nothing.

All functions here are collective: every rank calls them, in the same order.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DistributedSampler

T = TypeVar("T")

# What a rank's error becomes on the others: the nearest of these, each made from one sentence.
_ERRORS = (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


def rank() -> int:
    """Return which of the processes this is, 0 where there is one."""
    return dist.get_rank() if _are_many() else 0


def world() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if _are_many() else 1


def gather(value: T) -> list[T]:
    """Return the value of every rank, in order of rank, with all tensors on the CPU.

    Args:
        value: Whatever can be pickled; it stays as it is where there is one process.
    """
    return share_errors(lambda: value)


def together(work: Callable[[], T]) -> T:
    """Do work on every rank; return its own result, or fail on all ranks alike.

    Args:
        work: As in `share_errors`; what it returns goes nowhere.
    """
    results: list[T] = []
    share_errors(lambda: results.append(work()))
    return results[0]


def share_errors(work: Callable[[], T]) -> list[T]:
    """Do work on every rank; return all results, as `gather` does, or fail on all ranks alike.

    Where all ranks fail with the same words, each raises its own error. Else all raise that of the
    first rank that failed, which the message names.

    Args:
        work: It must not wait for another rank, since a rank that fails early never gets there. A
            metric's own `compute` does wait, unless it was made with `sync_on_compute=False`.
    """
    if not _are_many():
        return [work()]
    failure: Exception | None = None
    try:
        outcome: tuple[bytes, type[Exception] | None, str] = _packed(work()), None, ""
    except Exception as error:  # noqa: BLE001 whatever it is, the others must know
        failure = error
        outcome = b"", *_described(error)
    outcomes: list[Any] = [None] * world()
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
    """Put what the ranks took from one loader in the order in which one process would take it.

    A `DistributedSampler` deals the samples out like cards, so they are collected in rounds. A rank
    that has no more drops out of the rounds, as it does where a sampler does not fill the last.

    Args:
        parts: A tensor `(n, ...)` or a list for each rank, of any lengths.
        samples: How many to return at most; see `distinct`.
        shards: Which part of the loader each rank was dealt, its own by default. Ranks that compute
            one model together are dealt the same; it is taken once.

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


def distinct(loader: Any) -> int | None:
    """Return how many samples a loader deals out to all ranks before it repeats some.

    A `DistributedSampler` fills its last round with the first samples once more, which one process
    would not see again. None where the loader deals nothing out.
    """
    inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    for sampler in (getattr(loader, "sampler", None), inner):
        if isinstance(sampler, DistributedSampler):
            return len(sampler.dataset)  # type: ignore[arg-type]  # it needs the length itself
    return None


def _are_many() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _packed(value: Any) -> bytes:
    """Pickle before anything is sent: a rank that cannot would leave the others waiting."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(packed: bytes) -> Any:
    with torch.inference_mode(False):  # else autograd would refuse the tensors
        return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=False)


def _described(error: Exception) -> tuple[type[Exception], str]:
    """Name an error by what every rank can build: errors themselves often cannot be pickled."""
    kind = next((kind for kind in type(error).__mro__ if kind in _ERRORS), None)
    name, words = type(error).__name__, str(error)
    if kind is None or kind is LookupError:  # the words of a KeyError are but a key
        words = ": ".join(filter(None, [name, words]))
    return kind or RuntimeError, words or name
