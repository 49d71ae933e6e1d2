"""Studies write what the tests of `effcx compare` read, under names that no measure has."""

import json

from study_folders import emc, mimic, student, write_study

from lightning_effcx import metrics
from lightning_effcx.compare import load_studies
from lightning_effcx.studies import EMCRow, EMCStudy, MimicStudy
from lightning_effcx.studies.mimic_result import MimicRow
from lightning_effcx.tags import Tag, check_name, parse

ERRORS = {8: (0.0, 0.5), 16: (0.25, 0.5)}


def test_a_study_of_the_complexity_writes_what_the_tests_of_reading_take_for_one():
    rows = tuple(EMCRow(n, train, None, test, None, 1) for n, (train, test) in ERRORS.items())
    for upper in (16, None):
        found = EMCStudy(8, (0, upper), 0.1, rows, monotone=True, failures={})
        assert json.loads(found.as_json()) == emc(8, ERRORS, upper=upper)


def test_a_study_of_students_writes_what_the_tests_of_reading_take_for_one():
    known = {"r2": 1.0, "agreement": 1.0, "error": "one training failed"}
    found = MimicStudy((MimicRow(8, **known), MimicRow(parameters=9)), 0.05)
    assert json.loads(found.as_json()) == mimic(student(8, **known), size=8)


def test_the_tags_of_studies_are_names_that_no_measure_has(tmp_path):
    row = student(8, r2=1.0, agreement=1.0, accuracy=1.0, accuracy_on_labels=1.0)
    known = mimic(row, size=8)
    write_study(tmp_path / "emc", "emc", emc(8, ERRORS))
    write_study(tmp_path / "mimic", "mimic", known)
    tags = [tag for run in load_studies(tmp_path) for tag in run.curves]
    assert len(tags) == 8
    for tag in tags:
        name = parse(tag).name
        check_name(name)
        assert parse(tag) == Tag(name)
    live = {getattr(getattr(metrics, name), "name", "") for name in metrics.__all__}
    assert {"mimic_gap", "training_error"} <= live
    # What torchmetrics call emc is the same number.
    assert {parse(tag).name.partition(".")[0] for tag in tags} & live == {"emc"}
