"""What torch's operators are to a measure.

Each file holds one thing:

* `calls`: one call of an operator, with its arguments by name;
* `affine_rules`: for which calls an operator is affine;
* `batch_rules`: for which calls each sample of a batch stays by itself;
* `rows`: what can be said of one operator;
* `table`: the table, which says it of each operator;
* `operation`: what one call that is not affine does, read from the table.
"""

from lightning_effcx.tracing.operators.calls import (
    OperatorCall,
    only_reshapes,
    returns_views,
    tensors,
)
from lightning_effcx.tracing.operators.operation import (
    Kind,
    Operation,
    check_continuous,
    nonlinearity,
)
from lightning_effcx.tracing.operators.rows import Choice, Operator
from lightning_effcx.tracing.operators.table import TABLE, keeps_samples_apart, operator_of

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
    "only_reshapes",
    "operator_of",
    "returns_views",
    "tensors",
]
