"""Read the runs and studies below a folder, and compare them in one table."""

from lightning_effcx.compare.comparison import Comparison
from lightning_effcx.compare.groups import Group, group_runs
from lightning_effcx.compare.runs import Curve, Run, load_runs
from lightning_effcx.compare.studies import load_studies
from lightning_effcx.compare.tables import compare_runs

__all__ = [
    "Comparison",
    "Curve",
    "Group",
    "Run",
    "compare_runs",
    "group_runs",
    "load_runs",
    "load_studies",
]
