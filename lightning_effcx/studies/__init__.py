"""Studies: measures that need many trainings, run over the user's own Lightning code."""

from lightning_effcx.studies.descent import double_descent
from lightning_effcx.studies.descent_result import DescentStudy
from lightning_effcx.studies.emc import effective_model_complexity
from lightning_effcx.studies.emc_result import EMCRow, EMCStudy
from lightning_effcx.studies.mimic_result import MimicStudy
from lightning_effcx.studies.mimic_study import mimic
from lightning_effcx.studies.runner import Job, Row, Study, run_jobs

__all__ = [
    "DescentStudy",
    "EMCRow",
    "EMCStudy",
    "Job",
    "MimicStudy",
    "Row",
    "Study",
    "double_descent",
    "effective_model_complexity",
    "mimic",
    "run_jobs",
]
