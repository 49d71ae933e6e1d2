import pytest
import torch
from networks import mlp
from speed_ratios import times_faster
from torch.func import functional_call, grad, vmap
from torch.testing import assert_close

from lightning_effcx.functional import fisher_rao_norm

pytestmark = pytest.mark.benchmark


def test_the_fisher_rao_norm_is_at_least_four_times_faster_than_per_sample_gradients(benchmark):
    network, x = mlp(784, 256, 256, 10), torch.randn(512, 784)
    y = torch.randint(10, (512,))
    theta = {name: p.detach() for name, p in network.named_parameters()}

    def loss(theta, x, y):
        return torch.nn.functional.cross_entropy(
            functional_call(network, theta, (x[None],)), y[None]
        )

    def per_sample():
        gradients = vmap(grad(loss), (None, 0, 0))(theta, x, y)
        along = sum((gradients[name] * theta[name]).flatten(1).sum(1) for name in theta)
        return along.square().mean().sqrt()

    def ours():
        with torch.no_grad():
            return fisher_rao_norm(network, x, y).norm

    assert_close(ours(), per_sample(), rtol=1e-4, atol=0)  # float32
    ratio = times_faster(ours, per_sample)
    benchmark.extra_info["times faster than vmap(grad)"] = ratio
    benchmark(ours)
    assert ratio >= 4
