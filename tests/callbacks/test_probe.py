import io

import pytest
import torch
from torch import nn

from lightning_effcx.callbacks.choices import Choices
from lightning_effcx.callbacks.probe import Probe

X, Y = torch.arange(40.0).reshape(20, 2), torch.arange(20)


class Net(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)


class Host:
    """As much of a Trainer in one process as a probe asks for."""

    train_dataloader = val_dataloaders = distributed_sampler_kwargs = None
    training = False


HOST = Host()


def filled(probe, *batches):
    """What the monitor does in a validation of some batches."""
    module = Net()
    probe.start_stage("validation")
    for x, y in batches:
        probe.start_batch(HOST, module)
        module(x)
        probe.end_batch(HOST, (x, y))
    assert not module._forward_pre_hooks
    return probe


def batches(size=5, shift=0.0):
    return [(X[i : i + size] + shift, Y[i : i + size]) for i in range(0, 20, size)]


def test_the_first_samples_are_kept_over_batches():
    call, y = filled(Probe(Choices(8)), *batches()).gather_samples(HOST)
    assert torch.equal(call.given[0][0], X[:8])
    assert torch.equal(y, Y[:8])


def test_of_a_small_loader_all_samples_are_kept():
    call, _ = filled(Probe(Choices(99)), *batches()).gather_samples(HOST)
    assert call.samples == 20


@pytest.mark.parametrize("choose", [None, lambda batch: batch])
def test_batches_without_samples_are_left_out(choose):
    empty = (X[:0], Y[:0])
    probe = filled(Probe(Choices(8, batch=choose)), empty, batches()[0], empty, batches()[1])
    call, y = probe.gather_samples(HOST)
    assert torch.equal(call.given[0][0], X[:8])
    assert torch.equal(y, Y[:8])
    with pytest.raises(ValueError, match="no batch with samples came from the validation loader"):
        filled(Probe(Choices(8, batch=choose)), empty).gather_samples(HOST)


def test_batches_of_another_shape_are_left_out():
    wide = (torch.zeros(5, 1, 2), Y[:5])
    probe = filled(Probe(Choices(8)), batches()[0], wide, batches()[1])
    call, y = probe.gather_samples(HOST)
    assert torch.equal(call.given[0][0], X[:8])
    assert torch.equal(y, Y[:8])


def test_targets_are_kept_only_if_all_batches_have_them():
    (x, _), second, *_ = batches()
    assert filled(Probe(Choices(8)), (x, "words"), second).gather_samples(HOST)[1] is None


def test_what_is_kept_stays_whatever_comes_after():
    probe = filled(Probe(Choices(8)), *batches())
    first, _ = probe.gather_samples(HOST)
    again, _ = filled(probe, *batches(shift=1.0)).gather_samples(HOST)
    assert again is first


def test_an_error_is_raised_when_samples_are_asked_for():
    probe = Probe(Choices(8, batch=lambda batch: batch["x"]))
    probe.end_batch(HOST, (X, Y))
    message = "no input was found: batch=... raised TypeError: tuple indices must be"
    with pytest.raises(ValueError, match=message):
        probe.gather_samples(HOST)


def test_a_probe_that_saw_no_batch_says_so():
    with pytest.raises(
        ValueError, match=r"no batch with samples came from the validation loader number 0 \(the f"
    ):
        Probe(Choices(8)).gather_samples(HOST)


def test_a_function_finds_input_and_target():
    probe = Probe(Choices(8, batch=lambda batch: (batch["image"], batch["class"])))
    probe.end_batch(HOST, {"image": X, "class": Y})
    call, y = probe.gather_samples(HOST)
    assert torch.equal(call.given[0][0], X[:8])
    assert torch.equal(y, Y[:8])
    assert probe.collected.batch == "{'image': float32 (20, 2), 'class': int64 (20,)}"


def saved(probe):
    """Through a checkpoint, as torch loads those of others."""
    file = io.BytesIO()
    torch.save(probe.state(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_after_a_checkpoint_the_samples_are_those_of_before_whatever_is_seen():
    probe = filled(Probe(Choices(8)), *batches())
    probe.gather_samples(HOST)
    resumed = Probe(Choices(8))
    resumed.load(saved(probe))
    filled(resumed, *batches(shift=7.0))
    call, y = resumed.gather_samples(HOST)
    assert torch.equal(call.given[0][0], X[:8])
    assert torch.equal(y, Y[:8])


def test_samples_of_another_network_are_not_those_of_the_checkpoint():
    probe = filled(Probe(Choices(8)), *batches())
    probe.gather_samples(HOST)
    resumed = Probe(Choices(8, network=lambda module, x: x))
    state = saved(probe)
    state["tensors"] = [(["other"], tensor) for _, tensor in state["tensors"]]
    resumed.load(state)
    call, _ = filled(resumed, *batches(shift=7.0)).gather_samples(HOST)
    assert torch.equal(call.given[0][0], X[:5] + 7)


def test_before_it_knows_samples_a_probe_saves_none():
    assert Probe(Choices(8)).state() == {}


def test_the_samples_of_another_stage_take_the_place_of_those_before():
    probe = Probe(Choices(8))
    probe.start_stage("sanity")
    filled(probe, *batches())
    call, _ = filled(probe, *batches(shift=1.0)).gather_samples(HOST)
    assert torch.equal(call.given[0][0], X[:8])  # the first of the validation
    probe.start_stage("training")
    with pytest.raises(ValueError, match="no batch with samples came from"):
        probe.gather_samples(HOST)
