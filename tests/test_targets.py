import pytest
import torch

from lightning_effcx.network.inputs import Target, target_in
from lightning_effcx.targets import classes_of

X, Y = torch.zeros(3, 2), torch.tensor([0, 2, 1])


def test_classes_are_whole_numbers_one_per_sample():
    assert classes_of(Y) is Y
    message = r"expected targets that are classes, .*, got none: choose measures and paths that n"
    with pytest.raises(ValueError, match=message):
        classes_of(None)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_classes_in_a_column_are_classes(dtype):
    assert torch.equal(classes_of(Y[:, None].to(dtype)), Y)


@pytest.mark.parametrize("y", [Y.float(), Y[:, None].float(), Y.expand(2, 3), Y.cfloat()])
def test_other_targets_are_none(y):
    shown = str(tuple(y.shape)).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(
        ValueError, match=rf"of shape \(n,\) or \(n, 1\), got a {y.dtype} of shape {shown}: choose"
    ):
        classes_of(y)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((X, Y), "classes from the second part of the batch"),
        ({"x": X, "label": Y[:, None]}, "classes from `label`"),
        ({"x": X, "y": X}, "values from `y`"),
        ({"x": X, "z": Y}, "no targets"),
        (X, "no targets"),
        ((X, Y[:2]), "no targets"),
    ],
)
def test_it_is_said_where_targets_are_from_and_what_they_are(batch, words):
    assert target_in(batch, 3).words() == words


def test_of_other_processes_it_is_not_known_where_their_targets_are_from():
    assert Target(Y, "").words() == "classes"
    assert Target(X, "").words() == "values"
    assert Target(None, "`y`").words() == "no targets"
