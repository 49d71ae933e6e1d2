import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_effcx import tags
from lightning_effcx.tags import Tag

WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda word: not word.endswith("_stderr") and word not in {"seconds", "at"}
)
NAMES = st.one_of(WORDS, st.tuples(WORDS, WORDS).map("/".join))
SITES = st.from_regex(r"[A-Za-z0-9_]{1,5}(\.[A-Za-z0-9_]{1,5}){0,2}", fullmatch=True)


@given(NAMES, SITES)
def test_every_tag_is_read_back_as_it_was_written(name, site):
    tags.check_name(name)
    for tag in (Tag(name), Tag(name, "stderr"), Tag(name, "seconds"), Tag(name, "site", site)):
        assert tags.parse(str(tag)) == tag


def test_tags_are_written_as_the_grammar_says():
    assert str(Tag("jacobian_norm")) == "effcx/jacobian_norm"
    assert str(Tag("jacobian_norm", "stderr")) == "effcx/jacobian_norm_stderr"
    assert str(Tag("transitions/arc", "seconds")) == "effcx/seconds/transitions/arc"
    assert str(Tag("transitions/arc", "site", "0.relu")) == "effcx/transitions/arc/at/0.relu"


@pytest.mark.parametrize("tag", ["val_loss", "", "seconds/jacobian_norm", "effcx_bands/a/lower"])
def test_tags_of_others_are_not_ours(tag):
    assert tags.parse(tag) is None


@given(NAMES, SITES)
def test_keys_of_sites_are_told_from_other_keys(name, site):
    key = tags.site_key(name, site)
    assert tags.parse(tags.PREFIX + key) == Tag(name, "site", site)
    assert tags.is_site_key(key)
    assert not tags.is_site_key(name)
    assert not tags.is_site_key(name + tags.STDERR)


@given(NAMES)
def test_bands_are_two_curves_apart_from_the_tags(name):
    lower, upper = tags.band(name)
    assert (lower, upper) == (f"effcx_bands/{name}/lower", f"effcx_bands/{name}/upper")
    assert tags.parse(lower) is None
    assert tags.parse(upper) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Norm",
        "a b",
        "a/b/c",
        "seconds",
        "seconds/a",
        "a_stderr",
        "a/b_stderr",
        "1a",
        "a/",
        "a-b",
    ],
)
def test_names_that_could_not_be_read_back_are_refused(name):
    with pytest.raises(ValueError, match="cannot name a metric: expected lower-case letters"):
        tags.check_name(name)
