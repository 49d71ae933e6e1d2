"""Tags: the names of our curves. Every string with a meaning is made and read in this file.

```
effcx/<name>                the value of a measure; nothing else stands here
effcx_seconds/<name>        the seconds that the measurement took
effcx_sites/<name>/<site>   its value at one nonlinearity of the network
effcx_stderr/<name>         its standard error; 1.96 of them are half of a 95 % interval
```
`<name>` is the name of a metric: `<measure>` or `<measure>.<variant>`. A metric with several
statistics has variants, whose endings follow its name: `activation_patterns` + `.dead`. The
dictionary that a metric's `compute` returns has the keys `<name>`, `<name>_stderr` and
`<name>/<site>`.

Some loggers store each tag in a file, in a folder for each part before a slash. So all tags of a
group have the same number of slashes, and no tag is a folder of another. `safe` leaves only
characters that every logger and file system accepts.

Version 0.1 wrote `effcx/a/b`, `effcx/a/b_stderr`, `effcx/a/b/at/<site>` and `effcx/seconds/a/b`.
These are still read.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

BANDS = "effcx_bands/"  # version 0.1: curves at one standard error around each value
_STDERR = "_stderr"
_NAME = re.compile(rf"[a-z][a-z0-9_]*(\.[a-z0-9_]+)?(?<!{_STDERR})")
_LONGEST = 100  # characters of a tag; Comet cuts off longer ones
_LONGEST_NAME = 60
_DIGEST = 8  # characters
_ADDED = _DIGEST + 2  # the most that `safe` adds to a part: the digest, a dash, an underscore
_DEVICE = r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)"  # names that Windows reserves
_SAFE = re.compile(rf"(?!{_DEVICE})(?!.*\.\.)\w(?:[\w.-]*[\w-])?", re.ASCII | re.IGNORECASE)

Grain = Literal["value", "stderr", "site", "seconds"]


@dataclass(frozen=True)
class Tag:
    """The meaning of one tag.

    Attributes:
        name: The name of the metric, with the variant.
        grain: What the tag holds.
        site: The site, if the grain is `site`.
    """

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
    def key(self) -> str:
        """The key of this value in the dictionary that a metric's `compute` returns."""
        match self.grain:
            case "stderr":
                return self.name + _STDERR
            case "site":
                return f"{self.name}/{self.site}"
            case _:
                return self.name

    @property
    def measure(self) -> str:
        """The measure, without its variant."""
        return self.name.partition(".")[0]

    @property
    def with_variants(self) -> str:
        """A regular expression for this tag of a measure, and the same of its variants."""
        return rf"^{re.escape(str(self))}(\.|$)"

    @property
    def all_sites(self) -> str:
        """A pattern for the tags of this metric at all sites."""
        return f"effcx_sites/{safe(self.name, _LONGEST_NAME)}/*"

    @property
    def of_version_0_1(self) -> str:
        """The tag that version 0.1 wrote for the same value."""
        name = slashed(self.name)
        match self.grain:
            case "value":
                return f"effcx/{name}"
            case "stderr":
                return f"effcx/{name}{_STDERR}"
            case "site":
                return f"effcx/{name}/at/{self.site}"
            case "seconds":
                return f"effcx/seconds/{name}"


def parse(tag: str) -> Tag | None:
    """Read a tag of any version. Return `None` if the tag is not ours.

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
            return _of_version_0_1(rest)  # a value without a variant is written alike
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
    """Convert a tag of any version to the current one. Tags that are not ours stay as they are.

    Example:
        >>> renewed("effcx/transitions/segment_stderr")
        'effcx_stderr/transitions.segment'
        >>> renewed("val_loss")
        'val_loss'
    """
    return str(parse(tag) or tag)


def dotted(name: str) -> str:
    """Convert a metric's name of version 0.1, such as `transitions/segment`, to the current one."""
    return name.replace("/", ".")


def slashed(name: str) -> str:
    """Convert a metric's name to the one of version 0.1."""
    return name.replace(".", "/")


def former_names(tag: str) -> set[str]:
    """Return the names of a tag in version 0.1: the tag, and the metric's name for a value."""
    read = parse(tag)
    if read is None:
        return set()
    names = {slashed(read.name)} if read.grain == "value" else set()
    return {read.of_version_0_1, *names}


def name_of(measure: str, *words: str) -> str:
    """Name a metric by its measure and the words of its variant.

    Example:
        >>> name_of("linear_regions", "segment", "estimated"), name_of("jacobian_norm")
        ('linear_regions.segment_estimated', 'jacobian_norm')
    """
    return ".".join([measure, "_".join(words)]) if words else measure


def variant_of(name: str, ending: str) -> str:
    """Name a variant by the metric's name and its ending, such as `.dead` or `_share`."""
    return name + ending


def bounds_of(name: str) -> tuple[str, str]:
    """Name the lower and the upper bound of a value, as variants of it.

    Example:
        >>> bounds_of("training_error"), bounds_of("mimic_gap.agreement")[1]
        (('training_error.low', 'training_error.high'), 'mimic_gap.agreement_high')
    """
    joint = "_" if "." in name else "."
    return variant_of(name, f"{joint}low"), variant_of(name, f"{joint}high")


def prefixed(prefix: str, name: str) -> str:
    """Put a prefix before a metric's name, unless it is empty."""
    return f"{prefix}_{name}" if prefix else name


def of_key(key: str) -> Tag:
    """Return the tag of a value, by its key in the dictionary that our metric computed.

    Example:
        >>> of_key("transitions.segment_stderr")
        Tag(name='transitions.segment', grain='stderr', site='')
    """
    name, _, site = key.partition("/")
    if site:
        return Tag(name, "site", site)
    if name.endswith(_STDERR):
        return Tag(name.removesuffix(_STDERR), "stderr")
    return Tag(name)


def of_foreign_key(name: str, key: str, own_name: str = "") -> Tag:
    """Return the tag of a value, by its key in the dictionary that a user's metric computed.

    Args:
        name: The name that the monitor knows the metric by.
        key: The key. A slash in it separates variants, not sites.
        own_name: The metric's own `name`, which is removed if the key starts with it.

    Example:
        >>> of_foreign_key("size", "small")
        Tag(name='size_small', grain='value', site='')
    """
    ending = dotted(key.removeprefix(own_name))
    if ending and ending[0] not in "._":
        ending = f"_{ending}"
    return of_key(variant_of(name, ending))


def safe(part: str, longest: int) -> str:
    """Write a name or site so that every logger and file system accepts it as a part of a path.

    A part that has to be changed gets a digest at its end, so that two parts never become equal. If
    a part is too long, its end is kept.

    Example:
        >>> safe("layers.1.relu", longest=50)
        'layers.1.relu'
        >>> safe("blocks.a/b.relu", longest=50)
        'blocks.a_b.relu-9a090459'
    """
    if len(part) <= longest and _SAFE.fullmatch(part):
        return part
    digest = sha256(part.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    readable = re.sub(r"[^\w.-]+|\.{2,}", "_", part, flags=re.ASCII)[_ADDED - longest :]
    made = f"{readable.lstrip('.')}-{digest}"
    return made if _SAFE.fullmatch(made) else f"_{made}"


def check_name(name: str) -> None:
    """Refuse a name of a metric that could not be read back from its tags."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a metric: expected lower-case letters, digits and underscores, "
            f"with at most one dot before a variant, and not {_STDERR!r} at the end, "
            "such as 'jacobian_norm' or 'transitions.segment'."
        )
