import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_effcx import tags
from lightning_effcx.tags import Tag

WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda word: not word.endswith("_stderr") and tags.safe(word, 60) == word
)
NAMES = st.one_of(WORDS, st.tuples(WORDS, WORDS).map(".".join))
GRAINS = st.sampled_from(["value", "stderr", "seconds"])
SITES = st.from_regex(r"[A-Za-z0-9_]{1,5}(\.[A-Za-z0-9_]{1,5}){0,2}", fullmatch=True).filter(
    lambda site: tags.safe(site, 40) == site
)
# What users may call their modules: anything, and often much alike.
TEXTS = st.text() | st.text("a/.-_ <:é", max_size=5) | st.text("ab", min_size=90, max_size=300)
TAGS = st.builds(Tag, TEXTS, GRAINS) | st.builds(Tag, TEXTS, st.just("site"), TEXTS)


@given(NAMES, GRAINS)
def test_every_tag_is_read_back_as_it_was_written(name, grain):
    tags.check_name(name)
    assert tags.parse(str(Tag(name, grain))) == Tag(name, grain)


@given(NAMES, TEXTS)
def test_every_tag_of_a_site_is_read_back_with_its_safe_name(name, site):
    room = 100 - len(f"effcx_sites/{name}/")
    assert tags.parse(str(Tag(name, "site", site))) == Tag(name, "site", tags.safe(site, room))


@given(TAGS)
@example(Tag("..", "site", ".."))
@example(Tag("x", "site", "aux.0"))
@example(Tag("a" * 300, "site", "b" * 300))
@example(Tag("", "site", ""))
def test_every_tag_is_a_file_that_all_loggers_and_file_systems_take(tag):
    written = str(tag)
    assert re.fullmatch(r"[A-Za-z0-9_./-]+", written)
    assert len(written) <= 100  # Comet's limit; MLflow's is 250, and that of file systems 255
    for part in written.split("/"):
        assert part
        assert ".." not in part
        assert part[0] not in ".-"
        assert part[-1] != "."
        assert not re.match(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", part, re.IGNORECASE)
    read = tags.parse(written)
    assert read is not None
    assert str(read) == written


@given(TAGS, TAGS)
def test_no_tag_is_a_folder_of_another(one, other):
    assert not str(one).startswith(f"{other}/")


@given(TEXTS, TEXTS)
@example("a/b", "a_b")
@example("a b", "a_b")
@example("a" * 101, "a" * 102)
@example("a" * 101 + ".relu", "b" + "a" * 101 + ".relu")
def test_two_sites_never_share_a_tag(one, other):
    shared = str(Tag("norm", "site", one)) == str(Tag("norm", "site", other))
    assert shared == (one == other)


def test_of_a_long_name_the_end_is_kept():
    site = "network.vision_model.encoder.layers.11.mlp.activation_fn"
    assert str(Tag("jacobian_norm", "site", site)) == f"effcx_sites/jacobian_norm/{site}"
    written = str(Tag("linear_regions.segment_different", "site", site))
    assert re.search(r"/[a-z._]+\.layers\.11\.mlp\.activation_fn-[0-9a-f]{8}$", written)
    assert len(written) == 99


def test_usual_names_of_modules_stay_as_they_are():
    for site in ("0", "layers.1.relu_2", "encoder.layer.11.LayerNorm", "blocks.conv-1", "_x"):
        assert str(Tag("norm", "site", site)) == f"effcx_sites/norm/{site}"


def test_tags_are_written_as_the_grammar_says():
    assert str(Tag("jacobian_norm")) == "effcx/jacobian_norm"
    assert str(Tag("jacobian_norm", "stderr")) == "effcx_stderr/jacobian_norm"
    assert str(Tag("transitions.arc", "seconds")) == "effcx_seconds/transitions.arc"
    assert str(Tag("transitions.arc", "site", "0.relu")) == "effcx_sites/transitions.arc/0.relu"


def test_values_come_first_where_tags_are_sorted():
    values = sorted(
        str(Tag("z", grain, "site")) for grain in ("value", "stderr", "site", "seconds")
    )
    assert values[0] == "effcx/z"


@given(WORDS, WORDS, GRAINS)
def test_a_measure_is_charted_with_its_variants_and_no_others(measure, variant, grain):
    pattern = Tag(measure, grain).with_variants
    assert re.search(pattern, str(Tag(measure, grain)))
    assert re.search(pattern, str(Tag(f"{measure}.{variant}", grain)))
    assert not re.search(pattern, str(Tag(f"{measure}{variant}", grain)))
    assert Tag(f"{measure}.{variant}", grain).measure == measure


def test_a_name_is_a_measure_and_the_words_of_its_variant():
    assert tags.name_of("jacobian_norm") == "jacobian_norm"
    assert tags.name_of("linear_regions", "arc", "estimated") == "linear_regions.arc_estimated"
    assert tags.variant_of("norm", ".dead") == "norm.dead"
    assert tags.prefixed("encoder", "norm") == "encoder_norm"
    assert tags.prefixed("", "norm") == "norm"


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        ("size", Tag("mine")),
        ("size_stderr", Tag("mine", "stderr")),
        ("size/large", Tag("mine.large")),
        ("size.large", Tag("mine.large")),
        ("large", Tag("mine_large")),
    ],
)
def test_keys_of_a_users_metric_become_tags_of_the_name_that_it_has_in_the_monitor(key, tag):
    assert tags.of_foreign_key("mine", key, own_name="size") == tag


@pytest.mark.parametrize(
    "tag",
    ["val_loss", "", "seconds/norm", "effcx/", "effcx_bands/a/lower", "effcx_sites/a", "effcx_x/a"],
)
def test_tags_of_others_are_not_ours(tag):
    assert tags.parse(tag) is None
    assert tags.renewed(tag) == tag


@given(NAMES, SITES)
def test_the_keys_of_what_a_metric_computes_are_read(name, site):
    assert Tag(name).key == name
    assert Tag(name, "stderr").key == f"{name}_stderr"
    assert Tag(name, "site", site).key == f"{name}/{site}"
    for tag in (Tag(name), Tag(name, "stderr"), Tag(name, "site", site)):
        assert tags.of_key(tag.key) == tag


@given(NAMES, SITES)
def test_tags_of_version_0_1_are_read_and_renewed(name, site):
    before = name.replace(".", "/")
    formerly = {
        f"effcx/{before}": Tag(name),
        f"effcx/{before}_stderr": Tag(name, "stderr"),
        f"effcx/{before}/at/{site}": Tag(name, "site", site),
        f"effcx/seconds/{before}": Tag(name, "seconds"),
    }
    for old, tag in formerly.items():
        assert tag.of_version_0_1 == old
        assert tags.parse(old) == tag
        assert tags.renewed(old) == str(tag)
        assert tags.renewed(str(tag)) == str(tag)
    assert tags.dotted(before) == name
    assert tags.slashed(name) == before


@pytest.mark.parametrize(
    "name",
    ["", "Norm", "a b", "a/b", "a.b.c", "a_stderr", "a.b_stderr", "1a", "a.", ".a", "a-b", "a\n"],
)
def test_names_that_could_not_be_read_back_are_refused(name):
    with pytest.raises(ValueError, match="cannot name a metric: expected lower-case letters"):
        tags.check_name(name)
