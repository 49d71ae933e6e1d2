"""Networks that fail in a pass: by themselves, or because rows were inserted."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it

from lightning_effcx.functional import boundary_distance
from lightning_effcx.piecewise.lines import pieces

pytestmark = pytest.mark.usefixtures("_float64")

LAYER = nn.Linear(4, 6)


@pytest.fixture(autouse=True)
def _double(_float64):
    LAYER.to(torch.float64)


def hidden(x):
    return torch.relu(LAYER(x))


def labels(n):
    return torch.arange(n) % 6


def signs(n):
    return 1.0 - 2 * (torch.arange(n) % 2)


LOSSES = {
    "cross entropy": lambda h, n: F.cross_entropy(h, labels(n)),
    "cross entropy with a weight for each class": lambda h, n: F.cross_entropy(
        h, labels(n), weight=torch.ones(6)
    ),
    "likelihood": lambda h, n: F.nll_loss(h.log_softmax(1), labels(n)),
    "margin": lambda h, n: F.multi_margin_loss(h, labels(n)),
    "ranking": lambda h, n: F.margin_ranking_loss(h[:, 0], h[:, 1], signs(n)),
    "embedding": lambda h, n: F.cosine_embedding_loss(h, -h, signs(n)),
    "divergence": lambda h, n: F.kl_div(
        h.log_softmax(1), torch.full((n, 6), 1 / 6), reduction="batchmean"
    ),
    "squares": lambda h, n: F.mse_loss(h.sigmoid(), torch.rand(n, 6)),
    "logits": lambda h, n: F.binary_cross_entropy_with_logits(h, torch.rand(n, 6).round()),
    "chosen by lists": lambda h, n: h.softmax(1)[torch.arange(n), labels(n)].log(),
    "chosen by gather": lambda h, n: h.softmax(1).gather(1, labels(n)[:, None]).log(),
    "weighted": lambda h, n: (torch.rand(n) * h.logsumexp(1)).mean(),
    "contrastive": lambda h, n: F.cross_entropy(h @ h.T, torch.arange(n)),
}


@pytest.mark.parametrize("is_read_late", [False, True])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_of_another_head_changes_nothing(loss, is_read_late):
    def network(x):
        h = hidden(x)
        loss(h, len(h) if is_read_late else len(x))
        return torch.maximum(h, h.roll(1, 1) - 0.2)

    def alone(x):
        return torch.maximum(hidden(x), hidden(x).roll(1, 1) - 0.2)

    path = 2 * torch.randn(2, 3, 4)
    assert torch.equal(pieces(network, path).regions(), pieces(alone, path).regions())
    distances = [boundary_distance(each, path[:, 0]) for each in (network, alone)]
    assert torch.equal(*distances)


class OwnError(Exception):
    pass


ERRORS = [
    ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, NotImplementedError,
    OwnError, RuntimeError, StopIteration, TypeError, ValueError,
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_a_network_raises_because_of_inserted_rows_is_said_in_one_sentence(error):
    def network(x):
        if len(hidden(x)) != len(x):
            raise error("wrong size")
        return hidden(x)

    message = r"^the network failed with more rows than it was called with, .*: use Tr.*\(.*size"
    with pytest.raises(ValueError, match=message):
        pieces(network, 2 * torch.randn(2, 3, 4))


@pytest.mark.parametrize("first", [hidden, lambda x: x], ids=["kink", "no kink"])
@pytest.mark.parametrize("error", ERRORS)
def test_what_a_network_raises_without_the_pass_too_is_its_own_error(error, first):
    def network(x):
        first(x)
        raise error("wrong network")

    with pytest.raises(error, match="wrong network"):
        pieces(network, 2 * torch.randn(2, 3, 4))


def test_what_a_network_raises_because_of_something_refused_is_that_refusal():
    def network(x):
        h = hidden(x)
        raise_if(len(h.tanh()) != len(h))
        return h.tanh()

    def raise_if(is_wrong):
        if is_wrong:
            raise OwnError

    with pytest.raises(ValueError, match=r"^site 'tanh' \(tanh\) is not piecewise linear"):
        pieces(network, 2 * torch.randn(2, 3, 4))


VECTORIZED = {
    "two tensors": (torch.add, [hidden, lambda x: torch.relu(x @ x.new_ones(4, 6))]),
    "take": (lambda h: h.take(torch.tensor([1, 0])), [hidden]),
    "transpose_copy": (lambda h: torch.transpose_copy(h[None], 0, 1)[:, 0], [hidden]),
    "quantile": (lambda h: torch.quantile(h, 0.3)[None], [hidden]),
    "masked_scatter": (lambda h: h.masked_scatter(torch.ones(6) > 0, -h), [hidden]),
    "renorm": (lambda h: h[None].renorm(1, 0, 1.0)[0], [hidden]),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(("function", "parts"), VECTORIZED.values(), ids=VECTORIZED)
def test_what_cannot_be_vectorized_with_more_rows_is_said_in_one_sentence(function, parts):
    def network(x):
        return torch.vmap(function)(*(part(x) for part in parts))

    with pytest.raises(ValueError, match=r"^(site .* mixes|the network failed with).*: use Trans"):
        pieces(network, 2 * torch.randn(2, 3, 4))
