import math
import re
from collections.abc import Callable
from functools import cache

import pytest
import torch
from architectures import main
from support_matrix import GALLERY, matrix, shown
from torch import Tensor
from user_architectures import ARCHITECTURES, NETWORKS, Architecture
from user_training import trainer
from watched_trainings import SAMPLES, Training, Witness, metrics, train, values, watch

from lightning_effcx.callbacks import ComplexityMonitor

EVERY = pytest.mark.parametrize("name", ARCHITECTURES)
FOUND = [name for name, architecture in ARCHITECTURES.items() if architecture.reads]
UNFOUND = [name for name in ARCHITECTURES if name not in FOUND]
MEASURED = pytest.mark.parametrize("name", FOUND)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Train each module once for all tests."""

    @cache
    def training(name: str) -> Training:
        return watch(ARCHITECTURES[name], tmp_path_factory.mktemp("watched"))

    return training


def norms(architecture: Architecture, training: Training) -> Tensor:
    """Compute the norm of the Jacobian at each sample of the validation steps, by autograd."""
    training.module.eval()
    found = []
    for batch, state in training.seen:
        torch.set_rng_state(state)
        inputs, function = architecture.reads(training.module, batch)
        found.append(norms_of(function, [x.detach() for x in inputs]))
    return torch.cat(found)[:SAMPLES]


def norms_of(function: Callable[..., Tensor], inputs: list[Tensor]) -> Tensor:
    """Compute one norm for each sample, and assert that samples do not depend on each other."""

    def outputs(*x: Tensor) -> Tensor:
        return function(*x).reshape(len(x[0]), -1)

    jacobians = torch.autograd.functional.jacobian(outputs, tuple(inputs))  # (n, k, n, ...) each
    squares = sum(j.flatten(3).square().sum((1, 3)) for j in jacobians)
    assert torch.equal(squares, squares.diag().diag())
    return squares.diag().sqrt()


# --- values and reasons


@EVERY
def test_every_measure_has_a_finite_value_or_a_reason(name, watched):
    training = watched(name)
    assert {*training.values, *training.reasons} == {*metrics()}
    assert not {*training.values} & {*training.reasons}
    assert all(math.isfinite(value) for value in training.values.values())


@EVERY
def test_a_reason_is_a_sentence_of_ours(name, watched):
    from_below = (
        r"Traceback|positional argument|mat1 and mat2|size of tensor|shapes? .* (invalid|mismatch)"
        r"|missing the required|has no attribute|Expected|grad_fn|\n"
    )
    for measure, reason in watched(name).reasons.items():
        assert not re.search(from_below, reason), (measure, reason)
        assert re.match(r".{20,600}\.$", reason), (measure, reason)


@EVERY
def test_what_holds_is_measured_and_what_does_not_is_left_out(name, watched):
    architecture, measured = ARCHITECTURES[name], {*watched(name).values}
    assert measured - architecture.unsettled == architecture.holds - architecture.unsettled


@MEASURED
def test_the_jacobian_norm_is_that_of_what_the_validation_step_called(name, watched):
    expected = norms(ARCHITECTURES[name], watched(name)).mean().item()
    assert watched(name).values["jacobian_norm"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "names",
    [
        ("MLP", "batch is a named tuple", "batch is a dataclass", "batch is a mapping"),
        ("MLP", "self.forward"),
        ("MLP", "output is a tuple"),
        ("autoencoder", "autoencoder, batch is x"),
        ("no forward, one child", "forward not used"),
    ],
    ids=" = ".join,
)
def test_the_same_network_measures_the_same_however_it_is_fed(names, watched):
    first, *others = (watched(name).values for name in names)
    for other in others:
        assert other == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("name", ["output is a dict", "output is an object"])
def test_what_is_computed_beside_the_output_does_not_count(name, watched):
    alone, with_more = watched("output is a tuple"), watched(name)
    assert with_more.values == pytest.approx(alone.values, rel=1e-6)
    assert with_more.reasons == alone.reasons


# --- what cannot be found


@pytest.mark.parametrize("name", UNFOUND)
def test_what_cannot_be_found_is_one_warning_that_shows_the_batch_and_the_way_out(name, watched):
    (warned,) = watched(name).warned
    assert re.search(r"every measure: .*batch=.*network=|every measure: .*network=.*batch=", warned)


@pytest.mark.parametrize("name", [name for name in UNFOUND if name.startswith("graph")])
def test_the_parts_of_an_object_are_shown(name, watched):
    (warned,) = watched(name).warned
    assert "Graphs" in warned
    for part in ("x", "edge_index", "batch", "y"):
        assert re.search(rf"\b{part}\b.{{1,4}}(float32|int64) \(", warned), part


@pytest.mark.parametrize("name", UNFOUND)
def test_if_strict_what_cannot_be_found_ends_the_sanity_check(name, tmp_path):
    witness = Witness()
    with pytest.raises(ValueError, match=r"batch=.*network=|network=.*batch="):
        train(ARCHITECTURES[name], tmp_path, ComplexityMonitor(strict=True), witness)
    assert not witness.trained


# --- trainings


@EVERY
def test_the_training_is_bit_identical(name, watched, tmp_path):
    alone = train(ARCHITECTURES[name], tmp_path).state_dict()
    with_monitor = watched(name).module.state_dict()
    assert alone.keys() == with_monitor.keys()
    assert all(torch.equal(with_monitor[key], value) for key, value in alone.items())


@MEASURED
@pytest.mark.filterwarnings("ignore:effcx leaves out the ")
def test_the_default_metrics_raise_nothing_and_find_something(name, tmp_path):
    architecture = ARCHITECTURES[name]
    monitor = ComplexityMonitor(samples=SAMPLES, **architecture.arguments)
    train(architecture, tmp_path, monitor, epochs=1)
    assert "jacobian_norm" in values(monitor)


@pytest.mark.parametrize("name", [name for name in FOUND if name != "GAN"])  # which draws anew
@pytest.mark.filterwarnings("ignore:effcx leaves out the measure")
def test_weights_alone_give_the_same_values_under_inference_mode(name, watched, tmp_path):
    architecture, trained = ARCHITECTURES[name], watched(name)
    monitor = ComplexityMonitor(metrics(), samples=SAMPLES, **architecture.arguments)
    module = architecture.make()  # whose caches are empty
    module.load_state_dict(trained.module.state_dict())
    trainer(tmp_path, monitor).validate(
        module, architecture.loader(3, shuffle=False), verbose=False
    )
    assert values(monitor) == pytest.approx(trained.values, rel=1e-5)


# --- the tables


def test_the_gallery_shows_the_matrix_that_is_found(watched):
    """Run `python tests/support/architectures.py --write` where this fails for a good reason."""
    assert shown(GALLERY.read_text()) == matrix({name: watched(name) for name in NETWORKS})


def test_the_table_shows_values_and_the_reasons_below(capsys):
    main(["regression", "LeNet"])
    shown = capsys.readouterr().out
    assert re.search(r"│ LeNet +│ +0\.\d+ │ +0\.\d+ │", shown)
    assert "\n1) every unit of this network is piecewise linear already" in shown
    assert re.search(r"│ regression +│ +0\.\d+ │ +2\) │", shown)
    assert "\n2) the softmax of a single output is always 1" in shown
    assert "every measure" not in shown
    assert "?" not in shown
    assert "Traceback" not in shown
