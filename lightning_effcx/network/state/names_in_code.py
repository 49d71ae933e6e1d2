"""Which global names and which attributes the code of a function mentions."""

import dis
from functools import lru_cache
from types import CodeType
from typing import NamedTuple


class NamesInCode(NamedTuple):
    """The names that code mentions.

    Attributes:
        read: Globals that it reads.
        assigned: Globals that it assigns or deletes.
        attributes: Attributes of any objects, such as the methods that it calls.
    """

    read: frozenset[str]
    assigned: frozenset[str]
    attributes: frozenset[str]


@lru_cache(maxsize=4096)
def names_in(code: CodeType) -> NamesInCode:
    """Return the names that a function's code mentions, with the functions defined within it.

    Example:
        >>> def forward(x):
        ...     global calls
        ...     calls += 1
        ...     return net.relu(x)
        >>> read, assigned, attributes = names_in(forward.__code__)
        >>> sorted(read), sorted(assigned), sorted(attributes)
        (['calls', 'net'], ['calls'], ['relu'])
    """
    read, assigned, attributes = set(), set(), set()
    for instruction in dis.get_instructions(code):
        match instruction.opname:
            case "LOAD_GLOBAL" | "LOAD_NAME":
                read.add(instruction.argval)
            case "STORE_GLOBAL" | "DELETE_GLOBAL":
                assigned.add(instruction.argval)
            case "LOAD_ATTR" | "LOAD_METHOD" | "LOAD_SUPER_ATTR" | "STORE_ATTR" | "DELETE_ATTR":
                attributes.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = names_in(constant)
            read |= inner.read
            assigned |= inner.assigned
            attributes |= inner.attributes
    return NamesInCode(frozenset(read), frozenset(assigned), frozenset(attributes))
