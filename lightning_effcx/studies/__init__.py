"""Studies: measures that need many trainings, run over the user's own Lightning code."""

from lightning_effcx.studies.executor import run_jobs
from lightning_effcx.studies.jobs import Job, Row
from lightning_effcx.studies.records import Study

__all__ = ["Job", "Row", "Study", "run_jobs"]
