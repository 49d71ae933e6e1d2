r"""Amplification: how far an error at a unit's output can move the network's outputs.

The amplification of a unit bounds, to first order, the mean change of the outputs by an error of 1.
It is a sum over all paths from the unit to the outputs, divided by the number $c$ of outputs. Each
path contributes the product of the absolute weights and of the mean absolute slopes along it. Means
are over samples. For fully connected layers $h_i = \phi(V_i h_{i-1} + b_i)$ it is the row vector
$\frac{1}{c} 1^T |V_o| \prod_{q=L}^{i+1} \mathrm{diag}(E|\phi'(z_q)|) |V_q|$.

Back-propagation follows these paths in any graph of operations:

1. The network runs at all samples, with its own weights. The graph nodes of the sites are kept,
   since they can compute the slopes.
2. The network runs at one sample, with absolute parameters and buffers. The outputs are
   back-propagated through this graph. Hooks make each operation's result absolute, and at a site
   they put in the mean absolute slopes of step 1.

In a parametrised weight, such as one with weight norm, the parameters become absolute, not the
weight. A constant that is neither a parameter nor a buffer becomes absolute only if each of its
entries belongs to one unit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_effcx.network import Network, differentiating, owner_of, replacing_tensors, state_of
from lightning_effcx.tracing import Site, listen


def error_amplification(network: Network, x: Tensor, *, chunk: int = 1024) -> dict[str, Tensor]:
    """Return the amplification of each unit, `(u,)`, by the name of the site.

    Args:
        network: A module, or a bound method of one, since its parameters are made absolute. Maps
            `(n, ...)` to `(n, k)`, treating samples independently.
        x: The samples over which slopes are averaged.
        chunk: Rows that the network evaluates at once.
    """
    absolute = _absolute(network)
    with differentiating(), torch.enable_grad():
        slopes, needed = _record_slopes(network, x, chunk)
        arrived: list[Tensor] = []  # the amplification of each site, in order of execution
        replaced: dict[Any, Callable[..., Any]] = {}

        def record(site: Site) -> None:
            number, index = len(arrived), site.output.output_nr
            # What no gradient reaches keeps the amplification 0.
            arrived.append(torch.zeros_like(site.output).flatten())

            def replace(given: Any, arriving: Any) -> Any:
                arrived[number] = arriving[index].flatten()
                return _average_back(nodes[number], given, arriving[index], len(arriving), index)

            replaced[site.output.grad_fn] = replace

        one = x[:1].detach().clone().requires_grad_()
        y = listen(absolute, one, record).outputs
        # Sites are matched by their order, since the function that lends the weights renames them.
        nodes = list(slopes.values())
        if len(arrived) != len(nodes):
            raise ValueError(
                f"the network runs {len(arrived)} nonlinear operations with the absolute values of "
                f"its weights, and {len(nodes)} with its own weights, so the propagated error is "
                "unknown: use error='measured'."
            )
        graph = _nodes_below(y.grad_fn)
        for node in graph:
            node.register_hook(replaced.get(node, _make_absolute))
        with _gradients_kept(graph):
            # Not torch.autograd.grad: under it, the nodes that a hook calls would compute only the
            # gradients that grad was asked for.
            y.backward(torch.full_like(y, 1 / y.shape[1]))
    found = dict(zip(slopes, arrived, strict=True))
    return {name: found[name] for name in needed}


def _absolute(network: Network) -> Network:
    """Return the network with absolute parameters and buffers."""
    owner = owner_of(network)
    if owner is None or isinstance(owner, torch.jit.ScriptModule):
        raise ValueError(
            "error='propagated' needs the weights of a torch.nn.Module, got a "
            f"{type(network).__name__}: pass the module or a bound method of it, not scripted, or "
            "use error='measured'."
        )
    state = state_of(owner)
    containers = state.containers()
    own = [t for m in state.modules for t in (*m.parameters(False), *m.buffers(False))]
    values = {id(tensor): tensor.detach().abs() for tensor in own if tensor.is_floating_point()}

    def absolute(x: Tensor) -> Tensor:
        with replacing_tensors(containers, values):
            return network(x)

    return absolute


class _Node(NamedTuple):
    """What a graph recorded of one site.

    Attributes:
        node: The node that computes the derivatives.
        shape: The shape of the output.
        samples: How many samples there are.
        before: How many times all samples lie in their dimension, one time after the other.
        output: The output, where it has to be kept.
    """

    node: Any
    shape: torch.Size
    samples: int
    before: int
    output: Tensor | None


def _record_slopes(
    network: Network, x: Tensor, chunk: int
) -> tuple[dict[str, list[_Node]], dict[str, None]]:
    """Return the nodes of all sites, one for each chunk, and the sites that the outputs need."""
    slopes: dict[str, list[_Node]] = {}
    needed: dict[str, None] = {}

    def record(site: Site) -> None:
        nodes = slopes.setdefault(site.name, [])  # a refused site has its place in the order, too
        nodes.append(_node(site))

    for part in x.detach().split(chunk):
        needed |= listen(network, part.clone().requires_grad_(), record).sites
    return slopes, needed


def _node(site: Site) -> _Node:
    """Return the node of a site, or refuse a site that has no node of its own."""
    node = site.output.grad_fn
    if node is None or (site.output._is_view() and "Strided" in node.name()):  # noqa: SLF001
        raise ValueError(
            f"site {site.name!r} ({site.operation}) has no derivative of its own. It is a "
            "comparison, or inside a torch.autograd.Function, or written in place into a part of "
            "a tensor: use error='measured'."
        )
    # In older versions of torch, the node of an operator that is registered in Python loses what it
    # saved when the output is gone.
    output = None if callable(node) else site.output
    before = 1 if site.place is None else site.place.before
    return _Node(node, site.output.shape, site.samples, before, output)


def _average_back(
    nodes: Sequence[_Node], given: Any, arriving: Tensor, outputs: int, index: int
) -> tuple[Tensor | None, ...]:
    """Back-propagate through a site, by its mean absolute slopes.

    Args:
        nodes: The nodes of the site, which together have all samples.
        given: What one sample back-propagates to the inputs; only the shapes count.
        arriving: The amplification of the units.
        outputs: How many outputs the operation has.
        index: Which of them holds the units.
    """
    total = [None if g is None else torch.zeros_like(g) for g in given]
    for each in nodes:
        gradients: list[Tensor | None] = [None] * outputs
        gradients[index] = _expand(arriving, each)
        for so_far, local in zip(total, _call(each.node, gradients), strict=True):
            if so_far is not None:
                so_far.add_(_sum_samples(local.abs(), so_far.shape, each))
    count = sum(each.samples for each in nodes)
    return tuple(None if so_far is None else so_far / count for so_far in total)


def _call(node: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    """Return the gradients of a node's inputs, from the gradients of its outputs."""
    if not callable(node):  # an operator registered in Python, whose other inputs get None
        return tuple(part for part in node.apply(*gradients) if part is not None)
    passed = node(*gradients)
    return passed if isinstance(passed, tuple) else (passed,)


def _make_absolute(given: Any, _: Any) -> tuple[Tensor | None, ...]:
    return tuple(None if g is None else g.abs() for g in given)


def _nodes_below(end: Any) -> set[Any]:
    """Return all nodes of the graph that ends in `end`."""
    waiting, seen = [end], {end, None}
    while waiting:
        new = {following for following, _ in waiting.pop().next_functions} - seen
        seen |= new
        waiting += new
    return seen - {None}


@contextmanager
def _gradients_kept(nodes: set[Any]) -> Iterator[None]:
    """Restore the `.grad` of every leaf of a graph, since backward() adds to it.

    The weights are replaced, so the user's parameters are no leaves. But the network may use
    tensors that belong to none of its modules.
    """
    leaves = [node.variable for node in nodes if hasattr(node, "variable")]
    gradients = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    try:
        yield
    finally:
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient


def _expand(one: Tensor, node: _Node) -> Tensor:
    """Repeat the values of one sample for all samples."""
    dim = _sample_dimension(one.shape, node.shape)
    parts = one.unflatten(dim, (node.before, -1)).unsqueeze(dim + 1)
    return parts.repeat_interleave(node.samples, dim + 1).reshape(node.shape)


def _sum_samples(values: Tensor, one: torch.Size, node: _Node) -> Tensor:
    """Sum over samples; the result has the shape of one sample."""
    dim = _sample_dimension(one, values.shape)
    parts = values.unflatten(dim, (node.before, node.samples, -1))
    return parts.sum(dim + 1).reshape(one)


def _sample_dimension(one: torch.Size, many: torch.Size) -> int:
    """Return the dimension in which the shapes for one and for many samples differ."""
    return next((dim for dim, (a, b) in enumerate(zip(one, many, strict=True)) if a != b), 0)
