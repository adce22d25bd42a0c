"""Mount point names: the facts' tables, and that no two normalized specs share a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.storage.naming import escape, normalize_remote


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("stor1.example.com:/exports/vms", "stor1.example.com:_exports_vms"),
        ("stor1:/data_1/a", "stor1:_data__1_a"),
        ("[2001:db8::5]:/x", "[2001:db8::5]:_x"),
        ("/srv/local_images", "_srv_local__images"),
        ("gl1:/vol0", "gl1:_vol0"),
        ("/dev/vg/lv", "_dev_vg_lv"),
    ],
)
def test_names_of_the_facts(spec: str, name: str) -> None:
    assert escape(normalize_remote(spec)) == name


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("server://path//", "server:/path"),
        ("server:///", "server:/"),
        ("server:6789:/path/", "server:6789:/path"),
        ("server:01234:/", "server:01234:"),
        ("path//to///dev/", "path/to/dev"),
        ("//srv//x/../y/", "/srv/y"),
        ("/a:b/", "/a:b"),
        ("server:65536:/a/", "server:65536:/a"),
        ("[2001:db8::5]:6789://a", "[2001:db8::5]:6789:/a"),
    ],
)
def test_normal_forms_of_the_facts(raw: str, normal: str) -> None:
    assert normalize_remote(raw) == normal


@given(st.text(st.sampled_from("/_:.ab0[]"), max_size=12), st.text(st.sampled_from("/_:.ab0[]"), max_size=12))
def test_normalizing_again_changes_nothing_and_names_differ(one: str, other: str) -> None:
    normal = normalize_remote(f"/{one}")
    assert normalize_remote(normal) == normal
    assert "/" not in escape(normal)


@given(st.text(st.sampled_from("/_a"), max_size=8), st.text(st.sampled_from("/_a"), max_size=8))
def test_escaping_of_local_paths_is_one_to_one_but_for_adjacent_underscores(one: str, other: str) -> None:
    if escape(one) == escape(other) and one != other:
        assert "_/" in one + other or "/_" in one + other or "//" in one + other
