import inspect
from importlib import import_module
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from shape_checks import declares

import lightning_effcx
from lightning_effcx.paths import segment

ROOT = Path(lightning_effcx.__file__).parent


def test_a_wrong_shape_fails_a_test():
    with pytest.raises(TypeCheckError, match=r"checking the parameters of .*paths\.segment"):
        segment(torch.zeros(2, 3), torch.zeros(3, 3), points=2)


@pytest.mark.parametrize("file", [str(f.relative_to(ROOT)) for f in sorted(ROOT.rglob("*.py"))])
def test_functions_are_wrapped_if_they_declare_shapes(file):
    name = ".".join(["lightning_effcx", *Path(file).with_suffix("").parts])
    for function in vars(import_module(name)).values():
        if inspect.isfunction(function) and function.__module__ == name:
            decorated = inspect.unwrap(function)
            wrapped = hasattr(function, "__wrapped__")
            assert wrapped or not declares(decorated), function
