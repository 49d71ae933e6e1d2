"""Exact measures around each of torch's operators against the certificate.

By default one sample input of each operator, in one form. `EFFCX_OPERATOR_SAMPLES=8` takes up to
so many sample inputs, in all forms. `--dist=load` spreads the parts over processes.
"""

import os
from itertools import islice

import pytest
import torch
from operator_networks import FORMS, draw, name_of, networks_of, operators, samples_of
from tallies import Tally
from verdicts import is_function_of_samples, judge

SAMPLES = int(os.environ.get("EFFCX_OPERATOR_SAMPLES", "0"))
_PARTS = 16
_MOST = 1000  # outputs: each costs a pass of the Jacobian
EFFORT = {} if SAMPLES else {"directions": 12, "points": 4}
_SHORT = ("vmap between kinks", "batched between kinks")
_PARTS = 16
_MOST = 1000  # outputs: each costs a pass of the Jacobian
EFFORT = {} if SAMPLES else {"directions": 12, "points": 4}


def cases(number, operator):
    """Yield the networks around an operator that torch can run, with their names."""
    forms = tuple(FORMS) if SAMPLES else _SHORT[:: -1 if number % 2 else 1]
    x, _ = draw(number)
    torch.manual_seed(number)  # the sample inputs are random
    for index, sample in enumerate(samples_of(operator, SAMPLES or 1)):
        for form, network in networks_of(operator, sample, number, forms):
            torch.manual_seed(1)
            is_network = is_function_of_samples(network, x.flatten(0, 1)) is not None
            if is_network and network(x[0, :1]).shape[1] <= _MOST:
                yield f"{name_of(operator)} {index} {form}", network


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch, on operators of yesterday
@pytest.mark.parametrize("part", range(_PARTS))
def test_measures_around_each_operator_are_right_or_refused(part, capsys):
    pytest.importorskip("expecttest", reason="torch's own list of operators needs it")
    tally = Tally("networks")
    seen = set()
    for number, operator in list(enumerate(operators()))[part::_PARTS]:
        for name, network in islice(cases(number, operator), None if SAMPLES else 1):
            seen.add(name_of(operator))
            tally.add(name, list(judge(network, *draw(number), **EFFORT)))
    with capsys.disabled():
        print(f"\n{len(seen)} operators, {tally}")  # noqa: T201 the result
    assert tally.bad == []
