from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_effcx.metrics.transitions import transitions
from lightning_effcx.network.calls import Call
from lightning_effcx.network.capture import capture_network
from lightning_effcx.network.observe import observing
from lightning_effcx.network.views import (
    CallView,
    View,
    has_per_sample_arguments,
    select_samples,
    with_own_embedding,
)
from lightning_effcx.tracing.units import find_sites

X, Y = torch.randn(6, 3), torch.arange(6)


@dataclass
class Data:
    image: Any
    label: Any


def call(*args: Any, part: str = "", **kwargs: Any) -> Call:
    found = Call.of(part, args, kwargs, 99)
    assert found is not None
    return found


def see(module: nn.Module, *args: Any, choice=None, output=None, part: str = "", **kwargs: Any):
    with observing(module):
        return capture_network(module, call(*args, part=part, **kwargs), choice, output)


def test_a_module_that_maps_its_only_argument_to_a_matrix_is_the_network_itself():
    module = nn.Linear(3, 2)
    network, x, outputs, _ = see(module, X)
    assert network is module
    assert torch.equal(x, X)
    assert_close(outputs, module(X))


def test_a_part_is_the_network_by_its_dotted_name():
    module = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.ReLU()))
    assert see(module, X, part="1.0").network is module[1][0]


def test_a_part_is_measured_at_what_the_module_calls_it_with():
    module = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 2)))
    network, x, _, _ = see(module, X, choice="1")
    assert network is module[1]
    assert_close(x, module[0](X))


def test_a_part_that_is_not_called_is_reported():
    module = nn.Module()
    module.left, module.right, module.forward = nn.Linear(3, 2), nn.Linear(2, 2), lambda x: x
    message = r"cannot be evaluated at .* \(LookupError: network='right' was not called with"
    with pytest.raises(ValueError, match=message):
        see(module, X, choice="right")


def test_an_unknown_part_is_answered_with_those_that_there_are():
    message = r"network='head': Sequential has no such part; it has: \['0'\]"
    with pytest.raises(ValueError, match=message):
        see(nn.Sequential(nn.ReLU()), X, part="head")


def test_a_view_has_the_parameters_of_the_module_it_shows_and_its_names():
    module = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    network = see(module, X, choice=lambda module, x: module(x)[:, :1]).network
    assert isinstance(network, View)
    assert list(network.parameters()) == list(module.parameters())
    assert_close(network(X), module(X)[:, :1])
    assert [*find_sites(network, X)] == ["1"]


class Several(nn.Module):
    """Everything that forward may be called with."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 4)
        self.right = nn.Linear(4, 4)

    def forward(  # noqa: PLR0913 the subject
        self, image, /, features=None, *, mask=None, table=None, flag=None, age=None
    ):
        y = self.left(image)
        if features is not None:
            y = y + self.right(features["f"].flatten(1))
        if mask is not None:
            y = y * mask[:, None]
        if table is not None:
            y = y + table.sum()
        if age is not None:
            y = y * age[:, None]
        return y if flag == "matrix" else {"loss": y.mean(), "y": [None, y.unflatten(1, (2, 2))]}


def test_all_numbers_that_it_was_called_with_are_the_input_jointly():
    module, f, age = Several(), torch.randn(6, 2, 2), torch.rand(6)
    network, x, outputs, _ = see(module, X, features={"f": f}, age=age, flag="matrix")
    assert_close(x, torch.cat([X, f.flatten(1), age[:, None]], 1))
    expected = (module.left(2 * X) + module.right(2 * f.flatten(1))) * 2 * age[:, None]
    assert_close(network(2 * x), expected)
    assert_close(outputs, module(X, {"f": f}, age=age, flag="matrix"))
    assert not has_per_sample_arguments(network)


def test_the_rest_is_held_fixed_for_each_sample():
    module, mask = Several(), torch.tensor([1, 0, 2, 3, 1, 1])
    network, x, outputs, _ = see(module, X, mask=mask, flag="matrix", table=torch.ones(9))
    assert torch.equal(x, X)
    assert has_per_sample_arguments(network)
    assert_close(outputs, module.left(X) * mask[:, None] + 9)
    third = select_samples(network, torch.tensor([2]))
    assert not has_per_sample_arguments(third)
    assert_close(third(x), module.left(X) * 2 + 9)
    some = select_samples(network, torch.tensor([3, 1]))
    assert_close(some(x[[3, 1]]), outputs[[3, 1]])


def test_points_for_which_nothing_is_known_are_refused():
    network = see(Several(), X, mask=torch.arange(6), flag="matrix").network
    message = "the argument 'mask' is known for 6 samples, but this measure looks at 2 points"
    with pytest.raises(ValueError, match=message):
        network(X[:2])


def test_what_is_the_same_for_all_samples_is_no_hindrance():
    module = Several()
    network, x, _, _ = see(module, X, mask=torch.full((6,), 2), flag="matrix")
    assert not has_per_sample_arguments(network)
    assert_close(network(x.repeat(2, 1)), 2 * module.left(X).repeat(2, 1))


def test_outputs_are_the_first_tensor_of_numbers_with_the_samples_flattened():
    module = Several()
    network, x, outputs, _ = see(module, X)
    assert outputs.shape == (6, 4)
    assert_close(network(x), module.left(X))
    vector = see(nn.Flatten(0), torch.randn(6, 1)).outputs
    assert vector.shape == (6, 1)


class Two(nn.Module):
    def forward(self, x):
        return SimpleNamespace() if self.training else Data(x, 2 * x)


def test_one_of_several_outputs_can_be_named():
    assert_close(see(Two(), X, output="label").outputs, 2 * X)
    assert_close(see(Two(), X).outputs, X)
    pair = {"choice": lambda module, x: (x, 3 * x)}
    assert_close(see(nn.Identity(), X, output=-1, **pair).outputs, 3 * X)
    with pytest.raises(ValueError, match=r"output='z': the network returned Data\(image=float32"):
        see(Two(), X, output="z")


@pytest.mark.parametrize(
    ("spoil", "described"),
    [(torch.sum, r"float32 \(\)"), (lambda y: {"y": "no"}, r"\{'y': str\}"), (len, "int")],
)
def test_outputs_without_samples_are_described(spoil, described):
    with pytest.raises(ValueError, match=f"the network returned {described} for 6 samples"):
        see(nn.Linear(3, 2), X, choice=lambda module, x: spoil(module(x)))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Embedding(4, 5)
        self.word = nn.Embedding(7, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, tokens, mask=None):
        x = self.word(tokens) + self.place(torch.arange(4))
        other = self.word(tokens * 0)  # the same embedding of something else
        mask = tokens.ne(0) if mask is None else mask
        return self.head((x * mask[..., None]).sum(1) + other[:, 0])


def test_of_tokens_the_input_is_what_their_embedding_returns():
    module, tokens = Words(), torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 1, 2]])
    network, x, outputs, _ = see(module, tokens)
    assert_close(x, module.word(tokens))
    assert_close(outputs, module(tokens))
    assert_close(network(x), outputs)
    moved = module.head(
        ((x + 1 + module.place.weight) * tokens.ne(0)[..., None]).sum(1) + module.word.weight[0]
    )
    assert_close(network(x + 1), moved)
    assert_close(with_own_embedding(network)(x + 1), outputs)
    assert has_per_sample_arguments(network)
    assert not any(part._forward_hooks for part in module.modules())


class Bytes(nn.Module):
    def forward(self, x):
        return x.flatten(1) / 255


def test_whole_numbers_that_are_not_embedded_are_taken_for_numbers():
    pixels = torch.randint(255, (6, 2, 2), dtype=torch.uint8)
    network, x, _, _ = see(Bytes(), pixels)
    assert x.dtype == torch.float32
    assert_close(network(x), pixels.flatten(1).float() / 255)


def test_the_input_is_of_the_parameters_own_precision():
    assert see(nn.Linear(3, 2).double(), X, choice=lambda m, x: m(x)).x.dtype == torch.float64
    assert see(nn.Linear(3, 2).double(), X).x.dtype == torch.float64


def test_what_the_network_cannot_be_evaluated_at_is_described():
    message = r"the network cannot be evaluated at float32 \(6, 3\) \(RuntimeError: mat1 and mat2"
    with pytest.raises(ValueError, match=message):
        see(nn.Linear(4, 2), X)


def test_a_module_without_forward_is_told_what_is_missing():
    module = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
    message = "no network was found: ModuleList has no forward, or an unfinished one, and no call"
    with pytest.raises(ValueError, match=message):
        see(module, X)


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def test_a_network_that_mixes_samples_is_refused():
    with pytest.raises(ValueError, match="outputs for a sample change with the other samples"):
        see(Centred(), X)


def test_a_network_that_is_random_is_refused():
    with pytest.raises(ValueError, match="outputs are random: evaluated twice"):
        see(nn.Identity(), X, choice=lambda module, x: torch.randn_like(x))


def test_a_call_that_was_heard_in_inference_mode_can_be_differentiated():
    module = Several()
    with torch.inference_mode():
        heard_there = call(X * 1, mask=Y * 1, flag="matrix")
    with observing(module):
        network, x, *_ = capture_network(module, heard_there)
        with torch.enable_grad():
            x.requires_grad_()
            (row,) = torch.autograd.grad(network(x).sum(), x)
    assert_close(row, module.left.weight.sum(0) * Y[:, None])


def test_a_network_without_anything_fixed_is_the_same_for_all_samples():
    module = nn.Linear(3, 2)
    assert select_samples(module, Y) is module
    assert with_own_embedding(module) is module
    assert not has_per_sample_arguments(module)
    network = CallView(module, call(X), ((0, 0),))
    assert select_samples(network, Y) is network


class Writing(nn.Module):
    """Writes to what it is called with, also to what is held fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.writes = True

    def forward(self, x, words=None):
        if self.writes:
            x.mul_(0.5).add_(1)
            words = None if words is None else words.add_(1)
        else:
            x = 0.5 * x + 1
            words = None if words is None else words + 1
        y = self.linear(x)
        return y if words is None else y * words[:, None]


@pytest.mark.parametrize("words", [(), (torch.arange(6),)])
@pytest.mark.parametrize("choice", [None, lambda module, x: module(x)])
def test_a_network_may_write_to_its_input(words, choice):
    module, before = Writing(), X.clone()
    found = see(module, X, *words, choice=choice)
    module.writes = False
    expected = see(module, X, *words, choice=choice)
    assert_close(found.x, before)
    module.writes = True
    for _ in range(2):
        assert_close(found.network(found.x), expected.outputs)
        (row,) = torch.autograd.functional.jacobian(found.network, (found.x,))
        assert row.any()
    assert_close(found.x, before)


@pytest.mark.parametrize("choice", [None, lambda module, x: module(x.real)])
def test_complex_numbers_are_no_input(choice):
    with pytest.raises(ValueError, match=r"the input is complex64 \(6, 3\), expected real numbers"):
        see(nn.Identity(), X.to(torch.complex64), choice=choice)


def test_of_many_parts_the_nearest_are_named():
    module = nn.ModuleDict(
        {f"block_{i}": nn.Linear(1, 1) for i in range(100)} | {"head": nn.ReLU()}
    )
    with pytest.raises(ValueError, match=r"it has: \['head', 'block_.{,180}\]$"):
        see(module, X, part="heads")


class Lookup(nn.Module):
    """Gathers rows of a table, which is no function of numbers for each sample."""

    def forward(self, index, table, mask=None):
        y = table[index]
        return y if mask is None else y * mask[:, None]


class Flattened(nn.Module):
    """Returns a row for each token, and is given as many labels."""

    def forward(self, tokens, labels):
        return tokens.flatten()[:, None] * labels[:, None].float()


@pytest.mark.parametrize(
    ("module", "args", "rows", "shown"),
    [
        (Lookup(), (torch.arange(6), torch.randn(9, 3)), 6, "`index` and `table`"),
        (
            Lookup(),
            (torch.arange(6), torch.randn(9, 3), torch.ones(6).bool()),
            6,
            "`index`, `table` and `mask`",
        ),
        (
            Flattened(),
            (torch.ones(6, 2).long(), torch.ones(12).long()),
            12,
            "`tokens` and `labels`",
        ),
    ],
)
def test_whole_numbers_are_not_guessed_to_be_numbers(module, args, rows, shown):
    found = Call.of("", args, {}, 99, [rows])
    message = (
        rf"^no input was found: among {shown} there is no floating-point tensor with a row for "
        rf"each of the {rows} samples, and no embedding that returns one: "
        r"choose the input with batch= and network=$"
    )
    with observing(module), pytest.raises(ValueError, match=message):
        capture_network(module, found)


class Pixels(nn.Module):
    def forward(self, labels, mask, images):
        return images.flatten(1) / 255 * mask[:, None]


def test_bytes_go_before_other_whole_numbers():
    images = torch.randint(255, (6, 2, 2), dtype=torch.uint8)
    network, x, *_ = see(Pixels(), Y, torch.ones(6).bool(), images)
    assert_close(x, images.float())
    assert_close(network(x / 2), images.flatten(1) / 510)


class Recurrent(nn.Module):
    """Time comes first, samples second."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, 2)

    def forward(self, x, lengths=None):
        hidden = self.rnn(x)[0]
        return hidden if lengths is None else hidden[lengths - 1, torch.arange(len(lengths))]


def test_sequences_whose_first_dimension_is_time_are_refused():
    with pytest.raises(ValueError, match="outputs for a sample change with the other samples"):
        see(Recurrent(), torch.randn(4, 6, 3))
    found = Call.of("", (torch.randn(4, 6, 3), torch.ones(6).long()), {}, 99, [6])
    module = Recurrent()
    message = (
        "among `x` and `lengths` there is no floating-point tensor with a row for each of the 6"
    )
    with observing(module), pytest.raises(ValueError, match=message):
        capture_network(module, found)


def test_complex_numbers_are_no_input_wherever_they_stand():
    with pytest.raises(ValueError, match=r"the input is complex64 \(6, 3\), expected real numbers"):
        see(Several(), X, age=X.cfloat())


class Repeating(nn.Module):
    """Embeds positions for each sample, then the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.word = nn.Embedding(4, 5), nn.Embedding(7, 5)

    def forward(self, tokens):
        place = self.place(torch.arange(4).expand(len(tokens), 4))
        return (place * self.word(tokens)).sum(1)


def test_an_embedding_of_the_tokens_goes_before_one_of_positions():
    module, tokens = Repeating(), torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 1, 2]])
    network, x, *_ = see(module, tokens)
    assert (network.embedding, network.tokens) == ("word", (0, 0))
    assert_close(network(2 * x), 2 * module(tokens))


def test_what_is_held_fixed_can_be_viewed_as_in_a_real_call():
    class Labelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x, labels):
            logits = self.head(x.relu())
            return {"logits": logits, "loss": logits.gather(1, labels.view(-1, 1)).mean()}

    module, labels = Labelled(), torch.arange(6).reshape(6, 1) % 3
    call = Call.of("", (torch.randn(6, 4), labels), {}, 6)
    with observing(module):
        network, x, _ = capture_network(module, call)[:3]
        one = select_samples(network, torch.tensor([2]))
        assert transitions(one, torch.stack([x[2], -x[2], x[2]])[None]).tolist() == [8]
