"""Read the runs below a folder and set them side by side."""

from lightning_effcx.compare.runs import Curve, Run, load_runs
from lightning_effcx.compare.tables import Comparison, Group, compare_runs, group_runs

__all__ = ["Comparison", "Curve", "Group", "Run", "compare_runs", "group_runs", "load_runs"]
