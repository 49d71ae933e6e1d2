"""Sites: one execution of one nonlinear operation, with its units for each sample.

The *units* of a site are the scalar pre-activations that enter it. A site is `piecewise linear`
(with the kinks at which a unit changes its linear piece, or a choice among inputs, as in max
pooling), a smooth `curve` of one pre-activation, or `other` (a softmax, a normalisation over
activations, a product of two activations).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_effcx.tracing.operators import Kind
from lightning_effcx.tracing.places import SamplePlace, by_sample


@dataclass(frozen=True, eq=False)
class Site:
    """One execution of one nonlinearity: its units for `n` samples.

    Attributes:
        name: The path of the module, or the path of the calling module and the operation
            (`layers.1.relu`), with `_2`, `_3`, ... for further executions.
        operation: The operator that ran there, by torch's own name, such as `relu`.
        kind: What sort of nonlinearity it is.
        z: The pre-activations, `(n, u)`.
        output: The result of the operation, of any shape.
        samples: How many samples `n` there are.
        place: Where the samples lie in `output`; `None` if that is not known, or if there is one.
        kinks: Where a unit changes its linear piece, in ascending order.
        choice: For a choice among inputs, the one that each unit chose, `(n, u)`.
        elements: For a choice among inputs, the number of inputs of a unit, at most.
        apply: For a curve that is the same for all units, the curve as a function of any tensor.
    """

    name: str
    operation: str
    kind: Kind
    z: Tensor
    output: Tensor
    samples: int
    place: SamplePlace | None = None
    kinks: tuple[float, ...] = ()
    choice: Tensor | None = None
    elements: int = 0
    apply: Callable[[Tensor], Tensor] | None = None

    @property
    def value(self) -> Tensor:
        """The post-activations, `(n, v)`."""
        value = by_sample(self.output, self.place, self.samples)
        if value is None:
            raise wrong_shape(self.name, self.output, self.samples)
        return value

    @property
    def is_batch_first(self) -> bool:
        """Whether the samples lie along the first dimension of `output`."""
        if self.samples == 1:
            return len(self.output) == 1
        return self.place == SamplePlace(-self.output.dim())

    def transitions(self) -> Tensor:
        """Count by how much the units' codes change from each sample to the next, `(n - 1,)`.

        The code of a unit is the number of kinks below its pre-activation, so that a hard tanh
        which goes from one saturation to the other counts twice. A choice changes or does not. A
        curve has no pieces: its code is the sign of its pre-activation.
        """
        if self.choice is not None:
            return (self.choice[1:] != self.choice[:-1]).sum(1)
        kinks = (0.0,) if self.kind == "curve" else self.kinks
        # No unit can be above one kink before it is above the lower ones: codes differ by as much
        # as the comparisons do.
        crossed = [(self.z[1:] > kink) != (self.z[:-1] > kink) for kink in kinks]
        return sum((c.sum(1) for c in crossed), torch.zeros_like(self.z[1:, 0], dtype=torch.long))


def wrong_shape(name: str, units: Tensor, n: int) -> ValueError:
    """Return the error of a site whose units cannot be told apart by samples."""
    return ValueError(
        f"site {name!r} has units of shape {tuple(units.shape)} for {n} samples, and it is not "
        "known which units belong to which sample: the network must treat samples independently, "
        "and keep them along one dimension."
    )
