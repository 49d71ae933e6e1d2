import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def _only_computing():
    """Leave the shapes unchecked, which takes as long as a small network."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
