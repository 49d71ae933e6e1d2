import re
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import matplotlib as mpl
import pytest
import torch
from hypothesis import settings
from shape_checks import sparing

jaxtyping.jaxtyped = sparing(jaxtyping.jaxtyped)  # which the import hook calls by this name
mpl.use("Agg")
torch.set_num_threads(1)  # in networks this small, threads only wait for each other
torch.manual_seed(0)  # what modules draw is in names of tests, which all processes must agree on
settings.register_profile("effcx", max_examples=20, deadline=None, derandomize=True)
settings.load_profile("effcx")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two for folders; what is named file by file runs right here, and benchmarks run alone."""
    folders = any(Path(argument).is_dir() for argument in config.args)
    benchmarks = re.search("(?<!not )benchmark", config.option.markexpr)
    return 2 if folders and not benchmarks else 0


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
