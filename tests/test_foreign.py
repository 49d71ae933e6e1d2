from contextlib import ExitStack

import pytest
import torch
from foreign_calls import CASES, Case, N
from torch import Tensor
from torch.testing import assert_close

from lightning_effcx.functional import jacobian_norm
from lightning_effcx.network.capture import capture_network
from lightning_effcx.network.nested import map_tensors
from lightning_effcx.network.observe import observing
from lightning_effcx.network.recorder import Recorder
from lightning_effcx.network.views import select_samples

EVERY = pytest.mark.parametrize("name", CASES)


def seen(case: Case, most: int = N):
    """What is captured of a call that is heard."""
    recorder = Recorder(case.module, "", most)
    case.module(*case.args, **case.kwargs)
    call = recorder.close()
    assert call is not None
    with observing(case.module):
        return capture_network(case.module, call)


def norm(case: Case, row: int) -> Tensor:
    """By autograd, output by output, of a call with nothing but one of the samples."""
    alone: list[Tensor] = []

    def cut(_, tensor: Tensor) -> Tensor:
        own = tensor[row : row + 1] if len(tensor) == N else tensor
        if any(tensor is x for x in case.inputs):
            own = own.clone().requires_grad_()
            alone.append(own)
        return own

    def embed(_, __, out: Tensor) -> Tensor | None:
        if alone:
            return None
        alone.append(out.detach().clone().requires_grad_())
        return alone[0]

    args, kwargs = map_tensors((case.args, case.kwargs), cut)
    with ExitStack() as stack:
        if case.embedding:
            embedding = case.module.get_submodule(case.embedding)
            stack.callback(embedding.register_forward_hook(embed).remove)
        y = case.look(case.module(*args, **kwargs))
    squares = [
        sum(g.square().sum() for g in torch.autograd.grad(out, alone, retain_graph=True))
        for out in y.flatten()
    ]
    return torch.stack(squares).sum().sqrt()


@EVERY
def test_the_jacobian_is_that_of_all_numbers_that_the_module_was_called_with(name):
    case = CASES[name]()
    network, x, outputs, _ = seen(case)
    assert_close(outputs, case.look(case.module(*case.args, **case.kwargs)).flatten(1))
    expected = torch.stack([norm(case, row) for row in range(N)])
    assert_close(jacobian_norm(network, x), expected)
    third = torch.tensor([2])
    assert_close(jacobian_norm(select_samples(network, third), x[third]), expected[third])


@EVERY
def test_it_is_said_what_was_chosen(name):
    case = CASES[name]()
    assert seen(case).words == case.words


def test_of_a_call_the_first_samples_are_kept():
    case = CASES["pytorch-forecasting, DeepAR"]()
    assert_close(seen(case, 3).x, seen(case).x[:3])
