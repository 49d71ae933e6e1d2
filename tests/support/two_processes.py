"""Runs a function in two processes that communicate, and returns what both return."""

import os
import pickle
import tempfile
import traceback
import warnings
from multiprocessing import get_context
from pathlib import Path
from time import monotonic

import torch
import torch.distributed as dist


def together(work, *arguments, world=2, seconds=60):
    """Return `work(*arguments)` of each rank; a rank that fails or hangs fails the test."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 is wary of forks
        processes = [
            get_context("fork").Process(target=_run, args=(work, arguments, rank, world, folder))
            for rank in range(world)
        ]
        end = monotonic() + seconds
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(max(0, end - monotonic()))
            hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
        finally:
            for process in processes:
                process.kill()
                process.join()
        outcomes = [_outcome(Path(folder) / str(rank)) for rank in range(world)]
    texts = [text for _, text in outcomes if text]
    assert not texts, "\n".join([*texts, f"Hung after {seconds} s: {hung}."])
    return [result for result, _ in outcomes]


def _run(work, arguments, rank, world, folder):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    result, text = None, ""
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
        )
        result = work(*arguments)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:  # noqa: BLE001 the parent tells
        text = f"on rank {rank}:\n{traceback.format_exc()}"
    with (Path(folder) / str(rank)).open("wb") as file:
        pickle.dump((result, text), file)


def _outcome(file):
    return (
        pickle.loads(file.read_bytes()) if file.exists() else (None, f"{file.name} wrote nothing")
    )
