"""Exact measures of random architectures against the certificate; `EFFCX_ARCHITECTURES=1000`."""

import os

import pytest
from random_architectures import draw_architecture, plain
from tallies import Tally
from verdicts import judge

COUNT = int(os.environ.get("EFFCX_ARCHITECTURES", "100"))
_EACH = 25  # of a test, so that `--dist=load` can spread them


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch, on in-place forms and scripted parts
@pytest.mark.parametrize("first", range(0, COUNT, _EACH))
def test_measures_of_random_architectures_are_right_or_refused(first, capsys):
    tally = Tally("architectures")
    for seed in range(first, min(first + _EACH, COUNT)):
        network, path, x = draw_architecture(seed)
        exact = plain(network)
        # Every third is in float32, to be measured in float64.
        verdicts = judge(
            exact, path, x, codes=exact.codes, measured=network if seed % 3 == 0 else exact
        )
        tally.add(f"seed {seed} ({', '.join(network.names)})", list(verdicts))
    with capsys.disabled():
        print(f"\n{tally}")  # noqa: T201 the result
    assert tally.bad == []
