r"""Activation patterns: in which linear piece each unit is, and how many samples share all of them.

The code of a unit at a sample is the number of kinks below its pre-activation: off or on for ReLU,
three codes for hard tanh. The code of a choice, such as max pooling, is the index of the winner.
All codes of a sample are its pattern, which identifies its activation region. `ActivationPatterns`
counts the different patterns of the samples: from 1, if one linear piece holds all samples, up to
the number of samples. At the upper end the count says no more, and `.saturated` is 1 instead of 0:
use more samples there, or the mean distance. The variants are

* `.saturated`: 1 if each sample has its own pattern, else 0;
* `.dead`: the units that are below their lowest kink for all samples; `.always_on`: above it;
* `.hamming`: how much the codes of two samples differ, summed over units, on average over all
  pairs. Choices are left out. It is 0 if all samples share a pattern, and half the number of units
  if ReLUs are on or off at random.

The number of patterns rises, and units die, as the units specialise in training. Rescaling a ReLU
unit, or any invertible affine map of the input, changes nothing. Curves have no codes and are left
out. A network that has only curves has no patterns. Cost: one forward pass.

Hanin, Rolnick, "Deep ReLU Networks Have Surprisingly Few Activation Patterns", NeurIPS 2019. They
count patterns in space; here they are counted among samples. Patterns are compared by a hash of 64
bits: with a million patterns, the chance that any two get the same hash is below one in a thousand.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.metrics.measurement import Measurement
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.metrics.scoring import Batch
from lightning_effcx.network import Network, select_samples
from lightning_effcx.tracing import Site, listen, without_units

T = TypeVar("T")


def activation_patterns(network: Network, x: Float[Tensor, "n ..."]) -> Int[Tensor, "n u"]:
    """Return the code of each unit that has kinks or is a choice; not differentiable.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, each sample independently.
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
    """Return the result of `look` for each site with codes; raise if there is none."""

    def sort(site: Site) -> tuple[T] | str:
        return (look(site),) if site.kind == "piecewise linear" else site.operation

    with torch.no_grad():
        sites = listen(network, x, sort).sites
    found = [seen[0] for seen in sites.values() if isinstance(seen, tuple)]
    if not found:
        raise without_units("a kink", sites)
    return found


def _above(site: Site) -> Tensor:
    """Tell whether each unit is above each kink, `(n, kinks, u)`."""
    return torch.stack([site.z > kink for kink in site.kinks], 1)


class ActivationPatterns(NetworkMetric):
    """The number of different `activation_patterns` among the samples, and statistics of the units.

    Memory grows with the samples by one number for each: the hash of its pattern.

    Args:
        **kwargs: `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    name = "activation_patterns"

    hashes: list[Tensor]
    above: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # The numbers of kinks and units of each site, except choices.
        self.shapes: tuple[tuple[int, int], ...] = ()
        self.add_state("hashes", default=[], dist_reduce_fx="cat")
        self.add_state("above", default=[], dist_reduce_fx="cat")

    def observe(self, network: Network, batch: Batch) -> None:
        for part in self.shard.chunks(len(batch.x), self.rows_at_once(batch.x)):
            self._add(select_samples(network, part), batch.x[part])

    def _add(self, network: Network, x: Tensor) -> None:
        # All batches, devices and processes need the same factors, so that hashes are comparable.
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

    def measurement(self) -> Measurement:
        hashes = dim_zero_cat(self.hashes)
        samples, distinct = len(hashes), len(hashes.unique())
        variants = {".saturated": float(distinct == samples)}
        if self.shapes:
            variants |= self._of_units(samples)

        measured = partial(Measurement.of, device=hashes.device)
        return replace(
            measured(distinct),
            variants={ending: measured(value) for ending, value in variants.items()},
        )

    def _of_units(self, samples: int) -> dict[str, float]:
        """Count dead and always-on units, and average the distance of two samples."""
        above = dim_zero_cat(self.above).sum(0)  # number of samples, by site, kink and unit
        sites = above.split([kinks * units for kinks, units in self.shapes])
        lowest = torch.cat([s[:units] for s, (_, units) in zip(sites, self.shapes, strict=True)])
        found = {
            ".dead": float((lowest == 0).sum()),
            ".always_on": float((lowest == samples).sum()),
        }
        if samples > 1:
            differing = (above * (samples - above)).sum()  # pairs of one above and one below
            found[".hamming"] = float(differing) * 2 / (samples * (samples - 1))
        return found
