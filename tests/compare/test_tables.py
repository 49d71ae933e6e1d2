import math

import pytest
from event_files import made, write_finals

from lightning_effcx.compare import compare_runs, load_runs
from lightning_effcx.compare.comparison import ComparisonCell


def names(comparison):
    return [column.name for column in comparison.columns]


def labels(comparison):
    return [row.group.label for row in comparison.rows]


def cells(comparison, column):
    return {row.group.label: row.cells[column] for row in comparison.rows}


def test_a_cell_is_mean_and_sample_deviation_of_the_runs_that_have_a_value():
    values = {"a/seed_0": 1.0, "a/seed_1": 2.0, "a/seed_2": 6.0, "b/seed_0": 5.0}
    runs = [made(path, {"effcx/jacobian_norm": value}) for path, value in values.items()]
    runs += [made("a/seed_3"), made("c")]
    assert cells(compare_runs(runs), "jacobian_norm") == {
        "a": ComparisonCell(3.0, math.sqrt(7.0), 3),  # ((1-3)² + (2-3)² + (6-3)²) / 2
        "b": ComparisonCell(5.0, None, 1),
        "c": ComparisonCell(None, None, 0),
    }


def test_columns_are_measures_then_validation_then_gap():
    tags = [
        "val_loss",
        "val_acc",
        "train_acc",
        "train_loss",
        "effcx/transitions.segment",
        "effcx_sites/transitions.segment/relu",
        "effcx/jacobian_norm",
        "effcx_stderr/jacobian_norm",
        "effcx_seconds/jacobian_norm",
        "lr",
    ]
    comparison = compare_runs([made("a", dict.fromkeys(tags, 1.0))])
    assert names(comparison) == [
        "jacobian_norm",
        "transitions.segment",
        "val_loss",
        "val_acc",
        "gap (accuracy)",
    ]


@pytest.mark.parametrize(
    "tag", ["val_loss", "val/loss", "valid_loss", "validation_loss", "Loss/val", "val_loss_epoch"]
)
def test_usual_names_of_validation_loss_are_recognised(tag):
    assert names(compare_runs([made("a", {tag: 1.0})])) == [tag]


@pytest.mark.parametrize(
    "tag", ["val_acc", "val/accuracy", "valid_accuracy", "val_MulticlassAccuracy", "acc/val"]
)
def test_usual_names_of_validation_accuracy_are_recognised(tag):
    assert names(compare_runs([made("a", {tag: 1.0})])) == [tag]


@pytest.mark.parametrize("tag", ["val_loss_step", "test_loss", "interval_loss", "val_lossy"])
def test_other_names_are_not_taken_for_validation(tag):
    assert names(compare_runs([made("a", {tag: 1.0})])) == []


def test_the_gap_is_of_accuracies_where_both_are_logged():
    finals = {"train_acc_epoch": 0.75, "val_acc": 0.5, "train_loss": 1.0, "val_loss": 3.0}
    comparison = compare_runs([made("a", finals)])
    assert cells(comparison, "gap (accuracy)") == {"a": ComparisonCell(0.25, None, 1)}


def test_the_gap_is_of_losses_otherwise_and_also_positive_when_overfitting():
    finals = {"train/loss": 1.0, "val/loss": 3.0, "val_acc": 0.5}
    comparison = compare_runs([made("a", finals), made("b", {"val/loss": 3.0})])
    assert cells(comparison, "gap (loss)") == {
        "a": ComparisonCell(2.0, None, 1),
        "b": ComparisonCell(None, None, 0),
    }


def test_patterns_choose_columns_in_their_order():
    tags = ["val_loss", "val_acc", "effcx/transitions.segment", "effcx/transitions.circle"]
    tags += ["effcx_sites/a/relu", "effcx_seconds/a", "effcx/jacobian_norm"]
    runs = [made("a", dict.fromkeys(tags, 1.0))]
    chosen = {
        ("val_*", "transitions.*"): ["val_acc", "val_loss", *("transitions." + end for end in
                                     ("circle", "segment"))],
        ("effcx_seconds/*", "effcx_sites/*"): ["effcx_seconds/a", "effcx_sites/a/relu"],
        ("jacobian_norm", "*norm"): ["jacobian_norm"],
        ("effcx/jacobian_norm",): ["jacobian_norm"],
    }  # fmt: skip
    for patterns, expected in chosen.items():
        assert names(compare_runs(runs, metrics=patterns)) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("transitions/*", ["transitions.circle", "transitions.segment"]),
        ("effcx/transitions/segment", ["transitions.segment"]),
        ("effcx/norm_stderr", ["effcx_stderr/norm"]),
        ("effcx/seconds/*", ["effcx_seconds/norm"]),
        ("effcx/norm/at/*", ["effcx_sites/norm/relu"]),
        ("effcx/*", ["norm", "transitions.circle", "transitions.segment"]),  # as it is now
        ("*segment", ["transitions.segment"]),
    ],
)
def test_patterns_that_match_nothing_else_are_those_of_version_0_1(pattern, expected):
    tags = ["effcx/norm", "effcx/transitions.segment", "effcx/transitions.circle", "val_loss"]
    tags += ["effcx_stderr/norm", "effcx_sites/norm/relu", "effcx_seconds/norm"]
    runs = [made("a", dict.fromkeys(tags, 1.0))]
    assert names(compare_runs(runs, metrics=[pattern])) == expected


def test_rows_are_sorted_by_a_column_with_its_name_of_version_0_1_too():
    runs = [made(path, {"effcx/a.b": value}) for path, value in {"x": 2.0, "y": 1.0}.items()]
    for sort in ("a.b", "a/b"):
        rows = compare_runs(runs, sort=sort).rows
        assert [row.group.label for row in rows] == ["y", "x"]


def test_a_pattern_can_ask_for_the_gap():
    runs = [made("a", {"train_loss": 1.0, "val_loss": 3.0})]
    assert names(compare_runs(runs, metrics=["gap*"])) == ["gap (loss)"]


def test_a_pattern_that_matches_nothing_lists_what_there_is():
    tags = [
        "effcx/jacobian_norm",
        "effcx_sites/length/relu",
        "effcx_sites/length/relu_1",
        "val_loss",
    ]
    message = (
        r"^No metric matches 'fisher\*': "
        r"expected one of jacobian_norm, effcx_sites/length/\*, val_loss\.$"
    )
    with pytest.raises(ValueError, match=message):
        compare_runs([made("a", dict.fromkeys(tags, 1.0))], metrics=["val_*", "fisher*"])


# --- order


def test_rows_are_ordered_by_label_and_9_comes_before_10():
    runs = [made("a", lr=lr, width=width) for width in (10.0, 9.0) for lr in (0.1, 1e-05)]
    assert labels(compare_runs(runs)) == [
        "lr=1e-05, width=9",
        "lr=1e-05, width=10",
        "lr=0.1, width=9",
        "lr=0.1, width=10",
    ]


def test_sorting_puts_groups_without_a_value_last_both_ways():
    finals = {"a": 2.0, "b": math.nan, "c": 1.0, "e": 3.0}
    runs = [made(path, {"effcx/m": value}) for path, value in finals.items()] + [made("d")]
    assert labels(compare_runs(runs)) == ["a", "b", "c", "d", "e"]
    assert labels(compare_runs(runs, sort="m")) == ["c", "a", "e", "b", "d"]
    assert labels(compare_runs(runs, sort="-m")) == ["e", "a", "c", "b", "d"]


def test_sorting_by_an_unknown_column_lists_the_columns():
    message = r"^No column is named 'loss': expected one of val_loss, gap \(loss\)\.$"
    with pytest.raises(ValueError, match=message):
        compare_runs([made("a", {"val_loss": 1.0, "train_loss": 1.0})], sort="-loss")


def test_runs_from_disk_compare(tmp_path):
    for seed in range(2):
        for regularizer, value in (("l2", 1.0), ("none", 5.0)):
            folder = tmp_path / regularizer / f"seed_{seed}"
            finals = {"effcx/jacobian_norm": value + seed}
            write_finals(folder, finals, regularizer=regularizer, seed=seed)
    assert cells(compare_runs(load_runs(tmp_path)), "jacobian_norm") == {
        "regularizer=l2": ComparisonCell(1.5, math.sqrt(0.5), 2),
        "regularizer=none": ComparisonCell(5.5, math.sqrt(0.5), 2),
    }
