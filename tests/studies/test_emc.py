import json
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from procedures import (
    Failing,
    Interrupted,
    Learner,
    LeastSquares,
    Logged,
    Lookup,
    Majority,
    trainer,
)
from pytorch_lightning import Trainer
from torch import Generator
from torch.utils.data import DataLoader, TensorDataset

from lightning_effcx.studies import Job, effective_model_complexity
from lightning_effcx.studies.emc import _name
from lightning_effcx.studies.label_noise import noisy_labels
from lightning_effcx.studies.training import Samples, SubsampleTraining, default_trainer

emc = partial(effective_model_complexity, make_trainer=trainer, progress=False, batch_size=512)


def data(n=64, classes=2, d=6, seed=0):
    generator = Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator)
    return x, torch.randint(classes, (n,), generator=generator)


def sizes(found):
    return [row.n for row in found.table]


def work(samples, label_noise=0.0, **options):
    options = {"make_module": Learner, "make_trainer": trainer, "test": None} | options
    defaults = {"batch_size": 16, "seed": 0, "network": None, "threshold": 0.0}
    return SubsampleTraining(samples=samples, label_noise=label_noise, **defaults | options)


def test_a_constant_predictor_fits_one_sample():
    found = emc(Majority, data(), repeats=8)
    assert (found.emc, found.interval, found.censored) == (1, (0, 2), False)
    assert sizes(found) == [1, 2, 4, 8, 16, 32, 64]
    assert found.table[0].train_error == 0
    assert 0 < found.table[1].train_error < 0.5


def test_what_learns_by_heart_is_censored():
    found = emc(Lookup, data(80, classes=3), label_noise=0.5, test=data(40, 3, seed=1))
    assert (found.emc, found.interval, found.censored) == (80, (32, None), True)
    assert all(row.train_error == row.train_stderr == 0 for row in found.table)
    assert all(row.test_error > 0.3 and row.test_stderr > 0 for row in found.table)


def test_least_squares_fits_a_third_more_random_labels_than_dimensions():
    x, y = data(400, d=30)
    grid = [30, 32, 36, 40, 50, 100]
    study = partial(emc, LeastSquares, (x, 2 * y - 1), repeats=12)
    found = study(sizes=grid)
    assert (found.emc, found.interval) == (40, (36, 50))
    assert sizes(found) == grid  # as given
    assert study(epsilon=0.0, sizes=[28, 30, 34]).emc == 30


def test_the_neighbours_are_refined_to_a_tenth():
    x, y = data(400, d=30)
    found = emc(LeastSquares, (x, 2 * y - 1), repeats=4)
    assert found.monotone
    assert found.interval[1] <= 1.1 * found.emc
    assert 36 <= found.emc < 56
    assert sizes(found)[:6] == [1, 2, 4, 8, 16, 32]
    assert len(found.table) > len([1, 2, 4, 8, 16, 32, 64, 128, 256, 400])


def test_trainings_that_fail_are_told_and_the_others_count():
    found = emc(partial(Failing, 4), data(16), repeats=2)
    assert sizes(found) == [4, 8, 16]
    assert [*found.failures] == [f"n={n}/repeat={repeat}" for n in (1, 2) for repeat in (0, 1)]
    assert found.failures["n=1/repeat=0"].startswith("ValueError: too few: 1\n")
    with pytest.raises(RuntimeError, match="all trainings failed, the first one with: ValueError"):
        emc(partial(Failing, 99), data(16), repeats=2)


def test_noise_is_drawn_once_for_each_sample_and_repeat():
    x = torch.arange(60.0)[:, None]
    y = torch.arange(60) % 3
    noisy = work(Samples.read((x, y)), label_noise=0.5)
    seen = {}
    for n in (20, 40, 60):
        for repeat in (0, 1):
            job = Job.of(f"n={n}/repeat={repeat}", {"n": n, "repeat": repeat})
            drawn, classes = noisy.draw(job)
            assert len(set(drawn.flatten().tolist())) == n  # without replacement
            for place, label in zip(drawn[:, 0].long().tolist(), classes.tolist(), strict=True):
                assert seen.setdefault((repeat, place), label) == label
    assert len({tuple(seen[r, i] for i in range(60)) for r in (0, 1)}) == 2


def test_noise_chooses_other_classes_all_alike():
    y = torch.tensor([-1, 1, 4]).repeat(3000)
    noisy = noisy_labels(y, 0.2, Generator().manual_seed(0))
    assert (noisy != y).float().mean() == pytest.approx(0.2, abs=0.02)
    for own, others in ((-1, (1, 4)), (1, (-1, 4)), (4, (-1, 1))):
        for other in others:
            assert (noisy[y == own] == other).float().mean() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(noisy_labels(y, 0.0, Generator()), y)
    assert (noisy_labels(y, 1.0, Generator()) != y).all()


def test_labels_of_one_class_cannot_be_noisy():
    with pytest.raises(ValueError, match="all labels are 2, but label noise replaces labels by"):
        noisy_labels(torch.tensor([2, 2]), 0.1, Generator())


def test_labels_keep_the_form_in_which_they_were_given():
    x, y = data(8)
    column = Samples.read((x, y[:, None].float()))
    assert column.labels(column.classes).shape == (8, 1)
    assert column.labels(column.classes).dtype == torch.float32
    whole = Samples.read(TensorDataset(x, y))
    assert torch.equal(whole.labels(whole.classes), y)
    assert whole.labels(whole.classes).dtype == torch.int64


def test_a_study_goes_on_where_it_was_and_repeats_nothing(tmp_path):
    make = Logged(Majority, tmp_path / "log")
    grid = [1, 2, 4, 8, 16]
    study = partial(emc, make, data(16), sizes=grid, repeats=2, folder=tmp_path / "study")
    found = study()
    assert make.made() == 10
    results = tmp_path / "study/results.jsonl"
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join(lines[:6]) + lines[6][:20])  # as a kill leaves it
    assert study() == found
    assert make.made() == 10 + 4
    assert study(epsilon=0.3).table == found.table
    assert study(repeats=3).table[0].repeats == 3
    assert make.made() == 14 + 5


def test_sizes_may_be_included_beside_those_of_the_search():
    study = partial(emc, Majority, data(16), repeats=1)
    assert 5 in sizes(study(including=[5]))
    assert sizes(study(sizes=[4], including=[5, 4])) == [4, 5]


def test_the_folder_says_what_was_found(tmp_path):
    found = emc(Majority, data(4), folder=tmp_path)
    assert (tmp_path / "found.json").read_text() == found.as_json()


def test_the_folder_of_other_samples_is_refused(tmp_path):
    emc(Majority, data(4), folder=tmp_path)
    with pytest.raises(ValueError, match=r"the folder .* holds another study, with data='"):
        emc(Majority, data(4, seed=1), folder=tmp_path)


def test_interrupted_it_ends_and_can_be_interrupted_again(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        emc(partial(Interrupted, 4), data(16), repeats=1, folder=tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["n=1/repeat=0", "n=2/repeat=0"]


class Stopping(Majority):
    def training_step(self, batch, batch_idx):
        raise KeyboardInterrupt


def test_interrupted_in_a_thread_it_ends(tmp_path):
    with ThreadPoolExecutor(1) as threads, pytest.raises(KeyboardInterrupt):
        emc(Stopping, data(4), executor=threads, folder=tmp_path)
    assert (tmp_path / "results.jsonl").read_text() == ""


def test_the_folder_of_another_procedure_is_refused(tmp_path):
    emc(Majority, data(4), folder=tmp_path)
    identity = json.loads((tmp_path / "study.json").read_text())["arguments"]
    assert identity["make_module"] == "procedures:Majority"
    with pytest.raises(ValueError, match=r"another study, with make_module='procedures:Majority' "):
        emc(Lookup, data(4), folder=tmp_path)


def test_procedures_are_named_as_in_the_code():
    assert _name(None) == "default"
    assert _name(partial(Failing, 3)) == "procedures:Failing(3)"
    assert _name(partial(trainer, epochs=9)) == "procedures:trainer(epochs=9)"
    assert _name(partial(trainer, epochs=torch.ones(1))) == "procedures:trainer(epochs=Tensor)"
    assert _name(Logged(Majority, None)) == "procedures:Logged"


def test_a_network_and_a_threshold_say_what_the_decision_is():
    x, y = data(16)
    found = emc(Majority, (x, y), sizes=[16], network=ones)
    assert found.table[0].train_error == pytest.approx((y == 0).float().mean())
    found = emc(Majority, (x, y), sizes=[16], network=ones, threshold=2.0)
    assert found.table[0].train_error == pytest.approx((y == 1).float().mean())


def ones(module, x):
    assert not module.training
    return torch.ones(len(x), 1)


class Returning:
    callbacks = ()
    interrupted = True

    def fit(self, module, loader):
        """Return early, as some versions do."""


def test_a_training_that_was_interrupted_is_no_result(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        emc(Majority, data(4), make_trainer=Returning, folder=tmp_path)
    assert (tmp_path / "results.jsonl").read_text() == ""


def test_a_sample_that_is_left_over_waits():
    x, y = data(33)
    assert [len(batch) for batch, _ in work(Samples.read((x, y)))._batches(x, y)] == [16, 16]
    assert [len(batch) for batch, _ in work(Samples.read((x, y)))._batches(x[:1], y[:1])] == [1]
    assert len(work(Samples.read((x, y)))._batches(x[:20], y[:20])) == 2


def test_batches_are_those_that_any_loader_makes():
    x, y = data(33)
    loader = work(Samples.read((x, y)))._batches(x, y)
    torch.manual_seed(3)
    mine = [*loader]
    torch.manual_seed(3)
    plain = [*DataLoader(TensorDataset(x, y), 16, shuffle=True, drop_last=True)]
    assert [type(batch) for batch in mine] == [type(batch) for batch in plain]
    torch.testing.assert_close(mine, plain, rtol=0, atol=0)


def test_the_default_trainer_is_of_the_package_of_the_module():
    import lightning.pytorch  # noqa: PLC0415 the other package

    class Other(lightning.pytorch.LightningModule):
        pass

    assert type(default_trainer(Other())) is lightning.pytorch.Trainer
    host = default_trainer(Learner())
    assert type(host).__module__.startswith("pytorch_lightning.")
    assert (host.max_epochs, host.loggers, host.checkpoint_callbacks) == (100, [], [])


class Logging(Majority):
    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        self.log("size", len(batch[0]), prog_bar=True)


@pytest.mark.parametrize("make_trainer", [None, partial(Trainer, max_epochs=1, logger=False)])
def test_trainings_show_nothing_of_their_own(make_trainer, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a Trainer of no options writes
    level = logging.getLogger("pytorch_lightning").level
    capfd.readouterr()
    emc(Logging, data(4), sizes=[4], repeats=1, make_trainer=make_trainer)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("pytorch_lightning").level == level


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match="got a Linear, expected a LightningModule"):
        default_trainer(torch.nn.Linear(1, 1))


def test_what_trainings_cannot_use_is_refused_before_they_start():
    x, y = data()
    with pytest.raises(TypeError, match=r"make_module=Majority\(\): expected a class or functi"):
        emc(Majority(), (x, y))
    with pytest.raises(
        TypeError, match="make_trainer=<Trainer>: expected a class or function that"
    ):
        emc(Majority, (x, y), make_trainer=trainer())
    with pytest.raises(ValueError, match=r"a test sample has the shape \(3,\), but one of the dat"):
        emc(Majority, (x, y), test=(x[:, :3], y))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epsilon": 1.0}, "epsilon=1.0: expected an error of at least 0 and below 1"),
        ({"sizes": []}, r"sizes=\[\]: expected at least one number of samples"),
        ({"sizes": [2, 65]}, "sizes=65: expected a whole number from 1 to 64, which is how many s"),
        ({"sizes": [1.5]}, "sizes=1.5: expected a whole number from 1 to 64, which is how many s"),
        ({"including": [0]}, "including=0: expected a whole number from 1 to 64, which is how ma"),
        ({"threshold": float("nan")}, "threshold=nan: expected a number, such as 0.5"),
        ({"threads": 0}, "threads=0: expected at least 1"),
        ({"repeats": 0}, "repeats=0: expected at least 1"),
        ({"label_noise": 1.5}, "label_noise=1.5: expected a probability, between 0 and 1"),
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        emc(Majority, data(), **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"make_module": 3}, "make_module=3: expected a class or function that makes a new module"),
        ({"sizes": 8}, r"sizes=8: expected numbers of samples, such as \[8, 16, 32\]"),
        ({"sizes": ["8"]}, "sizes='8': expected a whole number from 1 to 64, which is how many s"),
        ({"repeats": 1.5}, "repeats=1.5: expected a whole number of at least 1"),
        ({"seed": None}, "seed=None: expected a whole number, such as 0"),
        ({"label_noise": "0.1"}, "label_noise='0.1': expected a probability, between 0 and 1"),
        ({"progress": "no"}, "progress='no': expected True or False"),
    ],
)
def test_arguments_of_another_type_are_refused(options, sentence):
    with pytest.raises(TypeError, match=sentence):
        emc(**{"make_module": Majority, "dataset": data()} | options)
