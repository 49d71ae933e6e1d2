"""Jobs of studies, which other processes can import; as a script, a study of them."""

import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lightning_effcx.studies import Job, run_jobs


def jobs(count=6, seed=0):
    return [Job.of(f"width={width}", {"width": width}, seed=seed) for width in range(1, count + 1)]


def trained(job, generators=("torch", "numpy", "python")):
    """Train a network with all kinds of randomness; return the loss and the settings of torch."""
    network = nn.Sequential(
        nn.Linear(3, job.arguments["width"]), nn.Dropout(0.3), nn.Linear(job.arguments["width"], 1)
    )
    for _ in range(20):
        x = torch.from_numpy(np.random.randn(64, 3)).to(torch.get_default_dtype())  # noqa: NPY002
        target = random.random() if "python" in generators else 0.5  # noqa: S311
        loss = (network(x) - target).square().mean()
        loss.backward()
        with torch.no_grad():  # by hand, since optimizers import for seconds
            for parameter in network.parameters():
                parameter -= 0.01 * parameter.grad  # noqa: PLW2901 in place
                parameter.grad = None
    return {
        "loss": loss.item(),
        "threads": torch.get_num_threads(),
        "precise": x.dtype == torch.float64,
    }


def process(job):
    return {"process": os.getpid()}


@dataclass
class Counted:
    """Writes down each job that it starts; does what is asked for at some."""

    log: Path
    fails: tuple[str, ...] = ()
    interrupts: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()

    def __call__(self, job):
        with self.log.open("a") as log:
            log.write(f"{job.key}\n")
        if job.key in self.fails:
            raise KeyError(job.key)
        if job.key in self.interrupts:
            raise KeyboardInterrupt
        if job.key in self.waits:
            time.sleep(60)
        return {"draw": torch.rand(())}

    def started(self):
        return self.log.read_text().split() if self.log.exists() else []


def abort(job):
    os._exit(1)


if __name__ == "__main__":
    folder, where, waits = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(",")
    work = Counted(folder.parent / "log", waits=tuple(waits))
    if where == "here":
        run_jobs(work, jobs(), folder=folder)
    else:
        with ProcessPoolExecutor(2, get_context("fork")) as pool:  # sooner there
            run_jobs(work, jobs(), folder=folder, executor=pool)
