"""Measurement: what a metric found, as an object."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_effcx.metrics.error_bars import BAR, share_bounds, standard_error
from lightning_effcx.tags import Tag, bounds_of, variant_of


@dataclass(frozen=True, eq=False)
class Measurement:
    """The result of a metric. All values are scalars.

    Attributes:
        value: The value of the measure.
        stderr: Its standard error, widened for few draws; `None` where it has none.
        variants: Further statistics, each with its own standard error. The key is the ending that
            follows the metric's name, such as `.probabilities` or `_share`.
        sites: The value at each site that has one.
        bounds: The lower and the upper bound of a value whose error bar is not symmetric, such as a
            share. They are logged as variants of their own.

    Example:
        >>> found = Measurement(torch.tensor(2.0), sites={"relu": torch.tensor(1.0)})
        >>> [str(tag) for tag in found.tagged("transitions.segment")]
        ['effcx/transitions.segment', 'effcx_sites/transitions.segment/relu']
    """

    value: Tensor
    stderr: Tensor | None = None
    variants: Mapping[str, "Measurement"] = field(default_factory=dict)
    sites: Mapping[str, Tensor] = field(default_factory=dict)
    bounds: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(
        cls, value: float, stderr: float | None = None, *, device: torch.device
    ) -> "Measurement":
        """Make a measurement of plain numbers."""
        error = None if stderr is None else torch.tensor(float(stderr), device=device)
        return cls(torch.tensor(float(value), device=device), error)

    @classmethod
    def mean(cls, scores: Tensor, samples: Tensor | None = None) -> "Measurement":
        """Return the mean of scores `(n,)`, with its standard error if there are at least two.

        Args:
            scores: The scores.
            samples: As in `standard_error`.
        """
        return cls(scores.mean(), standard_error(scores, samples))

    @classmethod
    def share(cls, holds: Tensor, samples: int | None = None) -> "Measurement":
        """Return the share of samples that have a property, with bounds if there are at least two.

        The standard error belongs to the middle between the bounds. It is never 0.

        Args:
            holds: Whether each sample has the property, 1 or 0, `(n,)`.
            samples: How many different samples there are, if some are counted several times.
        """
        share = holds.mean()
        samples = len(holds) if samples is None else samples
        if samples < 2:  # noqa: PLR2004 one sample tells next to nothing
            return cls(share)
        low, high = (share.new_tensor(bound) for bound in share_bounds(float(share), samples))
        return cls(share, (high - low) / (2 * BAR), bounds=(low, high))

    @property
    def interval(self) -> tuple[Tensor, Tensor] | None:
        """The bounds that hold the value of the population in 95 % of all cases, if known."""
        if self.bounds is not None or self.stderr is None:
            return self.bounds
        return self.value - BAR * self.stderr, self.value + BAR * self.stderr

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
        if self.bounds is not None:
            found |= zip(map(Tag, bounds_of(name)), self.bounds, strict=True)
        for ending, variant in self.variants.items():
            found |= variant.tagged(variant_of(name, ending))
        return found | {Tag(name, "site", site): value for site, value in self.sites.items()}
