import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from lightning_effcx.piecewise.rows import Rows

pytestmark = pytest.mark.usefixtures("_float64")


def rows(*lengths):
    """Paths with these many vertices."""
    path = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return Rows(path, torch.cat([torch.arange(float(n)) for n in lengths]))


def test_inserted_rows_are_in_order_and_their_indices_in_that_of_the_call():
    r = rows(3)
    new = r.insert(torch.tensor([1, 0, 0]), torch.tensor([0.5, 0.75, 0.25]))
    assert new.tolist() == [4, 2, 1]
    assert r.position.tolist() == [0, 0.25, 0.75, 1, 1.5, 2]
    assert (r.counts, r.version) == ([3, 6], 1)


def test_rows_at_one_place_stand_side_by_side():
    r = rows(2)
    new = r.insert(torch.tensor([0, 0]), torch.tensor([0.5, 0.5]))
    assert new.tolist() == [1, 2]
    assert r.position.tolist() == [0, 0.5, 0.5, 1]


def test_paths_are_not_joined():
    r = rows(2, 3)
    r.insert(torch.tensor([2]), torch.tensor([0.5]))
    assert r.path.tolist() == [0, 0, 1, 1, 1, 1]
    assert r.joined().tolist() == [True, False, True, True, True]


def test_values_of_now_are_not_copied():
    r, values = rows(3), torch.randn(3, 2)
    assert r.bring(values, 0) is values


def test_values_at_old_rows_stay_exactly_what_they_were():
    r, values = rows(3), torch.randn(3, 2)
    r.insert(torch.tensor([0, 1]), torch.tensor([1 / 3, 1 / 7]))
    assert torch.equal(r.bring(values, 0)[[0, 2, 4]], values)


def test_the_parts_of_a_sample_are_brought_together():
    r, values = rows(3), torch.randn(3, 4, 2)
    r.insert(torch.tensor([0, 1]), torch.tensor([0.3, 0.6]))
    assert_close(r.bring(values.flatten(0, 1), 0), r.bring(values, 0).flatten(0, 1))


@given(st.integers(0, 1000), st.integers(1, 5))
def test_refinements_together_are_refinements_one_by_one(seed, times):
    torch.manual_seed(seed)
    r = rows(2, 4, 3)
    first = torch.randn(9, 2)
    one_by_one = [first]
    for _ in range(times):
        (joined,) = r.joined().nonzero(as_tuple=True)
        left = joined[torch.randint(len(joined), (4,))]
        fraction = torch.rand(4)
        old, at = one_by_one[-1], fraction[:, None]
        new = r.insert(left, fraction)
        expected = torch.zeros(len(r.path), 2)
        expected[new] = old[left] + at * (old[left + 1] - old[left])
        kept = torch.ones(len(r.path), dtype=torch.bool)
        kept[new] = False
        expected[kept] = old
        one_by_one.append(expected)
    for version, values in enumerate(one_by_one):
        assert_close(r.bring(values, version), one_by_one[-1])
        assert_close(r.bring(first, 0, version), values)
    assert (r.position.diff()[r.joined()] >= 0).all()
    assert (r.path.diff() >= 0).all()


def test_between_equal_infinities_is_the_same_infinity():
    r = rows(3)
    r.insert(torch.tensor([0, 1, 1]), torch.tensor([0.3, 0.6, 0.7]))
    huge = torch.finfo(torch.float64).max
    values = torch.tensor([-torch.inf, torch.inf, -huge, 0.0]).repeat(3, 1)
    values[:, 3] = torch.tensor([1.0, 2.0, 3.0])
    found = r.bring(values, 0)
    assert torch.equal(found[:, :3], values[:1, :3].expand(6, -1))
    assert_close(found[:, 3], torch.tensor([1.0, 1.3, 2.0, 2.6, 2.7, 3.0]))


def test_between_huge_numbers_of_both_signs_is_no_overflow():
    r = rows(2)
    r.insert(torch.tensor([0]), torch.tensor([0.5]))
    huge = torch.finfo(torch.float64).max
    assert r.bring(torch.tensor([[-huge], [huge]]), 0).flatten().tolist() == [-huge, 0.0, huge]


def test_numbers_that_become_infinite_have_nothing_in_between():
    r = rows(2)
    r.insert(torch.tensor([0]), torch.tensor([0.5]))
    with pytest.raises(ValueError, match=r"^a value of the network is infinite at one point of a"):
        r.bring(torch.tensor([[1.0], [torch.inf]]), 0)
