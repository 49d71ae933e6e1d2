import os
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own, since a peak is for all that a process did before. VmHWM, unlike
# ru_maxrss, does not begin with what the parent had. What is freed goes back to the system at once:
# else the peak would be that of the C library, which keeps holes of many sizes between tensors.
SCRIPT = """
import sys
import torch
from residual_networks import deep
from lightning_effcx.piecewise.lines import pieces

def peak():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return 1024 * int(status["VmHWM"].split()[0])

torch.set_num_threads(1)
torch.manual_seed(0)
share, budget = float(sys.argv[1]), int(sys.argv[2])
network, (a, b) = deep(), torch.randn(2, 3, 32, 32)
path = torch.stack([a, torch.lerp(a, b, share)])[None]
pieces(network, path[:, :1])  # loads what is loaded at first use
before = peak()
knots = len(pieces(network, path, budget=budget).path)
print(knots, peak() - before)
"""


def knots_and_peak(share, budget):
    command = [sys.executable, "-c", SCRIPT, str(share), str(budget)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
    folder = Path(__file__).parent / "support"
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, check=True, text=True
    )
    return map(int, result.stdout.split())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads it")
def test_a_resnet_of_twenty_blocks_runs_within_the_memory_budget_however_many_knots():
    budget = 2**25
    knots, peak = knots_and_peak(0.005, budget)  # of the way between two random images
    tensor = 8 * 16 * 32 * 32  # bytes of one activation at one row
    assert 5 * knots * tensor > 8 * budget  # of which several are alive at all times
    # The budget is for activations; where rows are inserted there are copies of some.
    assert peak < 4 * budget
