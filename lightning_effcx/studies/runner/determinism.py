"""Conditions: all that the numbers of a training depend on besides its job.

Whichever process or thread trains, and whatever it trained before, the conditions are the same: so
are the numbers.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from lightning_effcx.network import random_states_kept

# Random states and switches belong to a process: of its threads, one trains at a time.
_TRAINING = threading.RLock()


@dataclass(frozen=True)
class Conditions:
    """The switches of torch under which all jobs of a study train.

    Args:
        threads: Of torch, in each training: sums depend on how they are split.
        dtype: The default precision.
        deterministic: Whether algorithms that are not deterministic are avoided,
        warn_only: and whether those that have no substitute only warn.
    """

    threads: int
    dtype: torch.dtype
    deterministic: bool
    warn_only: bool

    @classmethod
    def here(cls, threads: int | None = None) -> Self:
        """Return those of this process, with as many threads as it has or as given."""
        return cls(
            torch.get_num_threads() if threads is None else threads,
            torch.get_default_dtype(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Train under these conditions, with everything random seeded; then restore all."""
        used = torch.cuda.is_initialized()
        devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count() if used else 0)]
        with (
            _TRAINING,
            random_states_kept(devices),
            torch.inference_mode(False),
            torch.enable_grad(),
            _undisturbed(),
        ):
            before = self.here()
            try:
                self._set()
                random.seed(seed)
                np.random.seed(seed)  # noqa: NPY002 the global state is what trainings draw from
                torch.manual_seed(seed)
                yield
            finally:
                before._set()  # noqa: SLF001

    def _set(self) -> None:
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        if self != self.here():
            torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let other threads draw from another generator than Python's global one, which trains.

    Those of a dask worker do draw meanwhile: to tell how large a collection is they sample it.
    """
    me, other = threading.get_ident(), random.Random()  # noqa: S311 no secrets
    methods = {
        name: method
        for name in random.__all__
        if isinstance(getattr(method := getattr(random, name), "__self__", None), random.Random)
    }

    def divided(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        others = getattr(other, name)

        def draw(*args: Any, **kwargs: Any) -> Any:
            return (own if threading.get_ident() == me else others)(*args, **kwargs)

        draw.__module__, draw.__qualname__ = random.__name__, name  # by which it is pickled
        return draw

    try:
        for name, method in methods.items():
            setattr(random, name, divided(name, method))
        if threading.active_count() > 1:
            time.sleep(0.01)  # calls that are under way end
        yield
    finally:
        for name, method in methods.items():
            setattr(random, name, method)
