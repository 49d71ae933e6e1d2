"""The grammar of tag names: all that the writer and the reader of curves share.

```
effcx/<measure>[/<variant>]              the value of a measure
effcx/<measure>[/<variant>]_stderr       its standard error
effcx/<measure>[/<variant>]/at/<site>    its value at one nonlinearity of the network
effcx/seconds/<measure>[/<variant>]      what it cost to compute, in seconds
effcx_bands/<measure>[/<variant>]/lower  one standard error below the value, and `upper` above it:
                                         TensorBoard draws bands from curves only
```
`<measure>[/<variant>]` is the *name* of a metric; one that computes several statistics has them as
variants, such as `activation_patterns/dead`. Every logger takes these characters.
"""

import re
from dataclasses import dataclass
from typing import Literal

PREFIX = "effcx/"
STDERR = "_stderr"
_SECONDS = "seconds/"
_AT = "/at/"
_NAME = re.compile(r"(?!seconds(/|$))[a-z][a-z0-9_]*(/[a-z0-9_]+)?(?<!_stderr)")


@dataclass(frozen=True)
class Tag:
    """What one tag says: which metric by its name, which grain, and at which site if at one."""

    name: str
    grain: Literal["value", "stderr", "site", "seconds"] = "value"
    site: str = ""

    def __str__(self) -> str:
        match self.grain:
            case "value":
                return PREFIX + self.name
            case "stderr":
                return PREFIX + self.name + STDERR
            case "site":
                return PREFIX + self.name + _AT + self.site
            case "seconds":
                return PREFIX + _SECONDS + self.name


def parse(tag: str) -> Tag | None:
    """Read a tag back; `None` if it is not one of ours.

    Example:
        >>> parse("effcx/transitions/segment/at/layers.1.relu")
        Tag(name='transitions/segment', grain='site', site='layers.1.relu')
        >>> parse("val_loss") is None
        True
    """
    if not tag.startswith(PREFIX):
        return None
    name = tag.removeprefix(PREFIX)
    if name.startswith(_SECONDS):
        return Tag(name.removeprefix(_SECONDS), "seconds")
    name, _, site = name.partition(_AT)
    if site:
        return Tag(name, "site", site)
    if name.endswith(STDERR):
        return Tag(name.removesuffix(STDERR), "stderr")
    return Tag(name)


def site_key(name: str, site: str) -> str:
    """Name a metric's value at one site, in the dictionary that the metric computes."""
    return name + _AT + site


def is_site_key(key: str) -> bool:
    """Tell whether a key of a metric's dictionary is a value at one site."""
    return _AT in key


def band(name: str) -> tuple[str, str]:
    """Name the two curves between which TensorBoard draws the error band of a metric."""
    return f"effcx_bands/{name}/lower", f"effcx_bands/{name}/upper"


def check_name(name: str) -> None:
    """Refuse a metric's name that the grammar could not read back."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a metric: expected lower-case letters, digits and underscores, "
            f"with at most one slash, neither starting with 'seconds' nor ending in {STDERR!r}, "
            "such as 'jacobian_norm' or 'transitions/segment'."
        )
