import csv
import io
import json
import math

import pytest
from event_files import made
from rich.console import Console

from lightning_effcx.compare import Curve, Run, compare_runs
from lightning_effcx.compare.formats import as_csv, as_json, as_table, width_of


def printed(comparison, width=1000):
    console = Console(width=width, file=io.StringIO())
    console.print(as_table(comparison, width))
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.123456], "0.1235"),
        ([0.94], "0.9400"),
        ([3.0], "3.000"),
        ([999.97], "1000"),
        ([9999.7], "10000"),
        ([-123456.7], "-123457"),
        ([1.5e-7], "1.500e-07"),
        ([2e9], "2.000e+09"),
        ([0.0], "0.000"),
        ([math.nan, 1.0], "nan"),
        ([math.inf], "inf"),
        ([1e200, 2e200], "1.500e+200"),  # whose spread overflows
        ([12.0, 12.5, 13.0], "12.50 ± 0.50"),
        ([18.4, 21.0, 19.7], "19.7 ± 1.3"),
        ([0.9369, 0.94, 0.9431], "0.9400 ± 0.0031"),
        ([9.0, 10.0, 10.98], "9.99 ± 0.99"),
        ([9.004, 10.0, 10.996], "10.0 ± 1.0"),  # 0.996
        ([123456.7, 123457.7], "123457.20 ± 0.71"),
        ([1000.0, 3000.0], "2000 ± 1400"),
        ([-1.1, 0.9], "-0.1 ± 1.4"),
        ([-1.001, 1.0], "0.0 ± 1.4"),  # not -0.0
        ([1e-7, 2e-7], "(1.50 ± 0.71)e-07"),
        ([1e9, 2e9], "(1.50 ± 0.71)e+09"),
        ([2.5, 2.5], "2.500 ± 0"),
        ([0.0, 0.0], "0.000 ± 0"),
        ([0.1, 0.1, 0.1], "0.1000 ± 0"),  # 1.7e-17 by the arithmetic of floats
    ],
)
def test_means_are_as_precise_as_their_spread_justifies(values, expected):
    runs = [made(f"seed_{i}", {"effcx/m": value}) for i, value in enumerate(values)]
    (row,) = [line for line in printed(compare_runs(runs)).splitlines() if "│ ." in line]
    assert row.split("│")[3].strip() == expected


NAMES = [
    "fisher_rao_norm",
    "jacobian_norm.probabilities",
    "transitions.segment",
    "val_loss",
    "val_acc",
]


@pytest.fixture
def wide():
    """Five groups of two runs, in rows of 143 characters."""
    tags = [name if name.startswith("val") else f"effcx/{name}" for name in NAMES]
    return compare_runs(
        [
            made(
                f"{label}/seed_{seed}",
                {tag: 10.0**-place + seed / 900 for place, tag in enumerate(tags)},
                regularizer=label,
            )
            for label in ("dropout", "jacobian", "l1", "l2", "none")
            for seed in range(2)
        ]
    )


def content(text):
    """Words of every row, without the frame."""
    rows = [line.replace("┃", "│").split("│")[1:-1] for line in text.splitlines()]
    return [[cell.strip() for cell in row] for row in rows if row]


def test_a_table_has_a_row_per_group_where_it_fits(wide):
    header, *rows = content(printed(wide, 143))
    assert header == ["group", "runs", *NAMES]
    assert [row[0] for row in rows] == [f"regularizer={it}" for it in
                                        ("dropout", "jacobian", "l1", "l2", "none")]  # fmt: skip
    assert rows[0][2:] == [
        "1.00056 ± 0.00079",
        "0.10056 ± 0.00079",
        "0.01056 ± 0.00079",
        "0.00156 ± 0.00079",
        "0.00066 ± 0.00079",
    ]


def test_a_table_has_a_column_per_group_where_rows_do_not_fit(wide):
    header, *rows = content(printed(wide, 142))
    assert header == ["regularizer=", "dropout", "jacobian", "l1", "l2", "none"]
    assert [row[0] for row in rows] == ["runs", *NAMES]
    assert rows[1][1:] == ["1.00056 ± 0.00079"] * 5


def test_names_and_numbers_are_folded_where_columns_do_not_fit_otherwise(wide):
    text = printed(wide, 90)
    assert max(map(len, text.splitlines())) <= 90
    assert content(text)[2:6] == [
        ["fisher_rao_norm", *["1.00056"] * 5],
        ["", *["± 0.00079"] * 5],
        ["jacobian_norm.", *["0.10056"] * 5],
        ["probabilities", *["± 0.00079"] * 5],
    ]


def test_a_table_that_fits_neither_way_has_a_row_per_group_in_full(wide):
    table = as_table(wide, 40)
    assert width_of(table) == 143
    assert width_of(as_table(wide, 1000)) == 143


@pytest.mark.parametrize("width", [25, 35, 45, 60, 90, 200])
def test_no_number_is_cut_at_any_width(wide, width):
    table = as_table(wide, width)
    console = Console(width=width_of(table), file=io.StringIO())
    console.print(table)
    assert console.file.getvalue().count("0.10056") == 5
    assert console.file.getvalue().count("± 0.00079") == 25
    assert "…" not in console.file.getvalue()


def test_long_labels_fold_in_headers():
    runs = [
        made(f"{name}/seed_0", {f"effcx/measure_{i}": 1.0 for i in range(9)})
        for name in ("first_of_the_groups", "second_of_the_groups")
    ]
    lines = content(printed(compare_runs(runs), 40))
    for place, label in ((1, "first_of_the_groups"), (2, "second_of_the_groups")):
        assert "".join(line[place] for line in lines[: lines.index(["runs", "1", "1"])]) == label


@pytest.mark.parametrize(
    ("paths", "caption"),
    [
        (["a/seed_0", "b/seed_0"], "last values"),
        (
            ["a/seed_0", "b/seed_0", "b/seed_1"],
            "mean ± standard deviation over runs, of last values",
        ),
    ],
)
def test_the_caption_speaks_of_deviations_where_a_group_has_several_runs(paths, caption):
    runs = [made(path, {f"effcx/measure_{i}": 1.0 for i in range(4)}) for path in paths]
    assert printed(compare_runs(runs)).splitlines()[-1].strip() == caption


def test_a_table_shows_brackets_as_they_are():
    runs = [made("a", {"effcx/m": 1.0}, data="[bold]"), made("a", {"effcx/m": 1.0}, data="[/]")]
    assert "data=[bold]" in printed(compare_runs(runs))
    assert "data=[/]" in printed(compare_runs(runs))
    across = printed(compare_runs(runs, metrics=["m", "effcx/m"]), 28)
    assert "[bold]" in across


def test_a_lower_bound_is_shown_as_one_and_without_a_spread():
    values = {
        "seed_0": Curve((0,), (512.0,), along="", at_least=True),
        "seed_1": Curve((0,), (64.0,)),
    }
    runs = [Run(path, {}, {"effcx/m": curve}) for path, curve in values.items()]
    (row,) = [line for line in printed(compare_runs(runs)).splitlines() if "│ ." in line]
    assert row.split("│")[3].strip() == "≥ 288.0"


def test_csv_has_every_digit_and_leaves_missing_values_empty():
    runs = [made("a/seed_0", {"effcx/m": 1 / 3, "val_loss": math.nan}), made("b,c")]
    text = as_csv(compare_runs(runs))
    assert text.splitlines()[0] == "group,runs,m,m_std,val_loss,val_loss_std"
    assert list(csv.reader(io.StringIO(text)))[1:] == [
        ["a", "1", "0.3333333333333333", "", "nan", ""],
        ["b,c", "1", "", "", "", ""],
    ]


def test_json_is_strict_and_says_what_went_into_a_group():
    runs = [
        made("a/seed_0", {"effcx/m": 1.0, "val_loss": math.inf}, lr=math.nan, seed=0.0),
        made("a/seed_1", {"effcx/m": 3.0, "val_loss": 1.0}, lr=math.nan, seed=1.0),
    ]

    def refuse(constant):
        pytest.fail(f"{constant} is no JSON")

    assert json.loads(as_json(compare_runs(runs)), parse_constant=refuse) == [
        {
            "label": "a",
            "runs": ["a/seed_0", "a/seed_1"],
            "hparams": {"lr": None},
            "columns": {
                "m": {"mean": 2.0, "std": math.sqrt(2.0), "n": 2},
                "val_loss": {"mean": None, "std": None, "n": 2},
            },
        }
    ]
