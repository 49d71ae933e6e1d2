import re

import pytest
import torch
from networks import NetworkAndLoss
from torch import nn

from lightning_effcx.network.recorder import Recorder

X = torch.randn(6, 3)


def test_a_recorder_hears_the_module_first_and_else_its_only_part_with_parameters():
    module = NetworkAndLoss()
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
    module = NetworkAndLoss()
    forward = module.forward

    def step(batch, index):
        module.forward = forward
        return module(batch["x"])

    recorder = Recorder(module, None, 4)
    module.forward = step  # as Lightning does under strategies that wrap the module
    module({"x": X}, 0)
    assert torch.equal(recorder.close().given[0][0], X[:4])


def test_a_part_that_is_called_by_itself_is_heard_and_else_the_module():
    module = NetworkAndLoss()
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


def test_of_several_parts_with_parameters_none_is_heard_but_the_module():
    module = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    recorder = Recorder(module, None, 4)
    module[1](module[0](X))
    assert recorder.close() is None


def test_a_closed_recorder_leaves_no_hooks():
    module = NetworkAndLoss()
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
    message = f"no input was found: the network was called with {shown}, and single samples"
    assert re.match(message, str(recorder.failure))


def test_a_scripted_part_takes_no_hooks_but_the_module_around_it_does():
    module = nn.Sequential(torch.jit.script(nn.Linear(3, 2)))
    recorder = Recorder(module, None, 4)
    module(X)
    found = recorder.close()
    assert found is not None
    assert found.part == ""


def compiled_whole():
    module = NetworkAndLoss()
    module.compile(backend="eager", fullgraph=True)
    return module


def compiled_part():
    module = nn.Module()
    module.inner = NetworkAndLoss()
    module.inner.compile(backend="eager", fullgraph=True)
    return module


def wrapped_part():
    module = nn.Module()
    module.inner = torch.compile(NetworkAndLoss(), backend="eager", fullgraph=True)
    return module


def compiled_by_lightning():
    module = NetworkAndLoss()
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


def test_what_a_module_was_called_with_is_kept_though_it_changes_that():
    class Halving(nn.Module):
        def forward(self, x):
            return x.mul_(0.5)

    x, module = X.clone(), Halving()
    recorder = Recorder(module, None, 4)
    module(x)
    assert torch.equal(recorder.close().given[0][0], X[:4])


def test_the_outputs_tell_which_arguments_have_samples():
    class Query(nn.Module):
        def forward(self, table, x):
            return {"loss": x.sum(), "y": x @ table.T}

    table, module = torch.randn(9, 3), Query()
    recorder = Recorder(module, None, 4)
    module(table, x=X)
    found = recorder.close()
    assert (found.samples, found.total) == (4, 6)
    assert torch.equal(found.given[0][0], table)
    assert torch.equal(found.given[1]["x"], X[:4])


def test_after_a_call_that_raises_the_next_is_heard():
    class Picky(nn.Module):
        def forward(self, x):
            if len(x) < 3:
                raise ValueError("too few")
            return x

    module = Picky()
    recorder = Recorder(module, None, 9)
    with pytest.raises(ValueError, match="too few"):
        module(X[:2])
    module(X)
    assert recorder.close().total == 6


class Strange(torch.Tensor):
    """Cannot be cut."""

    def __getitem__(self, index):
        raise TypeError("of one piece. And more")


def test_what_raises_when_it_is_cut_does_not_stop_who_calls():
    module = nn.Identity()
    recorder = Recorder(module, None, 4)
    module(X.as_subclass(Strange))
    assert recorder.close() is None
    shown = re.escape(
        "float32 (6, 3), and single samples cannot be taken from it (TypeError: of one "
    )
    assert re.match(
        f"no input was found: the network was called with {shown}", f"{recorder.failure}"
    )


# --- which parts may be chosen


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loss, self.unused = nn.MSELoss(), nn.Linear(1, 1)
        self.body = nn.ModuleDict({"first": nn.Sequential(nn.Linear(3, 3)), "last": nn.ReLU()})
        self.head = nn.Linear(3, 2)

    def step(self, x):
        return self.head(self.body["last"](self.body["first"](x)))


def test_parts_that_ran_by_themselves_are_named_before_children_that_did_not():
    module = Several()
    recorder = Recorder(module, None, 4)
    module.step(X)
    module.step(X)
    assert recorder.close() is None
    assert recorder.parts() == ["body.first", "head", "unused", "body"]
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in module.modules())


def test_what_runs_in_a_call_that_was_heard_did_not_run_by_itself():
    module = NetworkAndLoss()
    recorder = Recorder(module, None, 4)
    module(X)
    module.network(X)
    recorder.close()
    assert recorder.parts() == ["network"]


def test_layers_that_compute_otherwise_where_they_are_hooked_are_left_alone():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    module = nn.ModuleDict({"one": layer, "two": nn.Sequential(layer), "head": nn.Linear(4, 2)})
    recorder = Recorder(module, None, 4)
    hooked = [name for name, part in module.named_modules() if part._forward_pre_hooks]
    assert hooked == ["", "two", "head"]
    recorder.close()
