import pytest
import torch
from networks import NetworkAndLoss
from torch import nn
from torch.testing import assert_close

from lightning_effcx.network.calls import Call, call_of_part, count_rows

X, MASK = torch.randn(6, 3), torch.arange(6)
TABLE = torch.randn(5, 2)


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


def test_what_a_part_is_called_with_is_found_again_in_a_call_of_the_module():
    module = NetworkAndLoss()
    found = call_of_part(module, Call.of("", (X,), {}, 4), "network")
    assert found.part == "network"
    assert torch.equal(found.given[0][0], X[:4] + 1)
    assert call_of_part(module, Call.of("", (X,), {}, 4), "loss") is None
    assert not any(part._forward_pre_hooks for part in module.modules())


# --- how many samples there are

INDEX, EMPTY = torch.arange(4), torch.zeros(4, 0)


@pytest.mark.parametrize(
    ("args", "rows", "samples"),
    [
        ((X, TABLE), [], 6),  # the first numbers
        ((TABLE, X), [], 5),
        ((INDEX, X), [], 6),  # before whole numbers, wherever they stand
        ((INDEX, torch.arange(3)), [], 4),
        ((EMPTY, torch.zeros(0), X), [], 6),  # not what has no elements
        (({"label": INDEX[:3], "x": X},), [], 6),
        ((TABLE, X), [6], 6),  # as the outputs have it
        ((TABLE, X), [2, 6, 5], 6),
        ((X, INDEX), [4], 4),
        ((X, INDEX), [7], 6),  # which is no row of the arguments
        ((EMPTY, X), [4], 6),
    ],
)
def test_the_number_of_samples_is_that_of_the_outputs_or_of_the_first_numbers(args, rows, samples):
    found = Call.of("", args, {}, 99, rows)
    assert found is not None
    assert found.samples == found.total == samples
    assert all(len(tensor) == samples for tensor in found.of_samples().values())


def test_what_has_no_elements_is_cut_as_well():
    found = Call.of("", ({"cat": torch.zeros(6, 5, 0), "cont": X},), {}, 2)
    assert found is not None
    assert found.given[0][0]["cat"].shape == (2, 5, 0)


def test_the_rows_of_outputs_are_those_of_all_tensors_among_them():
    outputs = {"loss": torch.zeros(()), "y": [X, TABLE], "n": 3}
    assert count_rows(outputs) == [6, 5]


class Halving(nn.Module):
    def forward(self, x, table):
        return x.mul_(0.5) @ table.T


def test_a_part_may_change_what_it_is_called_with_and_its_outputs_tell_the_samples():
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Halving()

        def forward(self, x):
            y = torch.cat([x + 1, x])
            return self.part(y, torch.ones(3, 3))[: len(x)]

    found = call_of_part(Outer(), call_of(X), "part")
    assert found is not None
    assert (found.samples, found.part) == (12, "part")  # two rows for each sample, all of them
    assert torch.equal(found.given[0][0], torch.cat([X + 1, X]))


def call_of(x):
    found = Call.of("", (x,), {}, 99)
    assert found is not None
    return found
