import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_effcx.calls import Call, within

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


def test_what_a_part_is_called_with_is_found_again_in_a_call_of_the_module():
    module = Pair()
    found = within(module, Call.of("", (X,), {}, 4), "network")
    assert found.part == "network"
    assert torch.equal(found.given[0][0], X[:4] + 1)
    assert within(module, Call.of("", (X,), {}, 4), "loss") is None
    assert not any(part._forward_pre_hooks for part in module.modules())
