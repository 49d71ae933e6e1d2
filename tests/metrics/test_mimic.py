import pickle
from functools import partial

import pytest
import torch
from contract import Contract
from networks import counting_rows, mlp
from sklearn.datasets import load_digits
from torch import nn
from torch.testing import assert_close
from user_training import fit

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.functional import ShallowStudent, fit_student, mimic_gap
from lightning_effcx.metrics import MimicGap
from lightning_effcx.metrics.error_bars import BAR, share_bounds
from lightning_effcx.metrics.shard import Shard
from lightning_effcx.network.calls import Call
from lightning_effcx.network.capture import capture_network
from lightning_effcx.network.observe import observing

CONTRACTS = [
    Contract(
        MimicGap,
        options=[
            {"hidden": 8, "steps": 20},
            {"bottleneck": 2, "steps": 20, "held_out": 0.5},
        ],
        cheap={"hidden": 2, "steps": 2},
        functions={
            "fit_student": partial(fit_student, hidden=2, steps=2),
            "mimic_gap": lambda network, x: mimic_gap(network, network, x),
        },
        moves=False,
        pooled=True,
        variants=True,
    ),
]


pytestmark = pytest.mark.usefixtures("_float64")


def found(network, *batches, **options):
    metric = MimicGap(**options)
    for x in batches:
        metric.update(network, x)
    values = metric.compute()
    return {key.removeprefix("mimic_gap"): float(value) for key, value in values.items()}


# The gap, by hand


def test_a_student_with_the_weights_of_its_teacher_has_no_gap():
    x, sizes = torch.randn(20, 4), {"hidden": 8, "bottleneck": 3}
    teacher, student = ShallowStudent(4, 3, seed=1, **sizes), ShallowStudent(4, 3, **sizes)
    for parameter in teacher.parameters():
        nn.init.normal_(parameter)
    assert mimic_gap(student, teacher, x).gap > 0.1
    student.load_state_dict(teacher.state_dict())
    same = mimic_gap(student, teacher, x)
    assert (same.loss, same.gap, same.r2, same.agreement) == (0, 0, 1, 1)
    assert same.gap_stderr == 0
    assert same.agreement_stderr > 0  # on 20 samples the two could differ elsewhere


def test_the_loss_is_half_the_squared_distance_summed_over_outputs():
    x = torch.randn(6, 2)
    result = mimic_gap(lambda x: x + torch.tensor([1.0, 2.0]), lambda x: x, x)
    assert result.loss == pytest.approx((1 + 4) / 2)
    assert_close(result.squared_errors, torch.full((6,), 5.0))


def test_who_knows_the_mean_alone_misses_everything():
    x = torch.randn(30, 3)
    teacher = mlp(3, 8, 2)
    mean = teacher(x).detach().mean(0)
    result = mimic_gap(lambda x: mean.expand(len(x), 2), teacher, x)
    assert result.gap == pytest.approx(1)
    assert result.r2 == pytest.approx(0)


def test_r2_is_pooled_over_outputs():
    x = torch.randn(50, 2) * torch.tensor([10.0, 1.0])
    result = mimic_gap(lambda x: x * torch.tensor([1.0, 0.0]), lambda x: x, x)
    variances = x.var(0, correction=0)
    missed = x[:, 1].square().mean()
    assert result.r2 == pytest.approx(float(1 - missed / variances.sum()))


def test_scaling_or_shifting_the_logits_of_both_changes_no_gap():
    x, student, teacher = torch.randn(20, 4), mlp(4, 3), mlp(4, 8, 3)
    moved = [lambda x, f=f: 7 * f(x) + torch.tensor([1.0, -4, 9]) for f in (student, teacher)]
    assert mimic_gap(*moved, x).gap == pytest.approx(mimic_gap(student, teacher, x).gap)


def test_agreement_is_on_the_largest_output_or_on_the_sign_of_one():
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [5.0, 0.0], [0.0, 3.0]])
    swapped = mimic_gap(lambda x: x.flip(1), lambda x: x, x)
    assert swapped.agreement == 0
    one = torch.tensor([[-1.0], [2.0], [3.0], [-4.0]])
    result = mimic_gap(lambda x: x.abs(), lambda x: x, one)
    assert result.agreement == 0.5
    low, high = share_bounds(0.5, 4)
    assert result.agreement_stderr == pytest.approx((high - low) / 2 / BAR)


def test_a_constant_on_all_logits_of_a_sample_counts_unless_centred():
    x, teacher = torch.randn(20, 4), mlp(4, 8, 3)
    shifted = lambda x: teacher(x) + x[:, :1]  # noqa: E731 what a softmax does not see
    assert mimic_gap(shifted, teacher, x).gap > 0.1
    assert mimic_gap(shifted, teacher, x, centred=True).gap == pytest.approx(0, abs=1e-25)


@pytest.mark.parametrize("chunk", [1, 3, 99])
def test_chunks_do_not_matter(chunk):
    x, student, teacher = torch.randn(20, 4), mlp(4, 3), mlp(4, 8, 3)
    expected = mimic_gap(student, teacher, x)
    assert_close(
        mimic_gap(student, teacher, x, chunk=chunk).squared_errors, expected.squared_errors
    )


def test_the_error_bars_are_those_of_repeated_samples():
    student, teacher = mlp(4, 3), mlp(4, 8, 3)
    draws = [mimic_gap(student, teacher, torch.randn(200, 4)) for _ in range(300)]
    for gap, stderr in (("gap", "gap_stderr"), ("agreement", "agreement_stderr")):
        values = torch.tensor([getattr(draw, gap) for draw in draws])
        bars = torch.tensor([getattr(draw, stderr) for draw in draws])
        # A standard deviation of 300 is known to 4 %.
        assert_close(bars.mean(), values.std(), rtol=0.2, atol=0)


def test_one_sample_has_no_error_bars():
    result = mimic_gap(mlp(2, 3), mlp(2, 3), torch.randn(1, 2))
    assert result.agreement_stderr is None
    assert "_stderr" not in found(mlp(2, 3), torch.randn(2, 2))


# Live


def test_a_linear_network_is_mimicked_better_than_a_rich_one():
    x, rich = torch.randn(200, 4), mlp(4, 64, 64, 3)
    for parameter in rich.parameters():
        parameter.data *= 3
    linear_gap, rich_gap = found(mlp(4, 3), x)[""], found(rich, x)[""]
    assert 5 * linear_gap < rich_gap


@pytest.mark.slow
def test_it_falls_at_first_and_grows_as_wrong_labels_are_learnt_by_heart():
    torch.set_default_dtype(torch.float32)
    digits = load_digits()
    order = torch.randperm(len(digits.target))
    x = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
    right = torch.tensor(digits.target)[order]
    wrong = torch.where(torch.rand(len(x)) < 0.2, torch.randint(10, (len(x),)), right)
    last = {}
    for name, y in (("right", right), ("wrong", wrong)):
        network, gaps = mlp(64, 128, 128, 10), []
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        for epoch in range(101):
            if epoch in {0, 5, 100}:
                gaps.append(found(network, x[1000:1256])[""])
            for i in range(0, 1000, 50):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x[i : i + 50]), y[i : i + 50]).backward()
                optimizer.step()
        assert gaps[1] < 0.3 * gaps[0]
        last[name] = gaps[2] / gaps[1]
    assert last["wrong"] > 5
    assert last["wrong"] > 2 * last["right"]


def test_it_is_of_the_samples_that_the_student_has_not_seen():
    x, network = torch.randn(40, 4), mlp(4, 8, 3)
    metric = MimicGap(hidden=6, seed=3)
    metric.update(network, x)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    held, seen = order[:10].sort().values, order[10:].sort().values
    student = fit_student(network, x[seen], hidden=6, seed=3)
    z = network(x).detach()
    missed = (student(x) - z)[held].square().sum()
    spread = (z - z[seen].mean(0))[held].square().sum()
    values = metric.compute()
    assert_close(values["mimic_gap"], (missed / spread).detach())
    agreed = (student(x).argmax(1) == z.argmax(1))[held].double().mean()
    assert_close(values["mimic_gap.agreement"], agreed)


def test_batches_are_measured_apart_and_put_together():
    network, batches = mlp(4, 8, 3), (torch.randn(20, 4), torch.randn(20, 4))
    metrics = [MimicGap(steps=20) for _ in range(3)]
    for x, metric in zip(batches, metrics, strict=False):
        metric.update(network, x)
        metrics[2].update(network, x)
    rows = torch.cat([metric.found[0] for metric in metrics[:2]])
    assert_close(torch.cat(metrics[2].found), rows)
    assert_close(metrics[2].compute()["mimic_gap"], rows[:, 0].sum() / rows[:, 1].sum())


def test_shard_0_measures_alone():
    x = torch.randn(8, 3)
    metric = MimicGap(steps=2)
    metric.shard = Shard(1, of=2)
    network, rows = counting_rows(x)
    metric.update(network, x)
    assert metric.found == rows == []


def test_a_network_that_holds_something_for_each_sample_is_mimicked_as_it_is_there():
    class Scaled(nn.Module):
        def forward(self, x, scale):
            return x * scale

    module, x, scale = Scaled(), torch.randn(40, 3), torch.randint(1, 4, (40, 1))
    with observing(module):
        network, x, *_ = capture_network(module, Call.of("", (x, scale), {}, 40))
    table = lambda z: z * scale[torch.cdist(z, x).argmin(1)]  # noqa: E731
    assert found(network, x, steps=20) == pytest.approx(found(table, x, steps=20))


def test_centring_forgets_what_a_softmax_does_not_see():
    x, teacher = torch.randn(40, 4), mlp(4, 8, 3)
    shifted = lambda x: teacher(x) + (5 * x).sin().sum(1, keepdim=True)  # noqa: E731
    expected = found(teacher, x, centred=True)
    assert found(shifted, x, centred=True) == pytest.approx(expected)
    assert found(shifted, x)[""] > 2 * expected[""]


def test_it_is_pickled_and_measured_again():
    x, network = torch.randn(12, 4), mlp(4, 8, 3)
    metric = pickle.loads(pickle.dumps(MimicGap(steps=5)))
    first = metric(network, x)
    metric.reset()
    assert_close(metric(network, x), first, rtol=0, atol=0)


def test_a_monitor_logs_it_with_its_error_bars(tmp_path):
    torch.set_default_dtype(torch.float32)
    monitor = ComplexityMonitor([MimicGap()], strict=True)
    fit(tmp_path, monitor, max_epochs=2)
    for entry in monitor.history:
        values = {tag: v for tag, v in entry["values"].items() if "seconds" not in tag}
        names = ["mimic_gap", "mimic_gap.agreement"]
        tags = [f"effcx{end}/{name}" for name in names for end in ("", "_stderr")]
        assert [*values] == [
            *tags,
            *(f"effcx/mimic_gap.agreement_{end}" for end in ("low", "high")),
        ]
        assert 0 < values["effcx/mimic_gap"] < 1


# Errors


def test_students_have_units_and_take_steps():
    x = torch.randn(6, 4)
    for make in (MimicGap, lambda **options: fit_student(mlp(4, 3), x, **{"hidden": 2} | options)):
        with pytest.raises(ValueError, match="hidden=0: expected at least 1 unit"):
            make(hidden=0)
        with pytest.raises(ValueError, match="bottleneck=0: expected at least 1, or None for none"):
            make(bottleneck=0)
        with pytest.raises(ValueError, match="steps=0: expected at least 1"):
            make(steps=0)
        with pytest.raises(ValueError, match="chunk=0: expected at least 1 row"):
            make(chunk=0)


@pytest.mark.parametrize("held_out", [0, 1, -0.5])
def test_some_samples_are_held_out_and_some_are_not(held_out):
    with pytest.raises(ValueError, match=rf"held_out={held_out}: expected a share between 0 and 1"):
        MimicGap(held_out=held_out)


def test_there_are_samples_to_fit_and_to_test():
    with pytest.raises(ValueError, match="x has 1 samples: expected at least 2, to fit a student"):
        found(mlp(4, 3), torch.randn(1, 4))
    with pytest.raises(ValueError, match="x has no samples, expected at least one sample"):
        fit_student(mlp(4, 3), torch.randn(0, 4), hidden=2)


def test_a_constant_teacher_leaves_nothing_to_mimic():
    message = "the teacher's outputs are the same for all samples, so there is nothing to mimic"
    with pytest.raises(ValueError, match=message):
        found(lambda x: torch.ones(len(x), 3), torch.randn(9, 4))


def test_student_and_teacher_have_as_many_outputs():
    with pytest.raises(
        ValueError, match="the student has 2 outputs and its teacher 3: expected the same number"
    ):
        mimic_gap(mlp(4, 2), mlp(4, 3), torch.randn(9, 4))


def test_a_single_output_cannot_be_centred():
    with pytest.raises(
        ValueError, match=r"centred=True subtracts the mean .* leaves 0 of a single output: use"
    ):
        found(mlp(4, 1), torch.randn(9, 4), centred=True)
