r"""Amplification: by how much an error at a unit's output may move the outputs, to first order.

The amplification of a unit is the sum, over all paths from its output to the outputs of the
network, of the product of the absolute weights along the path and of the mean absolute slopes of
the units that it passes, divided by the number $c$ of outputs. Means are over samples. For fully
connected layers $h_i = \phi(V_i h_{i-1} + b_i)$ it is the row vector
$\frac{1}{c} 1^T |V_o| \prod_{q=L}^{i+1} \mathrm{diag}(E|\phi'(z_q)|) |V_q|$.

For any graph of operations, the paths are those that back-propagation takes: one pass records the
slopes at all samples; another, of one sample and with absolute parameters and buffers, records a
graph, through which the derivatives go back with every operation's contribution made absolute, and
with those of the sites replaced by the mean of what they are at the samples. Of a parametrised
weight, such as that of a weight norm, what is absolute is its parameters; constants that are
neither parameters nor buffers count as absolute where they stand for one unit each.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_effcx.network import Network, differentiating, owner_of, replacing_tensors, state_of
from lightning_effcx.tracing import Site, listen


def error_amplification(network: Network, x: Tensor, *, chunk: int = 1024) -> dict[str, Tensor]:
    """Return the amplification of each unit, `(u,)`, by the name of the site.

    Args:
        network: A module, or a bound method of one, since its parameters are made absolute; maps
            `(n, ...)` to `(n, k)`, treating samples independently.
        x: The samples that slopes are averaged over.
        chunk: Rows that the network evaluates at once.
    """
    absolute = _absolute(network)
    with differentiating(), torch.enable_grad():
        sites, needed = _slopes(network, x, chunk)
        found = {name: torch.zeros(0) for name in sites}
        instead: dict[Any, Callable[..., Any]] = {}
        names = iter(sites)  # in order, since the wrapped modules have other names

        def hear(site: Site) -> None:
            name = next(names, "")
            if name not in sites:
                raise ValueError(
                    "the network does other things with absolute weights than with its own: use "
                    "error='measured'."
                )
            found[name] = torch.zeros_like(site.output).flatten()
            index = site.output.output_nr

            def back(given: Any, arriving: Any) -> Any:
                found[name] = arriving[index].flatten()
                return sites[name].back(given, arriving[index], len(arriving), index)

            instead[site.output.grad_fn] = back

        one = x[:1].detach().clone().requires_grad_()
        y = listen(absolute, one, hear).outputs
        with _hooked(y.grad_fn, instead):
            # All the way, as nodes that are asked from within would else answer for wanted ones.
            y.backward(torch.full_like(y, 1 / y.shape[1]))
    return {name: found[name] for name in needed}


def _absolute(network: Network) -> Network:
    """Return the network with absolute parameters and buffers."""
    owner = owner_of(network)
    if owner is None or isinstance(owner, torch.jit.ScriptModule):
        raise ValueError(
            "the propagated error is about absolute weights, which a "
            f"{type(network).__name__} does not tell: pass the torch.nn.Module, or a bound method "
            "of it, not scripted, or use error='measured'."
        )
    reach = state_of(owner)
    holders = reach.containers()
    own = [t for m in reach.modules for t in (*m.parameters(False), *m.buffers(False))]
    values = {id(tensor): tensor.detach().abs() for tensor in own if tensor.is_floating_point()}

    def absolute(x: Tensor) -> Tensor:
        with replacing_tensors(holders, values):
            return network(x)

    return absolute


class _Slopes:
    """The derivatives of one site at the samples, as nodes of the graphs that recorded them."""

    def __init__(self) -> None:
        self.parts: list[tuple[Any, torch.Size, int]] = []

    def add(self, site: Site) -> None:
        """Keep what a site recorded for some of the samples."""
        node = site.output.grad_fn
        if node is None or (site.output._is_view() and "Strided" in node.name()):  # noqa: SLF001
            raise ValueError(
                f"site {site.name!r} ({site.operation}) has no derivative of its own, being a "
                "comparison, or hidden in an autograd function, or written in place into a part "
                "of a tensor: use error='measured'."
            )
        self.parts.append((node, site.output.shape, site.samples))

    def back(self, given: Any, arriving: Tensor, outputs: int, index: int) -> Any:
        """Return what goes on to the inputs, on average over samples and absolute."""
        total = [None if g is None else torch.zeros_like(g) for g in given]
        for node, shape, samples in self.parts:
            wanted: list[Tensor | None] = [None] * outputs
            wanted[index] = _for_all(arriving, shape, samples)
            for so_far, local in zip(total, _passed(node, wanted), strict=True):
                if so_far is not None:
                    so_far.add_(_over_samples(local.abs(), so_far.shape, samples))
        all_ = sum(samples for _, _, samples in self.parts)
        return tuple(None if so_far is None else so_far / all_ for so_far in total)


def _passed(node: Any, arriving: list[Tensor | None]) -> tuple[Any, ...]:
    """Return what a node of a graph passes on to its inputs."""
    if not callable(node):  # of an operator registered in Python, whose other inputs get nothing
        return tuple(part for part in node.apply(*arriving) if part is not None)
    passed = node(*arriving)
    return passed if isinstance(passed, tuple) else (passed,)


def _slopes(network: Network, x: Tensor, chunk: int) -> tuple[dict[str, _Slopes], dict[str, None]]:
    """Return the slopes of all sites, and the names of those that the outputs depend on."""
    sites: dict[str, _Slopes] = {}
    needed: dict[str, None] = {}

    def hear(site: Site) -> None:
        sites.setdefault(site.name, _Slopes()).add(site)

    for part in x.detach().split(chunk):
        needed |= listen(network, part.clone().requires_grad_(), hear).sites
    return sites, needed


@contextmanager
def _hooked(end: Any, instead: dict[Any, Callable[..., Any]]) -> Iterator[None]:
    """Make what every operation contributes on the way back absolute, or replace it."""

    def absolute(given: Any, _: Any) -> Any:
        return tuple(None if g is None else g.abs() for g in given)

    waiting, seen = [end], {end, None}
    while waiting:
        node = waiting.pop()
        node.register_hook(instead.get(node, absolute))
        new = {following for following, _ in node.next_functions} - seen
        seen |= new
        waiting += new
    leaves = [node.variable for node in seen if hasattr(node, "variable")]
    gradients = [leaf.grad for leaf in leaves]  # of what is no part of the module
    for leaf in leaves:
        leaf.grad = None
    try:
        yield
    finally:
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient


def _for_all(one: Tensor, shape: torch.Size, samples: int) -> Tensor:
    """Give all samples what one has: along the dimension in which the two shapes differ."""
    dim = _dimension(one.shape, shape)
    return one.unsqueeze(dim).expand(*shape[:dim], samples, *one.shape[dim:]).reshape(shape)


def _over_samples(values: Tensor, one: torch.Size, samples: int) -> Tensor:
    """Sum over samples, to the shape that one of them has."""
    dim = _dimension(one, values.shape)
    return values.reshape(*one[:dim], samples, *one[dim:]).sum(dim)


def _dimension(one: torch.Size, all_: torch.Size) -> int:
    return next((dim for dim, (a, b) in enumerate(zip(one, all_, strict=True)) if a != b), 0)
