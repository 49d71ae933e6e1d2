"""What torch's operators are to a measure.

Each file holds one thing:

* `calls`: one call of an operator, with its arguments by name;
* `affine_rules`: for which calls an operator is affine;
* `batch_rules`: for which calls each sample of a batch stays by itself;
* `table`: the table, which says of each operator which rules hold, and how it bends;
* `operation`: what one call that is not affine does, read from the table.
"""

from lightning_effcx.tracing.operators.calls import OperatorCall, tensors
from lightning_effcx.tracing.operators.operation import (
    Kind,
    Operation,
    check_continuous,
    nonlinearity,
)
from lightning_effcx.tracing.operators.table import (
    TABLE,
    Choice,
    Operator,
    keeps_samples_apart,
    operator_of,
)

__all__ = [
    "TABLE",
    "Choice",
    "Kind",
    "Operation",
    "Operator",
    "OperatorCall",
    "check_continuous",
    "keeps_samples_apart",
    "nonlinearity",
    "operator_of",
    "tensors",
]
