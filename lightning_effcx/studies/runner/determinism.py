"""Determinism: a job trains under the same settings and seeds in whichever process it runs.

Random states and the settings of torch belong to a process. So of the threads of a process only one
trains at a time, and all states are restored after each training.

Not covered: another thread of the process that draws from a global generator while a job trains.
The threads of a dask worker draw from Python's `random` now and then. A training that uses `random`
may therefore differ there; one that draws from torch or numpy does not.
"""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from lightning_effcx.network import keeping_random_states

_TRAINING = threading.RLock()  # held by the thread that trains


@dataclass(frozen=True)
class TorchSettings:
    """The settings of torch under which all jobs of a study train.

    Args:
        threads: How many threads torch uses. The last digits of sums depend on it.
        dtype: The default precision.
        deterministic: Whether torch avoids algorithms that are not deterministic.
        warn_only: Whether torch only warns where there is no deterministic algorithm.
    """

    threads: int
    dtype: torch.dtype
    deterministic: bool
    warn_only: bool

    @classmethod
    def current(cls, threads: int | None = None) -> Self:
        """Return the settings of this process, but with `threads` threads if given."""
        return cls(
            torch.get_num_threads() if threads is None else threads,
            torch.get_default_dtype(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Apply these settings and seed all global generators inside; restore both afterwards."""
        used = torch.cuda.is_initialized()
        devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count() if used else 0)]
        with (
            _TRAINING,
            keeping_random_states(devices),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            before = self.current()
            try:
                self.apply()
                random.seed(seed)
                np.random.seed(seed)  # noqa: NPY002 the global state is what trainings draw from
                torch.manual_seed(seed)
                yield
            finally:
                before.apply()

    def apply(self) -> None:
        """Give this process these settings."""
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        if self != self.current():  # the call imports a large part of torch
            torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
