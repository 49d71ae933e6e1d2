import time

import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset
from two_processes import together

from lightning_effcx.callbacks.distributed import (
    count_distinct,
    gather,
    interleave,
    rank,
    share_errors,
    world_size,
)


class OwnError(ValueError):
    """Cannot be pickled, as often happens: its arguments are not those of its constructor."""

    def __init__(self, site, kind) -> None:
        super().__init__(f"{site} is {kind}")
        self.held = lambda: site


def message_of(work):
    with pytest.raises(Exception) as caught:  # noqa: PT011 the type is among what is tested
        share_errors(work)
    return type(caught.value), str(caught.value)


def test_one_process_is_rank_0_of_1_and_keeps_its_values():
    value = [object()]
    (kept,) = gather(value)
    assert (rank(), world_size()) == (0, 1)
    assert kept is value


def test_in_one_process_an_error_stays_as_it_is():
    def fail():
        raise OwnError("relu", "smooth")

    with pytest.raises(OwnError, match=r"^relu is smooth$"):
        share_errors(fail)


def gathered():
    with torch.inference_mode():
        made = torch.full((rank() + 1, 2), float(rank()))
    values = gather({"x": made, "deep": [(rank(), None)]})
    with torch.inference_mode():
        again = gather(torch.ones(1))
    assert not any(value["x"].is_inference() for value in values)
    assert not any(value.is_inference() for value in again)
    return rank(), world_size(), values


def test_every_rank_gets_the_values_of_all_in_order():
    for number, (own, size, values) in enumerate(together(gathered)):
        assert (own, size) == (number, 2)
        assert [value["deep"] for value in values] == [[(0, None)], [(1, None)]]
        assert_close([value["x"] for value in values], [torch.zeros(1, 2), torch.ones(2, 2)])


def raised():
    def fail(error, *ranks):
        if rank() in ranks:
            raise error
        return "fine"

    kinds = [
        message_of(lambda: fail(ValueError("tanh is smooth"), 1)),
        message_of(lambda: fail(OwnError("tanh", "smooth"), 1)),
        message_of(lambda: fail(OwnError("tanh", "smooth"), 0, 1)),
        message_of(lambda: fail(ValueError(f"{rank()} is smooth"), 0, 1)),
        message_of(lambda: fail(KeyError("weight"), 1)),
        message_of(lambda: fail(OSError(2, "no such file"), 1)),
        message_of(lambda: fail(AssertionError(), 1)),
        message_of(lambda: fail(torch.OutOfMemoryError("too much"), 1)),
        message_of(lambda: fail(NotImplementedError(), 1)),
        message_of(lambda: lambda: rank()),  # noqa: PLW0108 a result that cannot be pickled
    ]
    return [(kind.__name__, text) for kind, text in kinds], share_errors(rank)


def test_an_error_of_one_rank_is_raised_on_all_and_nobody_waits():
    (first, after), (second, _) = together(raised)
    assert first[:2] == second[:2] == [("ValueError", "on rank 1: tanh is smooth")] * 2
    assert first[2] == second[2] == ("OwnError", "tanh is smooth")
    assert first[3] == second[3] == ("ValueError", "on rank 0: 0 is smooth")
    assert first[4] == second[4] == ("LookupError", "on rank 1: KeyError: 'weight'")
    expected = ("RuntimeError", "on rank 1: FileNotFoundError: [Errno 2] no such file")
    assert first[5] == second[5] == expected
    assert first[6] == second[6] == ("RuntimeError", "on rank 1: AssertionError")
    assert first[7] == second[7] == ("RuntimeError", "on rank 1: too much")
    assert first[8] == second[8] == ("NotImplementedError", "on rank 1: NotImplementedError")
    assert "pickle" in first[9][1]
    assert after == [0, 1]  # and they still understand each other


def chained():
    def fail():
        if rank() == 1:
            raise KeyError("weight")

    with pytest.raises(LookupError) as caught:
        share_errors(fail)
    return type(caught.value.__cause__).__name__


def test_the_rank_that_failed_keeps_its_own_error_as_the_cause():
    assert together(chained) == ["NoneType", "KeyError"]


def dealt(size, samples, batch):
    data = TensorDataset(torch.arange(size))
    loader = DataLoader(data, batch, sampler=DistributedSampler(data, shuffle=False))
    own = torch.cat([x for (x,) in loader])[: -(-samples // world_size())]
    found = min(samples, count_distinct(loader) or samples)
    return interleave(gather(own), found), interleave(gather(own.tolist()), found)


@pytest.mark.parametrize(
    ("size", "samples", "batch"), [(10, 4, 2), (11, 5, 3), (11, 64, 4), (1, 8, 2)]
)
def test_ranks_together_keep_the_samples_that_one_process_would(size, samples, batch):
    expected = list(range(min(size, samples)))
    for tensor, numbers in together(dealt, size, samples, batch):
        assert tensor.tolist() == numbers == expected


def test_ranks_that_run_out_of_samples_drop_out_of_the_rounds():
    assert interleave([[0, 3, 6], [1, 4], [2, 5]]) == [0, 1, 2, 3, 4, 5, 6]
    assert interleave([[0], [1, 3, 5], [2, 4]]) == [0, 1, 2, 3, 4, 5]
    assert interleave([[], [1]]) == [1]
    x = [torch.zeros(0), torch.ones(2, 3)]  # a rank without samples does not know their shape
    assert_close(interleave(x), torch.ones(2, 3))


def test_nothing_interleaved_is_nothing_of_the_same_kind():
    assert interleave([[], []]) == []
    assert interleave([torch.ones(2, 3), torch.ones(2, 3)], samples=0).shape == (0, 3)


def test_ranks_that_were_dealt_the_same_count_once():
    assert interleave([[0, 2], [0, 2], [1, 3], [1, 3]], 3, shards=[0, 0, 1, 1]) == [0, 1, 2]
    assert interleave([[0, 1], [0, 1]], shards=[0, 0]) == [0, 1]


def test_of_a_loader_that_deals_nothing_out_the_distinct_samples_are_unknown():
    data = TensorDataset(torch.arange(5))
    assert count_distinct(DataLoader(data)) is None
    assert count_distinct([torch.ones(1)]) is None
    sampler = DistributedSampler(data, num_replicas=2, rank=0)
    assert count_distinct(DataLoader(data, sampler=sampler)) == 5
    batches = BatchSampler(sampler, 2, drop_last=False)
    assert count_distinct(DataLoader(data, batch_sampler=batches)) == 5


def late():
    def work():
        time.sleep(0.3 * rank())
        if rank() == 0:
            raise ValueError("early")

    return message_of(work)[1], dist.get_rank()


def test_a_rank_that_fails_early_waits_for_the_others():
    assert together(late) == [("on rank 0: early", 0), ("on rank 0: early", 1)]
