"""Whole studies that write down which trainings start and end, for other processes."""

import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import torch
from networks import mlp
from procedures import Learner, trainer
from user_training import task

from lightning_effcx.studies import effective_model_complexity, mimic

MIMIC = import_module(mimic.__module__)  # whose name is also the function's


@dataclass(frozen=True)
class Diary:
    """Which trainings, told apart by their seeds, started and which ended; some wait in between."""

    file: Path
    waits: tuple[int, ...] = ()

    def starts(self):
        self._write("starts")
        if torch.initial_seed() in self.waits:
            time.sleep(60)

    def ends(self):
        self._write("ends")

    def _write(self, what):
        with self.file.open("a") as file:
            file.write(f"{what} {torch.initial_seed()}\n")

    def read(self, what):
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith(what)]


class Watched(Learner):
    def __init__(self, diary):
        super().__init__()
        self.diary = diary

    def on_train_start(self):
        self.diary.starts()

    def on_train_end(self):
        self.diary.ends()


def emc_study(diary=None, **options):
    """Trainings of one sample fail, for BatchNorm; the complexity is refined."""
    return effective_model_complexity(
        partial(Watched, diary) if diary else Learner, task(), test=task(), label_noise=0.3,
        epsilon=0.3, repeats=2, batch_size=16, make_trainer=partial(trainer, 12), progress=False,
        **options,
    )  # fmt: skip


def mimic_study(diary=None, **options):
    """The fits of students are watched in this process, and in those forked from it."""
    torch.manual_seed(0)
    teacher = mlp(6, 16, 16, 3)
    fits = MIMIC.fit_outputs, MIMIC.fit_labels
    try:
        if diary:
            MIMIC.fit_outputs, MIMIC.fit_labels = (partial(_watched, diary, fit) for fit in fits)
        return mimic(teacher, task(), students=(2, 4, 8), steps=20, progress=False, **options)
    finally:
        MIMIC.fit_outputs, MIMIC.fit_labels = fits


def _watched(diary, fit, *arguments):
    diary.starts()
    fit(*arguments)
    diary.ends()


STUDIES = {"emc": emc_study, "mimic": mimic_study}


def run(name, diary, folder, workers):
    """Run a study in this process, or in workers of it."""
    torch.set_num_threads(1)
    pool = ProcessPoolExecutor(workers, get_context("fork")) if workers else nullcontext()
    with pool as executor:
        STUDIES[name](diary, folder=folder, executor=executor)
