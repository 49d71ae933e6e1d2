"""Studies: measures that need many trainings, run over the user's own Lightning code."""

from lightning_effcx.studies.emc import EMCRow, EMCStudy, effective_model_complexity
from lightning_effcx.studies.executor import run_jobs
from lightning_effcx.studies.jobs import Job, Row
from lightning_effcx.studies.mimic import mimic
from lightning_effcx.studies.mimicry import MimicStudy
from lightning_effcx.studies.records import Study

__all__ = [
    "EMCRow",
    "EMCStudy",
    "Job",
    "MimicStudy",
    "Row",
    "Study",
    "effective_model_complexity",
    "mimic",
    "run_jobs",
]
