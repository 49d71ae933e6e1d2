from collections.abc import Iterator

import jaxtyping
import matplotlib as mpl
import pytest
import torch
from hypothesis import settings
from shapes import sparing

jaxtyping.jaxtyped = sparing(jaxtyping.jaxtyped)  # which the import hook calls by this name
mpl.use("Agg")
torch.set_num_threads(1)  # in networks this small, threads only wait for each other
settings.register_profile("effcx", max_examples=20, deadline=None, derandomize=True)
settings.load_profile("effcx")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
