"""The runner runs the trainings of a study on any executor, and keeps their results."""

from lightning_effcx.studies.runner.determinism import TorchSettings
from lightning_effcx.studies.runner.digests import digest_of
from lightning_effcx.studies.runner.executor import run_jobs
from lightning_effcx.studies.runner.jobs import Job, Row
from lightning_effcx.studies.runner.results import Study, write_found

__all__ = ["Job", "Row", "Study", "TorchSettings", "digest_of", "run_jobs", "write_found"]
