r"""Activation patterns: which linear piece each unit is in, and how often samples share them all.

The code of a unit at a sample is the number of kinks below its pre-activation: off or on for ReLU,
three for hard tanh; of a choice, such as max pooling, the index of the winner. All codes of a
sample are its pattern, which tells its activation region. `ActivationPatterns` counts the distinct
patterns among the samples, between 1, for a linear piece that holds all data, and their number.
Where every sample has its own pattern the count says no more than that: it is `.saturated`, 1 or 0,
and more samples, or their mean distance, tell networks apart. Beside it:

* `.dead`: units that stay below their lowest kink for all samples; `.always_on`: that stay above.
* `.hamming`: by how much the codes of two different samples differ on average over all pairs,
  summed over units; choices are left out. 0 where all samples share a pattern, and half the number
  of units where ReLUs are on or off at random.

Distinct patterns rise, and units die, as training specialises them. Rescaling a ReLU unit, and
every invertible affine map of the input, change nothing. Curves have no codes and are left out; of
a network with curves only there are no patterns. Cost: one forward pass.

Hanin, Rolnick, "Deep ReLU Networks Have Surprisingly Few Activation Patterns", NeurIPS 2019. There
patterns are counted in space, here among samples. Rows are compared by a hash of 64 bits: two of a
million different patterns are taken for one with a chance of less than one in a thousand.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.network import Network, observing, select_samples
from lightning_effcx.tracing import Site, listen, without_units

T = TypeVar("T")


def activation_patterns(network: Network, x: Float[Tensor, "n ..."]) -> Int[Tensor, "n u"]:
    """Code of every unit that has kinks or chooses, at each sample; not differentiable.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently.
        x: The samples.

    Example:
        >>> x = torch.tensor([[-2.0, 0.5], [0.5, 3.0]])
        >>> activation_patterns(torch.nn.Hardtanh(), x)  # kinks at -1 and 1
        tensor([[0, 1],
                [1, 2]])
    """
    check_samples(network, x)

    def codes(site: Site) -> Tensor:
        return _above(site).long().sum(1) if site.choice is None else site.choice

    return torch.cat(_of_sites_with_codes(network, x, codes), 1)


def _of_sites_with_codes(network: Network, x: Tensor, look: Callable[[Site], T]) -> list[T]:
    """Return what `look` makes of each site that has codes, or say why there is none."""

    def sort(site: Site) -> tuple[T] | str:
        return (look(site),) if site.kind == "piecewise linear" else site.operation

    with torch.no_grad():
        sites = listen(network, x, sort).sites
    found = [seen[0] for seen in sites.values() if isinstance(seen, tuple)]
    if not found:
        raise without_units("a kink", sites)
    return found


def _above(site: Site) -> Tensor:
    """Whether each unit is above each kink, `(n, kinks, u)`."""
    return torch.stack([site.z > kink for kink in site.kinks], 1)


class ActivationPatterns(NetworkMetric):
    """Distinct `activation_patterns` among the samples seen, and what units do in them.

    Nothing grows with the samples but one number for each: the hash of its pattern.

    Args:
        **kwargs: `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    name = "activation_patterns"

    hashes: list[Tensor]
    above: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # How many kinks and units each site has whose units are counted.
        self.shapes: tuple[tuple[int, int], ...] = ()
        self.add_state("hashes", default=[], dist_reduce_fx="cat")
        self.add_state("above", default=[], dist_reduce_fx="cat")

    def update(self, network: Network, x: Tensor, y: Tensor | None = None) -> None:
        """Take the patterns of the samples `x`, `(n, ...)`, under the network as it is now."""
        del y
        with observing(network):
            x, mine = x.detach().clone(), self.shard(torch.arange(len(x)))
            for part in mine.split(self.rows_at_once(x)) if len(mine) else ():
                self._add(select_samples(network, part), x[part])

    def _add(self, network: Network, x: Tensor) -> None:
        # The same factors for every batch, device and process.
        generator = torch.Generator().manual_seed(0)

        def take(site: Site) -> tuple[Tensor, Tensor | None]:
            if site.choice is None:
                above = _above(site).long()
                codes, counts = above.sum(1), above.sum(0)  # (n, u) and (kinks, u)
            else:
                codes, counts = site.choice, None
            lowest, most = torch.iinfo(torch.long).min, torch.iinfo(torch.long).max
            factors = torch.randint(lowest, most, codes.shape[1:], generator=generator)
            return (codes * factors.to(codes.device)).sum(1), counts  # modulo 2^64

        hashes, counts = zip(*_of_sites_with_codes(network, x, take), strict=True)
        counted = [count for count in counts if count is not None]
        self.shapes = tuple((kinks, units) for kinks, units in (c.shape for c in counted))
        self.hashes = [*self.hashes, torch.stack(hashes).sum(0)]
        if counted:
            self.above = [sum(self.above, torch.cat([c.flatten() for c in counted])[None])]

    def compute(self) -> dict[str, Tensor]:
        """Distinct patterns, whether they saturate, dead and always-on units, mean distance."""
        hashes = dim_zero_cat(self.hashes)
        samples, distinct = len(hashes), len(hashes.unique())
        found = {"": float(distinct), ".saturated": float(distinct == samples)}
        if self.shapes:
            above = dim_zero_cat(self.above).sum(0)  # how many samples, by site, kink and unit
            sites = above.split([kinks * units for kinks, units in self.shapes])
            lowest = torch.cat(
                [s[:units] for s, (_, units) in zip(sites, self.shapes, strict=True)]
            )
            found[".dead"] = float((lowest == 0).sum())
            found[".always_on"] = float((lowest == samples).sum())
            if samples > 1:
                differing = (above * (samples - above)).sum()  # ordered pairs, one above, one not
                found[".hamming"] = float(differing) * 2 / (samples * (samples - 1))
        return {
            self.name + suffix: torch.tensor(value, device=hashes.device)
            for suffix, value in found.items()
        }
