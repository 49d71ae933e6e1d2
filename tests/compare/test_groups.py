import math

import pytest
from event_files import made

from lightning_effcx.compare import group_runs


def members(runs):
    return {group.label: [run.path for run in group.runs] for group in group_runs(runs)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lightning_logs/version_0", "lightning_logs/version_11"),
        ("l2/seed_0", "l2/seed_1"),
        ("l2_seed0", "l2_seed1"),
        ("l2/Seed=0/version_0", "l2/Seed=1/version_0"),
        ("version_0", "."),
    ],
)
def test_runs_share_a_group_when_only_version_or_seed_differ_in_the_path(one, other):
    assert len(group_runs([made(one), made(other)])) == 1


@pytest.mark.parametrize(
    ("one", "other"), [("mlp/version_0", "cnn/version_0"), ("seeded_1", "seeded_2")]
)
def test_runs_do_not_share_a_group_when_the_rest_of_the_path_differs(one, other):
    assert members([made(one), made(other)]).keys() == {
        one.removesuffix("/version_0"),
        other.removesuffix("/version_0"),
    }


@pytest.mark.parametrize("key", ["seed", "data_seed", "seed_everything", "data/seed", "a/b/seed_x"])
def test_seeds_do_not_split_groups(key):
    runs = [made("version_0", **{key: 0.0}), made("version_1", **{key: 1.0})]
    assert members(runs) == {".": ["version_0", "version_1"]}
    assert group_runs(runs)[0].hparams == {}


def test_a_key_that_merely_contains_seed_splits_groups():
    assert len(group_runs([made("a", seeds=1.0), made("a", seeds=2.0)])) == 2


def test_labels_name_the_hyperparameters_that_differ():
    runs = [
        made("version_0", lr=0.1, regularizer="l2", width=64.0, seed=0.0),
        made("version_1", lr=0.1, regularizer="l2", width=64.0, seed=1.0),
        made("version_2", lr=0.1, regularizer="none", width=64.0, seed=0.0),
        made("version_3", lr=0.5, width=64.0, seed=0.0),
    ]
    assert members(runs) == {
        "regularizer=l2, lr=0.1": ["version_0", "version_1"],
        "regularizer=none, lr=0.1": ["version_2"],
        "lr=0.5": ["version_3"],
    }


def test_one_hyperparameter_that_differs_is_still_named():
    assert list(members([made("a", width=64.0), made("a", width=128.0)])) == [
        "width=64",
        "width=128",
    ]


def test_labels_name_no_more_hyperparameters_than_needed():
    runs = [
        made("a", alpha=1.0, regularizer="l2", strength=0.1, width=8.0),
        made("b", alpha=2.0, regularizer="l1", strength=0.2, width=8.0),
        made("c", alpha=3.0, regularizer="none", strength=0.2, width=9.0),
    ]
    assert list(members(runs)) == ["regularizer=l1", "regularizer=l2", "regularizer=none"]


def test_labels_prefer_one_number_to_several_words():
    runs = [
        made("a", one="x", other="x", width=1.0),
        made("a", one="x", other="y", width=2.0),
        made("a", one="y", other="y", width=3.0),
    ]
    assert list(members(runs)) == ["width=1", "width=2", "width=3"]


def test_labels_name_all_that_differs_where_three_do_not_suffice():
    bits = [[float(bit == place) for bit in range(4)] for place in range(5)]
    runs = [made("a", **dict(zip("abcd", each, strict=True))) for each in bits]
    assert list(members([*runs, made("a", a=1.0, b=1.0, c=1.0, d=1.0)])) == [
        "a=0, b=0, c=0, d=0",
        "a=0, b=0, c=0, d=1",
        "a=0, b=0, c=1, d=0",
        "a=0, b=1, c=0, d=0",
        "a=1, b=0, c=0, d=0",
        "a=1, b=1, c=1, d=1",
    ]


def test_many_hyperparameters_are_labelled_without_trying_every_choice():
    keys = [f"key_{i}" for i in range(30)]
    runs = [made("a", **{key: float(key == own) for key in keys}) for own in keys]
    assert all(label.count("=") == 30 for label in members(runs))


def test_labels_fall_back_to_paths_where_hyperparameters_agree():
    runs = [made("mlp/version_0", lr=0.1), made("cnn/version_0", lr=0.1)]
    assert list(members(runs)) == ["cnn", "mlp"]


def test_labels_name_path_and_hyperparameters_where_both_are_needed():
    runs = [made("mlp", lr=0.1), made("cnn", lr=0.1), made("cnn", lr=0.5), made("cnn")]
    assert list(members(runs)) == ["cnn", "cnn (lr=0.1)", "cnn (lr=0.5)", "mlp (lr=0.1)"]


def test_labels_are_unique_even_for_a_number_and_its_text():
    runs = [made("a", depth=1.0), made("a", depth="1")]
    assert list(members(runs)) == ["a (depth=1)", "a (depth=1) #2"]


def test_true_is_not_one_and_nan_is_nan():
    assert len(group_runs([made("a", flag=True), made("a", flag=1.0)])) == 2
    assert len(group_runs([made("a", gone=math.nan), made("a", gone=float("nan"))])) == 1
