"""Networks around one operator each, from torch's own list of operators and of sample inputs."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

FORMS = {
    "vmap": "the operator under vmap, its first tensor affine in x",
    "batched": "the operator on the tensor with a dimension of samples before the others",
    "vmap between kinks": "as vmap, with kinks before and behind the operator",
    "batched between kinks": "as batched, with kinks before and behind the operator",
    "vmap of all": "as vmap between kinks, all tensors of real numbers being functions of x",
}
_D = 3
_MOST = 256  # numbers of the tensor that depends on x
# Their results are memory that nobody wrote to, so that they are no functions.
_UNINITIALISED = frozenset(
    "empty empty_like empty_permuted empty_strided new_empty new_empty_strided".split()
)
# Under some arguments they read memory outside of their tensors: torch itself crashes.
_CRASHING = frozenset({"lu_unpack"})


def operators():
    """Return the operators that work in float64 and are functions."""
    from torch.testing._internal.common_methods_invocations import op_db  # noqa: PLC0415 slow

    left_out = _UNINITIALISED | _CRASHING
    return [op for op in op_db if torch.float64 in op.dtypes and op.name not in left_out]


def name_of(op) -> str:
    return f"{op.name}.{op.variant_test_name}".strip(".")


def samples_of(op, most: int) -> list:
    """Return some sample inputs of an operator whose first tensor is small and of real numbers."""
    found = list(op.sample_inputs("cpu", torch.float64, requires_grad=False))
    fit = [each for each in found if _fits(each)]
    return fit[:: -(-len(fit) // most)] if fit else []


def _fits(sample) -> bool:
    first = _first(sample)
    return _is_real(first) and 0 < first.numel() <= _MOST


def _first(sample):
    value = sample.input
    return (value[0] if value else None) if isinstance(value, (list, tuple)) else value


def _is_real(value) -> bool:
    return (
        isinstance(value, Tensor) and value.layout == torch.strided and value.dtype == torch.float64
    )


def networks_of(
    op, sample, seed: int, forms: tuple[str, ...] = tuple(FORMS)
) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """Yield the networks of one sample, each with its form, as far as torch can run them."""
    first = _first(sample)
    random = torch.Generator().manual_seed(seed)
    lifts = {False: _lift(first, random), True: _lift(first, random, bends=True)}

    def call(h):
        value = sample.input
        given = [h, *value[1:]] if isinstance(value, (list, tuple)) else h
        return op.op(given, *sample.args, **sample.kwargs)

    for form in forms:
        if form == "vmap of all":
            network = _of_all(op, sample, random)
        elif form.startswith("vmap"):
            network = _under_vmap(call, lifts["kinks" in form])
        else:
            network = _batched(call, lifts["kinks" in form])
        if network is None:
            continue
        if "kinks" in form or "all" in form:
            network = _bent(network)
        if network is not None:
            yield form, network


def _under_vmap(call, lift):
    return lambda x: torch.vmap(lambda h: _joined(call(h), 0))(lift(x))


def _batched(call, lift):
    return lambda x: _joined(call(lift(x)), 1)


def _of_all(op, sample, random):
    """Return a network all of whose tensors are functions of x, if there are several."""
    given = (sample.input, sample.args, sample.kwargs)
    movable = [t for t in tree_leaves(given) if _is_real(t) and 0 < t.numel() <= _MOST]
    if len(movable) < 2:
        return None
    lifts = {id(t): _lift(t, random, bends=True) for t in movable}

    def one(x):
        moved, args, kwargs = tree_map(
            lambda t: lifts[id(t)](x[None])[0] if id(t) in lifts else t, given
        )
        return _joined(op.op(moved, *args, **kwargs), 0)

    return torch.vmap(one)


def _lift(tensor, random, *, bends=False):
    """Return a function of x whose values are like a tensor."""
    spread = float(tensor.std()) if tensor.numel() > 1 else 1.0
    spread = spread if spread > 0 else 1.0
    weight = spread / 2 * torch.randn(_D, tensor.numel(), generator=random, dtype=torch.float64)

    def lifted(x):
        h = x @ weight
        if bends:
            h = h - 1.5 * torch.relu(h[:, :2].sum(1, keepdim=True))
        return h.reshape(len(x), *tensor.shape) + tensor

    return lifted


def _bent(network):
    """Return a network with kinks behind it, near to what it returns at one place."""
    try:
        with torch.no_grad():
            level = network(torch.full((1, _D), 0.1, dtype=torch.float64))
    except Exception:  # noqa: BLE001 whatever torch says: then it is no network
        return None
    if level.dim() != 2 or len(level) != 1:
        return None
    level = level.detach().nan_to_num(0, 0, 0)[:, :5]
    return lambda x: _beside(network(x), level)


def _beside(y, level):
    return torch.cat([y, torch.relu(y[:, :5] - level)], 1)


def _joined(out, start: int):
    """Join all tensors of a result to one of numbers, flattened from a dimension on."""
    flat = []
    for each in tree_leaves(out):
        if isinstance(each, Tensor):
            real = torch.view_as_real(each.resolve_conj()) if each.is_complex() else each
            real = real.to(torch.float64)
            flat.append(
                real.reshape(*real.shape[:start], -1)
                if real.dim() <= start
                else real.flatten(start)
            )
    return flat[0] if len(flat) == 1 else torch.cat(flat, start)


def draw(seed: int) -> tuple[Tensor, Tensor]:
    """Draw three segments and two samples of the networks."""
    random = torch.Generator().manual_seed(seed)
    path = 1.5 * torch.randn(3, 2, _D, generator=random, dtype=torch.float64)
    return path, torch.randn(2, _D, generator=random, dtype=torch.float64)
