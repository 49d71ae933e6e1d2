"""The grammar of tags: all that the writers and the readers of curves share.

```
effcx/<name>                the value of a measure; nothing else stands here
effcx_seconds/<name>        what it cost to compute, in seconds
effcx_sites/<name>/<site>   its value at one nonlinearity of the network
effcx_stderr/<name>         its standard error
```
`<name>` is that of a metric, `<measure>` or `<measure>.<variant>`; one that computes several
statistics has them as variants, such as `activation_patterns.dead`. What a metric computes is a
dictionary with the keys `<name>`, `<name>_stderr` and `<name>/<site>`.

Some loggers keep a file for each tag, in folders for what is before a slash. All tags of a group
have the same number of slashes, so no tag is a folder of another; and `safe` leaves only what every
logger and file system takes. Version 0.1 wrote `effcx/a/b`, `effcx/a/b_stderr`,
`effcx/a/b/at/<site>` and `effcx/seconds/a/b`; these are read, too.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

STDERR = "_stderr"
BANDS = "effcx_bands/"  # of version 0.1: curves at one standard error around each value
_NAME = re.compile(rf"[a-z][a-z0-9_]*(\.[a-z0-9_]+)?(?<!{STDERR})")
_LONGEST = 100  # letters of a tag: Comet cuts off what is longer
_LONGEST_NAME = 60
_ADDED = 10  # letters, at most, to what is changed
_DEVICE = r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)"  # no file of Windows can be called so
_SAFE = re.compile(rf"(?!{_DEVICE})(?!.*\.\.)\w(?:[\w.-]*[\w-])?", re.ASCII | re.IGNORECASE)

Grain = Literal["value", "stderr", "site", "seconds"]


@dataclass(frozen=True)
class Tag:
    """What one tag says: which metric by its name, which grain, and at which site if at one."""

    name: str
    grain: Grain = "value"
    site: str = ""

    def __str__(self) -> str:
        name = safe(self.name, _LONGEST_NAME)
        match self.grain:
            case "value":
                return f"effcx/{name}"
            case "stderr":
                return f"effcx_stderr/{name}"
            case "site":
                folder = f"effcx_sites/{name}/"
                return folder + safe(self.site, _LONGEST - len(folder))
            case "seconds":
                return f"effcx_seconds/{name}"

    @property
    def of_version_0_1(self) -> str:
        """The tag that version 0.1 wrote for the same."""
        name = slashed(self.name)
        match self.grain:
            case "value":
                return f"effcx/{name}"
            case "stderr":
                return f"effcx/{name}_stderr"
            case "site":
                return f"effcx/{name}/at/{self.site}"
            case "seconds":
                return f"effcx/seconds/{name}"


def parse(tag: str) -> Tag | None:
    """Read a tag back; `None` if it is not one of ours.

    Example:
        >>> parse("effcx_sites/transitions.segment/layers.1.relu")
        Tag(name='transitions.segment', grain='site', site='layers.1.relu')
        >>> parse("val_loss") is None
        True
    """
    group, _, rest = tag.partition("/")
    name, _, site = rest.partition("/")
    if not name:
        return None
    match group:
        case "effcx":
            return _of_version_0_1(rest)  # which wrote values without a variant as we do
        case "effcx_seconds":
            return Tag(rest, "seconds")
        case "effcx_sites" if site:
            return Tag(name, "site", site)
        case "effcx_stderr":
            return Tag(rest, "stderr")
    return None


def _of_version_0_1(rest: str) -> Tag:
    if rest.startswith("seconds/"):
        return Tag(dotted(rest.removeprefix("seconds/")), "seconds")
    name, _, site = rest.partition("/at/")
    return Tag(dotted(name), "site", site) if site else of_key(dotted(name))


def renewed(tag: str) -> str:
    """Write a tag of any version as it is written now; those of others stay as they are.

    Example:
        >>> renewed("effcx/transitions/segment_stderr")
        'effcx_stderr/transitions.segment'
        >>> renewed("val_loss")
        'val_loss'
    """
    return str(parse(tag) or tag)


def dotted(name: str) -> str:
    """Write a metric's name of version 0.1, `transitions/segment`, as it is written now."""
    return name.replace("/", ".")


def slashed(name: str) -> str:
    """Write a metric's name as version 0.1 did."""
    return name.replace(".", "/")


def of_key(key: str) -> Tag:
    """Return the tag of one value that a metric computed, by its key in the metric's dictionary.

    Example:
        >>> of_key("transitions.segment_stderr")
        Tag(name='transitions.segment', grain='stderr', site='')
    """
    name, _, site = key.partition("/")
    if site:
        return Tag(name, "site", site)
    if name.endswith(STDERR):
        return Tag(name.removesuffix(STDERR), "stderr")
    return Tag(name)


def site_key(name: str, site: str) -> str:
    """Name a metric's value at one site, in the dictionary that the metric computes."""
    return f"{name}/{site}"


def safe(part: str, longest: int) -> str:
    """Write a name or site so that every logger and file system takes it as a part of a path.

    What has to be changed gets a digest at its end, so that it stays different from all others; of
    what is too long the end is kept.

    Example:
        >>> safe("layers.1.relu", longest=50)
        'layers.1.relu'
        >>> safe("blocks.a/b.relu", longest=50)
        'blocks.a_b.relu-9a090459'
    """
    if len(part) <= longest and _SAFE.fullmatch(part):
        return part
    digest = sha256(part.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    readable = re.sub(r"[^\w.-]+|\.{2,}", "_", part, flags=re.ASCII)[_ADDED - longest :]
    made = f"{readable.lstrip('.')}-{digest}"
    return made if _SAFE.fullmatch(made) else f"_{made}"


def check_name(name: str) -> None:
    """Refuse a metric's name that the grammar could not read back."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a metric: expected lower-case letters, digits and underscores, "
            f"with at most one dot before a variant, and not {STDERR!r} at the end, "
            "such as 'jacobian_norm' or 'transitions.segment'."
        )
