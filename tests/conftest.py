"""What holds for all tests. It imports neither torch nor matplotlib: many tests need neither."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings
from shape_checks import sparing
from torch_settings import seed_if_imported, settle_when_imported

settle_when_imported()
jaxtyping.jaxtyped = sparing(jaxtyping.jaxtyped)  # which the import hook calls by this name
os.environ["MPLBACKEND"] = "Agg"  # matplotlib reads it when it is imported
settings.register_profile("effcx", max_examples=20, deadline=None, derandomize=True)
settings.load_profile("effcx")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two for folders; what is named file by file runs right here, and benchmarks run alone."""
    folders = any(Path(argument).is_dir() for argument in config.args)
    benchmarks = re.search("(?<!not )benchmark", config.option.markexpr)
    return 2 if folders and not benchmarks else 0


def pytest_collectstart() -> None:
    """Draw the same numbers in each file, which are in names of tests, in whatever order."""
    seed_if_imported()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    seed_if_imported()


@pytest.fixture
def _float64() -> Iterator[None]:
    import torch  # noqa: PLC0415 only tests that compute use this

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
