"""Measurement: what a metric found, as an object."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_effcx.tags import Tag, variant_of


@dataclass(frozen=True, eq=False)
class Measurement:
    """The result of a metric. All values are scalars.

    Attributes:
        value: The value of the measure.
        stderr: Its standard error; `None` where it has none.
        variants: Further statistics, each with its own standard error. The key is the ending that
            follows the metric's name, such as `.probabilities` or `_share`.
        sites: The value at each site that has one.

    Example:
        >>> found = Measurement(torch.tensor(2.0), sites={"relu": torch.tensor(1.0)})
        >>> [str(tag) for tag in found.tagged("transitions.segment")]
        ['effcx/transitions.segment', 'effcx_sites/transitions.segment/relu']
    """

    value: Tensor
    stderr: Tensor | None = None
    variants: Mapping[str, "Measurement"] = field(default_factory=dict)
    sites: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, value: float, stderr: float | None = None, *, device: torch.device
    ) -> "Measurement":
        """Make a measurement of plain numbers."""
        error = None if stderr is None else torch.tensor(float(stderr), device=device)
        return cls(torch.tensor(float(value), device=device), error)

    @classmethod
    def mean(cls, scores: Tensor) -> "Measurement":
        """Return the mean of scores `(n,)`, with its standard error if there are at least two."""
        if len(scores) < 2:  # noqa: PLR2004 one score has no spread
            return cls(scores.mean())
        return cls(scores.mean(), scores.std() / len(scores) ** 0.5)

    def scalars(self, name: str) -> dict[str, Tensor]:
        """Return all values by their keys in the dictionary that a metric's `compute` returns.

        Args:
            name: The name of the metric.
        """
        return {tag.key: value for tag, value in self.tagged(name).items()}

    def tagged(self, name: str) -> dict[Tag, Tensor]:
        """Return all values by tag.

        Args:
            name: The name of the metric in the tags.
        """
        found = {Tag(name): self.value}
        if self.stderr is not None:
            found[Tag(name, "stderr")] = self.stderr
        for ending, variant in self.variants.items():
            found |= variant.tagged(variant_of(name, ending))
        return found | {Tag(name, "site", site): value for site, value in self.sites.items()}
