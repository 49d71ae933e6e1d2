import copy
import re

import pytest
import torch
from networks import mlp
from pretended_device import DEVICE, OnDevice, moved, pretending
from rooms import modules
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_effcx import metrics
from lightning_effcx.network import precision
from lightning_effcx.network.calls import Call
from lightning_effcx.network.capture import capture_network
from lightning_effcx.network.observe import observing
from lightning_effcx.network.precision import device_for, in_precision, to_precision
from lightning_effcx.paths import Segment

SEGMENT = Segment(count=3, points=2)
# All measures that compute in float64.
EXACT = {
    "regions": lambda: metrics.LinearRegions(SEGMENT),
    "estimated regions": lambda: metrics.LinearRegions(SEGMENT, budget=5),
    "capacity": lambda: metrics.CapacityGap(SEGMENT),
    "deviation": lambda: metrics.LinearDeviation(SEGMENT),
    "length": lambda: metrics.TrajectoryLength(SEGMENT, exact=True),
    "distance": metrics.BoundaryDistance,
    "density": lambda: metrics.BoundaryDensity(0.5),
    "tangents": metrics.LANNComplexity,
    "student": lambda: metrics.MimicGap(steps=3),
}


@pytest.fixture(autouse=True)
def _without_float64(monkeypatch):
    monkeypatch.setattr(precision, "_WITHOUT_FLOAT64", frozenset({DEVICE.type}))


def tanh() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.mark.parametrize("name", EXACT)
def test_exact_measures_of_a_network_on_a_device_without_float64_are_those_on_the_cpu(name):
    network = tanh() if name == "tangents" else mlp(3, 6, 2)
    x = torch.randn(12, 3)
    on_cpu, there = EXACT[name](), EXACT[name]()
    on_cpu.update(network, x)
    with pretending():
        there.update(moved(copy.deepcopy(network)), OnDevice(x))
        found = {key: value.cpu() for key, value in there.compute().items()}
    assert_close(found, on_cpu.compute())


def test_the_pretended_device_has_no_float64_and_mixes_with_no_other():
    x = OnDevice(torch.ones(2, 3))
    with pretending():
        with pytest.raises(TypeError, match="has no float64"):
            x.double()
        with pytest.raises(TypeError, match="has no float64"):
            torch.zeros(2, dtype=torch.float64, device=DEVICE)
        with pytest.raises(RuntimeError, match="on the same device"):
            x + torch.ones(2, 3)
        assert (x + 1).device == DEVICE
        assert_close((x + 1).cpu(), torch.full((2, 3), 2.0))


def test_what_a_network_holds_fixed_moves_to_the_cpu_with_its_input():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.register_buffer("order", torch.tensor([2, 0, 1]))

        def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            return torch.relu(self.layer(x)[:, self.order] + shift) * scale[:, None]

    module, x = Net(), torch.randn(4, 3)
    args = (x, torch.arange(4), torch.randn(3))
    expected = module.double()(x.double(), *args[1:])
    module.float()
    with pretending():
        there = moved(module)
        given = tuple(OnDevice(each) for each in args)
        with observing(there):
            network, x, *_ = capture_network(there, Call.of("", given, {}, 4))
            found = in_precision(network, torch.float64)(to_precision(x, torch.float64))
    assert found.device.type == "cpu"
    assert_close(found, expected.detach(), rtol=1e-6, atol=1e-6)
    assert module.layer.weight.device == DEVICE


def test_devices_with_float64_compute_where_they_are():
    cuda = torch.device("cuda", 1)
    assert device_for(torch.float64, cuda) == cuda
    assert device_for(torch.float32, DEVICE) == DEVICE
    x = torch.zeros(2, dtype=torch.float64)
    assert to_precision(x, torch.float64) is x


ASKING = re.compile(r"\.double\(\)|\.to\([^()]*float64|float64[^()]*device=|[\"']mps[\"']")


def test_float64_is_asked_for_in_one_place():
    """Or of what is on the CPU already, as the line says."""
    lines = [
        f"{name}: {line.strip()}"
        for name, file in modules().items()
        if name != "network.precision"
        for line in file.read_text().splitlines()
        if ASKING.search(line) and ".cpu()" not in line
    ]
    assert lines == []
