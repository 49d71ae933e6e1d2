import pytest
import torch
from torch.testing import assert_close

from lightning_effcx.metrics.draws import Draws


def draws(count=7, seed=0):
    return Draws.of(count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("draw", [Draws.rand, Draws.randn])
def test_the_draws_of_a_row_do_not_depend_on_the_others(draw):
    together = draw(draws(), 5, 4)
    assert together.shape == (7, 5, 4)
    for cut in (1, 2, 3):
        parts = [draw(draws()[start : start + cut], 5, 4) for start in range(0, 7, cut)]
        assert_close(torch.cat(parts), together, rtol=0, atol=0)
    assert_close(draw(draws()[2::3], 5, 4), together[2::3], rtol=0, atol=0)
    order = torch.tensor([5, 0, 3])
    assert_close(draw(draws()[order], 5, 4), together[order], rtol=0, atol=0)


def test_successive_draws_go_on_also_those_of_parts():
    whole, parts = draws(), draws()
    first, second, third = whole.randn(3), whole.rand(), whole.randn(3)
    assert not (first == third).any()
    assert_close(parts[4:].randn(3), first[4:], rtol=0, atol=0)
    assert_close(parts[:4].randn(3), first[:4], rtol=0, atol=0)
    assert_close(parts.rand(), second, rtol=0, atol=0)
    assert_close(parts[1:2].randn(3), third[1:2], rtol=0, atol=0)


def test_a_generator_repeats_its_draws_and_others_have_others():
    assert_close(draws().rand(2), draws().rand(2), rtol=0, atol=0)
    assert not (draws().rand(2) == draws(seed=1).rand(2)).any()
    generator = torch.Generator().manual_seed(0)
    first, second = Draws.of(7, generator), Draws.of(7, generator)
    assert not (first.rand(2) == second.rand(2)).any()


def test_draws_come_from_the_generator_alone_or_else_from_the_global_one():
    state = torch.get_rng_state()
    draws().rand(3)
    assert_close(torch.get_rng_state(), state)
    first = Draws.of(7).rand(3)
    torch.set_rng_state(state)
    assert_close(Draws.of(7).rand(3), first, rtol=0, atol=0)


def test_rows_are_independent_and_distributed_as_promised():
    many = Draws.of(20_000, torch.Generator().manual_seed(0))
    normal, uniform = many.randn(2, dtype=torch.float64), many.rand(2, dtype=torch.float64)
    error = 5 / 20_000**0.5  # five standard errors, each of a quantity of variance 1
    standard = torch.cat([normal, (uniform - 0.5) * 12**0.5], 1)
    assert (standard.mean(0).abs() < error).all()
    assert ((standard.T @ standard / 20_000 - torch.eye(4)).abs() < 2 * error).all()
    neighbours = (standard[1:] * standard[:-1]).mean(0)
    assert (neighbours.abs() < error).all()
    shares = torch.histc(uniform, 10, 0, 1) / 40_000
    assert ((shares - 0.1).abs() < 5 * (0.09 / 40_000) ** 0.5).all()
    inside = (normal.abs() < 1).double().mean()
    assert (inside - torch.erf(torch.tensor(0.5**0.5))).abs() < error


def test_draws_have_the_precision_that_is_asked_for():
    assert draws().rand(2).dtype == torch.float32
    assert draws().rand(2, dtype=torch.float64).dtype == torch.float64
    assert draws().randn(2, dtype=torch.float64).dtype == torch.float64
    assert draws().randn(dtype=torch.bfloat16).shape == (7,)


def test_no_rows_draw_nothing():
    assert draws(0).randn(3).shape == (0, 3)
    assert draws()[9:].rand(3).shape == (0, 3)
    assert len(draws()[9:]) == 0


def test_what_draws_nothing_makes_no_generators():
    rows = draws()
    rows[2:4].rand()
    assert ["generator" in vars(stream) for stream in rows.streams] == [False] * 2 + [True] * 2 + [
        False
    ] * 3


def test_draws_are_taken_as_they_are_where_a_generator_would_do():
    given = draws()
    assert Draws.of(7, given) is given
    message = (
        r"^`generator` holds draws for 7 rows, but `x` has 3: index both alike, or give a torch"
    )
    with pytest.raises(ValueError, match=message):
        Draws.of(3, given)
    with pytest.raises(ValueError, match="rows, but `path` has 3: index both alike"):
        Draws.of(3, given, rows="path")
