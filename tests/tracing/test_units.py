import shutil
from collections import OrderedDict

import pytest
import torch
from networks import (
    ZOO,
    Attention,
    Checkpointed,
    Custom,
    InPlace,
    Normed,
    Sawtooth,
    Tied,
    Transformer,
    linear,
    mlp,
    specimen,
)
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.network.observe import observing
from lightning_effcx.tracing.units import Site, find_sites, listen

pytestmark = pytest.mark.usefixtures("_float64")


def seen(network, x) -> dict[str, Site]:
    with observing(network):
        return find_sites(network, x)


def only(network, x) -> Site:
    (site,) = seen(network, x).values()
    return site


HALF = torch.tensor(0.5, dtype=torch.float64)
BENDS = {
    "nn.ReLU": (nn.ReLU(), (0,)),
    "nn.ReLU in place": (nn.ReLU(inplace=True), (0,)),
    "F.relu": (F.relu, (0,)),
    "torch.relu": (torch.relu, (0,)),
    "x.relu": (torch.Tensor.relu, (0,)),
    "relu_": (torch.relu_, (0,)),
    "F.relu in place": (lambda x: F.relu(x, inplace=True), (0,)),
    "clamp min": (lambda x: x.clamp(min=0.5), (0.5,)),
    "clamp max": (lambda x: x.clamp(max=0.5), (0.5,)),
    "clamp both": (lambda x: x.clamp(-1, 0.5), (-1, 0.5)),
    "clip": (lambda x: torch.clip(x, -1, 0.5), (-1, 0.5)),
    "clamp_": (lambda x: x.clamp_(-1, 0.5), (-1, 0.5)),
    "clamp_min": (lambda x: x.clamp_min(0.5), (0.5,)),
    "clamp_max_": (lambda x: x.clamp_max_(0.5), (0.5,)),
    "abs": (torch.abs, (0,)),
    "abs_": (lambda x: x.abs_(), (0,)),
    "sign": (torch.sign, (0,)),
    "nn.LeakyReLU": (nn.LeakyReLU(0.1), (0,)),
    "F.leaky_relu in place": (lambda x: F.leaky_relu(x, 0.1, inplace=True), (0,)),
    "nn.PReLU": (nn.PReLU(3, dtype=torch.float64), (0,)),
    "nn.RReLU": (nn.RReLU(), (0,)),
    "F.rrelu": (F.rrelu, (0,)),
    "nn.ReLU6": (nn.ReLU6(), (0, 6)),
    "F.relu6": (F.relu6, (0, 6)),
    "nn.Hardtanh": (nn.Hardtanh(-2, 1), (-2, 1)),
    "F.hardtanh in place": (lambda x: F.hardtanh(x, inplace=True), (-1, 1)),
    "nn.Hardsigmoid": (nn.Hardsigmoid(), (-3, 3)),
    "nn.Hardshrink": (nn.Hardshrink(0.3), (-0.3, 0.3)),
    "nn.Softshrink": (nn.Softshrink(0.3), (-0.3, 0.3)),
    "nn.Threshold": (nn.Threshold(0.2, 7), (0.2,)),
    "F.threshold in place": (lambda x: F.threshold(x, 0.2, 7, inplace=True), (0.2,)),
    "where": (lambda x: torch.where(x > 0.5, x, 0.1 * x), (0.5,)),
    "where, zeros_like": (lambda x: torch.where(x >= 0, x, torch.zeros_like(x)), (0,)),
    "gate": (lambda x: x * (x > 0), (0,)),
    "gate of a float": (lambda x: x * (x < 0.5).to(x.dtype), (0.5,)),
    "masked_fill": (lambda x: x.masked_fill(x <= 0, 0.0), (0,)),
    "heaviside": (lambda x: torch.heaviside(x, x.new_zeros(())) * x, (0,)),
    "sign times": (lambda x: x.sign() * x, (0,)),
    "index of a mask": (lambda x: x.index_put((x < 0,), x.new_zeros(())), (0,)),
}


@pytest.mark.parametrize("spelling", BENDS)
def test_every_spelling_of_a_bend_is_seen_with_its_kinks_and_pre_activations(spelling):
    function, kinks = BENDS[spelling]
    layer, x = nn.Linear(4, 3), torch.randn(6, 4)
    site = only(lambda x: function(layer(x)), x)
    assert site.kind == "piecewise linear"
    assert_close(site.kinks, tuple(map(float, kinks)))
    assert site.choice is None
    assert_close(site.z, layer(x).detach())  # as before it, if it works in place


DIFFERENCES = {
    "maximum": (lambda x: torch.maximum(x, 2 * x - 1), lambda x: 1 - x),
    "minimum": (lambda x: torch.minimum(x, 1 - x), lambda x: 2 * x - 1),
    "fmax of a constant": (lambda x: torch.fmax(x, HALF), lambda x: x - 0.5),
    "torch.max of two": (lambda x: torch.max(x, HALF), lambda x: x - 0.5),
    "clamp at a tensor": (lambda x: x.clamp(min=HALF), lambda x: x - 0.5),
    "clamp_max at a tensor": (lambda x: x.clamp(max=HALF), lambda x: x - 0.5),
    "where of a comparison": (lambda x: torch.where(x > 1 - x, x, 1 - x), lambda x: 2 * x - 1),
}


@pytest.mark.parametrize("spelling", DIFFERENCES)
def test_the_units_of_a_bend_between_tensors_are_their_differences(spelling):
    function, difference = DIFFERENCES[spelling]
    x = torch.randn(6, 4)
    site = only(function, x)
    assert site.kind == "piecewise linear"
    assert site.kinks == (0.0,)
    assert_close(site.z, difference(x))


def test_a_clamp_between_two_tensors_is_of_another_sort():
    assert only(lambda x: x.clamp(-HALF, HALF), torch.randn(6, 4)).kind == "other"


IMAGES = (2, 4, 4)
CHOICES = {
    "max": (lambda x: x.max(1).values, (4,), 1),
    "min": (lambda x: x.min(-1).values, (4,), 1),
    "Tensor.max of a dimension": (lambda x: x.max(2)[0], (3, 4), 3),
    "amax": (lambda x: x.amax(1, keepdim=True), (4,), 1),
    "amax over two": (lambda x: x.amax((2, 3)), IMAGES, 2),
    "amin over two": (lambda x: x.amin((-1, -2)), IMAGES, 2),
    "topk": (lambda x: x.topk(2).values, (4,), 2),
    "sort": (lambda x: x.sort(descending=True).values, (4,), 4),
    "kthvalue": (lambda x: x.kthvalue(2).values, (4,), 1),
    "median": (lambda x: x.median(1).values, (5,), 1),
    "maxout": (lambda x: x.unflatten(1, (3, 2)).amax(2), (6,), 3),
    "max_pool1d": (nn.MaxPool1d(2), (2, 4), 4),
    "max_pool2d": (nn.MaxPool2d(2), IMAGES, 8),
    "overlapping max_pool2d": (lambda x: F.max_pool2d(x, 3, 1), IMAGES, 8),
    "max_pool3d": (nn.MaxPool3d(2), (1, 2, 4, 4), 4),
    "adaptive_max_pool1d": (nn.AdaptiveMaxPool1d(2), (2, 4), 4),
    "adaptive_max_pool2d": (nn.AdaptiveMaxPool2d(1), IMAGES, 2),
    "adaptive_max_pool3d": (nn.AdaptiveMaxPool3d(1), (2, 2, 2, 2), 2),
}


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize("spelling", CHOICES)
def test_every_spelling_of_a_choice_is_seen_with_what_was_chosen(spelling, recording):
    function, shape, chosen = CHOICES[spelling]
    x = torch.randn(6, *shape, requires_grad=recording)
    with torch.set_grad_enabled(recording):
        (site,) = find_sites(lambda x: function(x).reshape(len(x), -1), x).values()
    assert (site.kind, site.kinks) == ("piecewise linear", ())
    assert_close(site.z, x.flatten(1))
    assert site.choice.shape == (6, chosen)
    assert site.value.shape == (6, chosen)


def test_what_a_choice_chose_is_where_its_value_stands():
    x = torch.randn(6, *IMAGES)
    pooled = only(lambda x: F.max_pool2d(x, 2).flatten(1), x)
    planes = x.flatten(2)  # the kernel tells places within each channel
    assert_close(planes.gather(2, pooled.choice.unflatten(1, (2, 4))).flatten(1), pooled.value)
    for function in (torch.amax, torch.amin):
        found = only(lambda x, f=function: f(x, (1, 3)), x)
        lines = x.permute(0, 2, 1, 3).flatten(2)  # (n, what is kept, what is chosen among)
        assert_close(lines.gather(2, found.choice[:, :, None]).squeeze(2), found.value)
    topk = only(lambda x: x.topk(2).values, x[:, 0, 0])
    assert_close(x[:, 0, 0].gather(1, topk.choice), topk.value)


CURVES = """
    tanh sigmoid gelu silu elu selu celu softplus mish hardswish logsigmoid tanhshrink
""".split()


@pytest.mark.parametrize("name", CURVES)
def test_smooth_activations_are_curves(name):
    layer, x = nn.Linear(4, 3), torch.randn(6, 4)
    site = only(lambda x: getattr(F, name)(layer(x)), x)
    assert (site.kind, site.kinks, site.choice) == ("curve", (), None)
    assert_close(site.z, layer(x).detach())


@pytest.mark.parametrize("name", ["Tanh", "Sigmoid", "GELU", "SiLU", "ELU", "Softplus", "Mish"])
def test_modules_of_smooth_activations_are_curves_by_their_own_name(name):
    network = nn.Sequential(nn.Linear(4, 3), getattr(nn, name)())
    site = only(network, torch.randn(6, 4))
    assert (site.name, site.kind) == ("1", "curve")


OTHERS = {
    "softmax": (lambda x: x.softmax(1), (4,)),
    "log_softmax": (lambda x: x.log_softmax(1), (4,)),
    "layer_norm": (nn.LayerNorm(4, dtype=torch.float64), (4,)),
    "group_norm": (nn.GroupNorm(1, 2, dtype=torch.float64), IMAGES),
    "instance_norm": (nn.InstanceNorm2d(2), IMAGES),
    "product of activations": (lambda x: x[:, :2] * x[:, 2:], (4,)),
    "quotient of activations": (lambda x: x[:, :2] / x[:, 2:], (4,)),
    "Fourier": (lambda x: torch.fft.irfft(torch.fft.rfft(x).square()), (4,)),
    "lerp by activations": (lambda x: torch.lerp(HALF, x, x), (4,)),
    "batched product": (lambda x: x @ x.transpose(1, 2), (3, 4)),
    "glu": (F.glu, (4,)),
    "norm": (lambda x: x.norm(dim=1, keepdim=True), (4,)),
    "logsumexp": (lambda x: x.logsumexp(1, keepdim=True), (4,)),
}


@pytest.mark.parametrize("spelling", OTHERS)
def test_what_mixes_units_nonlinearly_is_of_another_sort(spelling):
    function, shape = OTHERS[spelling]
    x = torch.randn(6, *shape)
    sites = seen(lambda x: function(x).flatten(1), x).values()
    assert [site.kind for site in sites][:1] == ["other"]


def test_units_of_an_instance_norm_are_those_of_its_samples():
    x = torch.randn(6, *IMAGES)
    network = nn.Sequential(nn.InstanceNorm2d(2), nn.Flatten())
    site = only(network, x)
    assert_close(site.z, x.flatten(1))
    assert_close(site.value, network(x))


LINEAR = {
    "linear": (nn.Linear(4, 3, dtype=torch.float64), (4,)),
    "matmul": (lambda x: x @ torch.ones(4, 2), (4,)),
    "einsum": (lambda x: torch.einsum("ni,io->no", x, torch.ones(4, 2)), (4,)),
    "conv": (nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64), IMAGES),
    "circular conv": (
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", dtype=torch.float64),
        IMAGES,
    ),
    "transposed conv": (nn.ConvTranspose2d(2, 3, 2, dtype=torch.float64), IMAGES),
    "batch_norm": (nn.BatchNorm2d(2, dtype=torch.float64), IMAGES),
    "instance_norm with statistics": (
        nn.InstanceNorm2d(2, track_running_stats=True, dtype=torch.float64),
        IMAGES,
    ),
    "dropout": (nn.Dropout(), (4,)),
    "average pools": (lambda x: F.avg_pool2d(F.adaptive_avg_pool2d(x, 2), 2), IMAGES),
    "interpolation": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), IMAGES),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x[:, :1].expand(-1, 4, -1, -1), 2), IMAGES),
    "unfold": (lambda x: F.unfold(x, 2), IMAGES),
    "pads": (lambda x: F.pad(F.pad(x, (1, 1)), (1, 1, 1, 1), "reflect"), IMAGES),
    "arithmetic": (lambda x: -(2 * x + 1) / 3 - x.mean(1, keepdim=True) + x.cumsum(1), (4,)),
    "in-place arithmetic": (lambda x: (x * 1).mul_(2).add_(1).sub_(x).div_(2).neg_(), (4,)),
    "shapes": (lambda x: torch.cat([x.flip(1), x.roll(1, 1), x.repeat(1, 2, 1, 1)], 1), IMAGES),
    "indexing": (
        lambda x: x[:, [0, 2]] + x[:, 1:3] + x.index_select(1, torch.tensor([3, 1])),
        (4,),
    ),
    "writing": (lambda x: torch.zeros(len(x), 6).index_copy(1, torch.arange(4), x), (4,)),
    "Fourier": (lambda x: torch.fft.ifft(torch.fft.rfft(x) * torch.ones(3)).real, (4,)),
    "grid_sample": (
        lambda x: F.grid_sample(x, x.new_zeros(6, 2, 2, 2), align_corners=False),
        IMAGES,
    ),
    "lerp": (lambda x: torch.lerp(x, 2 * x, 0.3), (4,)),
    "copying": (lambda x: torch.empty(len(x), 4).copy_(x), (4,)),
    "like": (lambda x: x + torch.ones_like(x) + torch.full_like(x, 2) + torch.zeros_like(x), (4,)),
    "new": (lambda x: x + x.new_ones(4) + x.new_full((4,), 2) + torch.empty_like(x).zero_(), (4,)),
    "noise": (lambda x: x + torch.rand_like(x) + torch.randn_like(x), (4,)),
}


@pytest.mark.parametrize("spelling", LINEAR)
def test_what_is_linear_in_the_input_is_no_site(spelling):
    function, shape = LINEAR[spelling]
    x = torch.randn(6, *shape)
    if isinstance(function, nn.Module):
        function = nn.Sequential(function, nn.Flatten())
        assert seen(function, x) == {}
    else:
        assert seen(lambda x: function(x).flatten(1), x) == {}


def test_what_does_not_depend_on_the_input_is_no_site():
    network = Normed()
    assert list(seen(network, torch.randn(6, 4))) == ["relu"]
    table = torch.randn(4)
    scale = nn.Parameter(torch.randn(4))
    assert seen(lambda x: x * scale.exp() + table.sin() * (table > 0), torch.randn(6, 4)) == {}


def test_dependence_follows_views_and_in_place_writes():
    def network(x):
        table = torch.zeros(len(x), 4)
        table[:, :2] = x[:, :2]  # now it depends on x
        return table[:, 1:3].relu()

    x = torch.randn(6, 4)
    assert_close(only(network, x).z, torch.stack([x[:, 1], torch.zeros(6)], 1))


def check_range(x):
    if x.max() > 50:
        raise AssertionError
    if x.min().item() < -50 or x.amax() > 50:
        raise AssertionError
    return x


def check_numbers(x):
    if x.isnan().any() or (x != x).any() or torch.equal(x, x + 1) or x.sum() == 7:  # noqa: PLR0124
        raise AssertionError
    return x


def check_norm(x):
    if x.norm() > 1e6 or x.mean(0).max() > 50:
        raise AssertionError
    return x


@pytest.mark.parametrize("check", [check_range, check_numbers, check_norm])
def test_a_check_of_the_whole_batch_is_no_site(check):
    assert list(seen(lambda x: check(x).relu(), torch.randn(6, 4))) == ["relu"]


def test_pre_activations_are_those_before_in_place_operations_overwrite_them():
    network, x = InPlace().eval(), torch.randn(6, 4)
    sites = seen(network, x)
    first = network.first(x)
    second = network.second(first.relu()) + 1
    assert list(sites) == ["relu", "clamp"]
    assert_close(sites["relu"].z, first.detach())
    assert_close(sites["clamp"].z, second.detach())
    assert_close(sites["clamp"].kinks, (-0.5,))


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([mlp(4, 4, 4), Custom(), Tied()])
        self.pool = nn.MaxPool1d(2)

    def forward(self, x):
        x = self.layers[0](x).relu()
        x = F.pad(self.layers[1](x), (0, 1)).relu()
        x = self.layers[2](torch.tanh(x))
        return self.pool(F.pad(x, (0, 1)))


def test_sites_are_named_by_module_path_and_functional_calls_by_their_parent_and_order():
    assert list(seen(Named(), torch.randn(6, 4))) == [
        "layers.0.1",
        "relu",
        "layers.1.clamp",
        "relu_2",
        "tanh",
        "layers.2.relu",
        "layers.2.relu_2",  # a shared module, again
        "pool",
    ]


def test_a_function_of_modules_names_each_by_its_own_root():
    first, second = mlp(4, 3, 3), nn.Sequential(mlp(3, 2, 2))
    sites = find_sites(lambda x: second(first(x)).relu(), torch.randn(6, 4))
    assert list(sites) == ["1", "0.1", "relu"]


def test_names_are_as_before_after_an_exception():
    class Failing(nn.Module):
        def forward(self, _):
            raise KeyError

    network = nn.Sequential(mlp(4, 3, 4))
    with pytest.raises(KeyError):
        find_sites(nn.Sequential(network, Failing()), torch.randn(6, 4))
    assert list(find_sites(network, torch.randn(6, 4))) == ["0.1"]
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


EXPECTED = {
    "mlp": ["1", "3"],
    "conv": ["relu", "max_pool2d_with_indices"],
    "in_place": ["relu", "clamp"],
    "functional": ["relu", "clamp", "leaky_relu", "gt"],
    "residual": ["body.1", "relu"],
    "prelu": ["1"],
    "pools": ["square", "flat"],
    "normed": ["relu"],
    "tied": ["relu", "relu_2"],
    "caching": ["relu"],
    "custom": ["clamp"],
    "checkpointed": ["body.1", "relu"],
}


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize("name", EXPECTED)
def test_the_sites_of_the_zoo_are_known(name, recording):
    network, x = specimen(name)
    with observing(network), torch.set_grad_enabled(recording):
        assert list(find_sites(network, x)) == EXPECTED[name]


def test_scripted_networks_are_seen_like_those_they_were_made_of():
    network, x = mlp(4, 8, 3), torch.randn(6, 4)
    scripted = torch.jit.script(network)
    plain, site = only(network, x), only(scripted, x)
    assert (site.operation, site.kind, site.kinks) == ("relu", "piecewise linear", (0.0,))
    assert_close(site.z, plain.z)


def test_a_checkpointed_part_is_seen_once():
    network, x = Checkpointed().eval(), torch.randn(6, 4)
    with torch.enable_grad():
        heard = []
        listen(network, x, lambda site: heard.append(site.name)).outputs.sum().backward()
    assert heard == ["body.1", "relu"]


def test_a_transformer_has_kinks_between_its_softmax_and_norms():
    sites = seen(Transformer(), torch.randn(6, 5, 8))
    kinds = {name.removeprefix("encoder.layers.0."): site.kind for name, site in sites.items()}
    assert kinds.pop("relu") == "piecewise linear"
    assert {"norm1", "norm2"} < set(kinds)
    assert any("softmax" in name for name in kinds)
    assert set(kinds.values()) == {"other"}


def test_attention_is_products_and_a_softmax():
    sites = seen(Attention(), torch.randn(6, 5, 8))
    operations = [site.operation.removeprefix("safe_") for site in sites.values()]
    assert operations == ["bmm", "softmax", "bmm", "gelu"]
    assert all(len(site.z) == 6 for site in sites.values())


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_networks_run_step_by_step(name):
    network, x = specimen(name)
    sites = seen(network, x)
    assert {"curve", "other"} == {site.kind for site in sites.values()}
    assert sum(site.operation == "tanh" for site in sites.values()) == 5 * (
        2 if name == "lstm" else 1
    )
    assert all(site.z.shape == (7, 6) for site in sites.values())


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # what the compiler says about itself
def test_a_compiled_part_is_seen():
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    x = torch.randn(6, 4)
    expected = only(network, x).z
    compiled = nn.Sequential(torch.compile(network))
    compiled(x)  # warm
    sites = seen(compiled, x)
    assert len(sites) == 1
    (site,) = sites.values()
    assert site.kinks == (0.0,)
    assert_close(site.z, expected)


def on_a_line(z) -> torch.Tensor:
    return torch.tensor(z, dtype=torch.float64)[:, None]


def test_transitions_count_the_kinks_between_neighbours():
    x = on_a_line([-2.0, 0.0, 2.0, -2.0, -3.0])
    assert only(F.hardtanh, x).transitions().tolist() == [1, 1, 2, 0]
    assert only(F.relu, x).transitions().tolist() == [0, 1, 1, 0]
    assert only(torch.tanh, x).transitions().tolist() == [0, 1, 1, 0]
    assert only(lambda x: F.hardshrink(x, 1.0), x).transitions().tolist() == [1, 1, 2, 0]


def test_transitions_add_up_over_units():
    layer = linear(torch.tensor([[1.0], [1.0], [-1.0]]), torch.tensor([0.0, -1.0, 3.0]))
    x = on_a_line([-1.0, 0.5, 2.0, 4.0])
    assert only(lambda x: layer(x).relu(), x).transitions().tolist() == [1, 1, 1]


def test_a_choice_changes_or_does_not():
    x = torch.tensor([[1.0, 2, 3], [3, 2, 1], [4, 2, 3], [0, 5, 6]])
    assert only(lambda x: x.amax(1, keepdim=True), x).transitions().tolist() == [1, 0, 1]
    assert only(lambda x: x.max(1, keepdim=True)[0], x).transitions().tolist() == [1, 0, 1]


def test_transitions_of_a_sawtooth_are_its_folds():
    network = Sawtooth(4)
    x = torch.linspace(1e-4, 1 - 1e-4, 1000)[:, None]  # from just inside, and past all k / 16
    found = {name: site.transitions().sum().item() for name, site in seen(network, x).items()}
    assert found == network.crossings


def test_a_network_that_mixes_samples_is_told_so():
    x = torch.randn(6, 4)
    with pytest.raises(ValueError, match=r"site 'relu' has units of shape \(4,\) for 6 samples"):
        find_sites(lambda x: x + x.mean(0).relu(), x)
    with pytest.raises(ValueError, match="the network must treat samples independently"):
        find_sites(lambda x: x + x.T.matmul(x).tanh()[0], x)


def test_a_site_whose_output_mixes_samples_is_told_so_when_asked():
    sites, x = [], torch.randn(6, 4)
    listen(lambda x: x + x.norm(dim=0), x, sites.append)
    with pytest.raises(ValueError, match="treat samples independently"):
        _ = sites[0].value


def test_a_choice_among_samples_is_told_so():
    message = r"site 'amax' has units of shape \(6, 4\) for 6 samples, and it is not known which"
    with pytest.raises(ValueError, match=message):
        find_sites(lambda x: x + x.amax(0), torch.randn(6, 4))


def test_outputs_of_the_network_are_returned_unchanged():
    for name in ZOO:
        network, x = specimen(name)
        with observing(network):
            assert_close(listen(network, x, lambda _: None).outputs, network(x))


@pytest.mark.parametrize("name", ["mlp", "conv", "in_place", "functional", "tied", "transformer"])
def test_outputs_of_sites_carry_the_graph_when_gradients_are_recorded(name):
    network, x = specimen(name)
    network.eval()
    outputs = []
    with torch.enable_grad():
        y = listen(network, x, lambda site: outputs.append(site.output)).outputs
        assert all(output.requires_grad for output in outputs if output.is_floating_point())
        weight = next(network.parameters())
        for output in outputs[:1]:
            (grad,) = torch.autograd.grad(output.sum(), weight, retain_graph=True)
            assert grad.abs().sum() > 0
        y.sum().backward()


@pytest.mark.parametrize("steps", [lambda x: torch.div(x, 2, rounding_mode="floor"), torch.round])
def test_steps_are_of_another_sort(steps):
    assert [site.kind for site in find_sites(steps, torch.randn(4, 3)).values()] == ["other"]


def test_sites_are_not_called_like_the_ends_of_the_network():
    ends = {"input": nn.ReLU(), "middle": nn.Linear(3, 3), "output": nn.ReLU()}
    network = nn.Sequential(OrderedDict(ends))
    assert list(find_sites(network, torch.randn(4, 3))) == ["input_2", "output_2"]


@pytest.mark.parametrize("recording", [False, True])
def test_what_a_listener_computes_is_not_listened_to(recording):
    heard = []

    def hear(site):
        heard.append(site.name)
        site.output.detach().tanh()

    with torch.set_grad_enabled(recording):
        listen(mlp(4, 3, 3, 2), torch.randn(6, 4), hear)
    assert heard == ["1", "3"]


@pytest.mark.parametrize(
    ("network", "elements"),
    [
        (lambda x: F.max_pool2d(x, 2), 4),
        (lambda x: F.max_pool2d(x, (3, 2), stride=1, padding=1), 6),
        (lambda x: F.max_pool3d(x[:, None], (1, 2, 3)), 6),
        (lambda x: F.adaptive_max_pool2d(x, (3, 2)), 6),
        (lambda x: F.adaptive_max_pool2d(x, 4), 9),  # of six in four: two at a time, or three
        (lambda x: x.amax((2, 3)), 36),
        (lambda x: x.max(1).values, 2),
        (lambda x: x.sort(3).values, 6),
        (torch.relu, 0),
    ],
)
def test_a_choice_says_from_how_many_elements_it_picks_at_most(network, elements):
    def flat(x):
        return network(x).flatten(1)

    assert only(flat, torch.randn(3, 2, 6, 6)).elements == elements


@pytest.mark.parametrize(
    "curve",
    [
        torch.tanh,
        lambda x: torch.tanh_(x + 0),
        lambda x: torch.tanh(x, out=torch.empty_like(x)),
        F.gelu,
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: F.silu(x + 0, inplace=True),
        F.logsigmoid,
        lambda x: F.softplus(x, beta=3),
        lambda x: 2**x,
        lambda x: x**3,
        lambda x: 2 / (x - 9),
        lambda x: F.elu(x, 0.5),
    ],
)
def test_a_curve_says_what_it_makes_of_any_tensor_and_writes_nowhere(curve):
    x = torch.randn(5, 4)
    (site,) = seen(curve, x).values()
    values = torch.linspace(-3, 3, 7)
    shift = 9 if site.operation in {"div", "reciprocal"} else 0
    before = values.clone()
    found = site.apply(values - shift)
    assert_close(found * (2 if site.operation == "reciprocal" else 1), curve(values))
    assert_close(values, before, rtol=0, atol=0)


def test_a_curve_that_differs_from_unit_to_unit_is_no_function_of_one_tensor():
    assert only(lambda x: x ** torch.arange(1.0, 5.0), torch.rand(3, 4)).apply is None
