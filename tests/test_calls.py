import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_effcx.calls import Call, Recorder, within

X, MASK = torch.randn(6, 3), torch.arange(6)
TABLE = torch.randn(5, 2)


class Pair(nn.Module):
    """A part with parameters and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(3, 2)
        self.loss = nn.MSELoss()

    def forward(self, x, *, scale=1.0):
        return scale * self.network(x + 1)


def call(x=X, mask=MASK, table=TABLE):
    found = Call.of("", (x, [mask, "words"]), {"table": table}, 4)
    assert found is not None
    return found


def test_the_first_samples_are_kept_and_what_is_the_same_for_all():
    kept = call()
    assert (kept.samples, kept.total) == (4, 6)
    assert kept.varying == ((0, 0), (0, 1, 0))
    assert_close(kept.given[0][0], X[:4])
    assert torch.equal(kept.given[0][1][0], MASK[:4])
    assert kept.given[0][1][1] == "words"
    assert torch.equal(kept.given[1]["table"], TABLE)


def test_what_is_kept_stays_whatever_is_done_to_the_arguments():
    x = X.clone()
    kept = call(x)
    x.zero_()
    assert_close(kept.given[0][0], X[:4])


@pytest.mark.parametrize("args", [(), (3, "x"), (torch.tensor(1.0),), (torch.zeros(0, 3),)])
def test_a_call_without_samples_is_none(args):
    assert Call.of("", args, {}, 4) is None


def test_some_of_the_samples_can_be_taken():
    part = call().rows(torch.tensor([2, 0]))
    assert part.samples == 2
    assert torch.equal(part.given[0][0], X[[2, 0]])
    assert torch.equal(part.given[0][1][0], MASK[[2, 0]])
    assert torch.equal(part.given[1]["table"], TABLE)


def test_a_copy_has_ordinary_tensors_of_its_own():
    with torch.inference_mode():
        heard = call()
    copied = heard.copied()
    assert (copied.samples, copied.varying) == (heard.samples, heard.varying)
    for place, tensor in heard.tensors().items():
        assert tensor.is_inference()
        assert not copied.tensors()[place].is_inference()
        assert torch.equal(copied.tensors()[place], tensor)
        assert copied.tensors()[place].data_ptr() != tensor.data_ptr()


def test_calls_are_joined_by_their_samples():
    both = call().joined([call(X + 1, MASK + 6)])
    assert both.samples == 8
    assert torch.equal(both.given[0][0], torch.cat([X[:4], X[:4] + 1]))
    assert torch.equal(both.given[0][1][0], torch.tensor([0, 1, 2, 3, 6, 7, 8, 9]))


def test_a_call_fits_where_all_else_is_the_same():
    assert call().fits(call(X + 1, MASK + 1))
    assert not call().fits(call(x=torch.randn(6, 4)))  # another length of sequence
    assert not call().fits(call(mask=MASK.float()))
    assert not call().fits(call(table=TABLE + 1))
    assert not call().fits(Call("part", ((X,), {}), 6, 6, ((0, 0),)))


def test_a_recorder_hears_the_module_first_and_else_its_only_part_with_parameters():
    module = Pair()
    recorder = Recorder(module, None, 4)
    module(X, scale=2.0)
    module(X + 5)  # only the first call counts
    found = recorder.close()
    assert found.part == ""
    assert torch.equal(found.given[0][0], X[:4])
    assert found.given[1] == {"scale": 2.0}

    recorder = Recorder(module, None, 4)
    module.loss(module.network(X), X[:, :2])
    found = recorder.close()
    assert found.part == "network"
    assert torch.equal(found.given[0][0], X[:4])


def test_a_call_that_is_redirected_to_another_function_is_not_the_networks():
    module = Pair()
    forward = module.forward

    def step(batch, index):
        module.forward = forward
        return module(batch["x"])

    recorder = Recorder(module, None, 4)
    module.forward = step  # as Lightning does under strategies that wrap the module
    module({"x": X}, 0)
    assert torch.equal(recorder.close().given[0][0], X[:4])


def test_a_part_that_is_called_by_itself_is_heard_and_else_the_module():
    module = Pair()
    recorder = Recorder(module, "network", 4)
    module.network(X + 7)
    module(X)
    found = recorder.close()
    assert found.part == "network"
    assert torch.equal(found.given[0][0], X[:4] + 7)

    recorder = Recorder(module, "network", 4)
    module(X)
    module.network(X + 7)
    found = recorder.close()
    assert found.part == ""
    assert torch.equal(found.given[0][0], X[:4])


def test_what_a_part_is_called_with_is_found_again_in_a_call_of_the_module():
    module = Pair()
    found = within(module, Call.of("", (X,), {}, 4), "network")
    assert found.part == "network"
    assert torch.equal(found.given[0][0], X[:4] + 1)
    assert within(module, Call.of("", (X,), {}, 4), "loss") is None
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_of_several_parts_with_parameters_none_is_heard_but_the_module():
    module = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    recorder = Recorder(module, None, 4)
    module[1](module[0](X))
    assert recorder.close() is None


def test_a_closed_recorder_leaves_no_hooks():
    module = Pair()
    Recorder(module, None, 4).close()
    assert not any(part._forward_pre_hooks for part in module.modules())


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (X.to_sparse, r"float32 sparse \(6, 3\)"),
        (lambda: torch.nested.nested_tensor([*X]), r"float32 nested \(6, ...\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_what_cannot_be_kept_does_not_stop_who_calls(given, shown):
    module = nn.Identity()
    recorder = Recorder(module, None, 4)
    module(given())
    assert recorder.close() is None
    message = f"no input was found: the network was called with {shown}, of which single samples"
    assert re.match(message, str(recorder.failure))


def test_a_scripted_part_takes_no_hooks_but_the_module_around_it_does():
    module = nn.Sequential(torch.jit.script(nn.Linear(3, 2)))
    recorder = Recorder(module, None, 4)
    module(X)
    found = recorder.close()
    assert found is not None
    assert found.part == ""


def compiled_whole():
    module = Pair()
    module.compile(backend="eager", fullgraph=True)
    return module


def compiled_part():
    module = nn.Module()
    module.inner = Pair()
    module.inner.compile(backend="eager", fullgraph=True)
    return module


def wrapped_part():
    module = nn.Module()
    module.inner = torch.compile(Pair(), backend="eager", fullgraph=True)
    return module


def compiled_by_lightning():
    module = Pair()
    module._compiler_ctx = {"compiler": "dynamo"}
    return module


@pytest.mark.parametrize(
    ("make", "part", "hooked"),
    [
        (compiled_whole, None, []),
        (compiled_part, None, [""]),
        (compiled_part, "inner.network", [""]),
        (wrapped_part, None, ["", "inner"]),
        (wrapped_part, "inner._orig_mod.network", [""]),
        (compiled_by_lightning, None, [""]),
    ],
)
def test_nothing_within_what_is_compiled_is_hooked(make, part, hooked):
    module = make()
    recorder = Recorder(module, part, 4)
    assert [n for n, p in module.named_modules() if p._forward_pre_hooks] == hooked
    getattr(module, "inner", module)(X)
    recorder.close()
