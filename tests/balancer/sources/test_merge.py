"""Several sources make one list of backends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.balancer.sources.base import ORDER, Conflict, merge
from trunkline.placement.backend import BackendSpec, canonical_url

A, B = "http://10.0.0.1:3001", "http://10.0.0.2:3001"


def test_the_lists_are_united_in_the_order_of_the_sources() -> None:
    """Each backend is there once, the operator's first, whatever order the sources spoke in."""
    merged = merge({"dns": [BackendSpec(B, source="dns")], "list": [BackendSpec(A)], "nats": []})
    assert [spec.url for spec in merged.specs] == [A, B]
    assert merged.conflicts == ()


def test_the_first_source_holds_and_the_difference_is_named() -> None:
    """A weight in the list beats a label, and the conflict says which fields differ."""
    merged = merge(
        {
            "docker": [BackendSpec(A, weight=5.0, group="green", source="docker")],
            "list": [BackendSpec(A, weight=2.0)],
        }
    )
    assert merged.specs == (BackendSpec(A, weight=2.0),)
    assert merged.conflicts == (Conflict(A, "list", "docker", ("weight", "group")),)
    assert str(merged.conflicts[0]) == f"{A}: docker has different weight and group than list; list holds"


def test_the_same_words_from_two_sources_are_no_conflict() -> None:
    """A node that is listed and announces itself is quite in order."""
    merged = merge({"file": [BackendSpec(A, source="file")], "nats": [BackendSpec(A, source="nats", name="node-1")]})
    assert merged.specs == (BackendSpec(A, source="file"),)
    assert merged.conflicts == ()


def test_an_entry_twice_in_one_source_is_named() -> None:
    """The first of two entries in a list holds."""
    merged = merge({"list": [BackendSpec(A, weight=1.0), BackendSpec(A, weight=3.0)]})
    assert merged.specs == (BackendSpec(A),)
    assert str(merged.conflicts[0]) == f"{A} is in list twice with different weight; the first entry holds"


def test_draining_holds_whoever_says_it() -> None:
    """A container that is being stopped drains although the operator lists it."""
    merged = merge({"list": [BackendSpec(A, weight=2.0)], "docker": [BackendSpec(A, draining=True, source="docker")]})
    assert merged.specs == (BackendSpec(A, weight=2.0, draining=True),)


SPECS = st.builds(
    BackendSpec,
    url=st.sampled_from([f"http://10.0.0.{n}:80" for n in range(5)]),
    weight=st.sampled_from([0.0, 1.0, 2.0]),
    draining=st.booleans(),
)


@given(st.dictionaries(st.sampled_from([*ORDER, "another"]), st.lists(SPECS, max_size=6)))
def test_every_backend_is_there_exactly_once(lists: dict[str, list[BackendSpec]]) -> None:
    """No URL is lost, none is doubled, and merging the result again changes nothing."""
    merged = merge(lists)
    urls = [spec.url for spec in merged.specs]
    assert sorted(urls) == sorted({spec.url for specs in lists.values() for spec in specs})
    for spec in merged.specs:
        said = [one for specs in lists.values() for one in specs if one.url == spec.url]
        assert spec.draining == any(one.draining for one in said)
        assert spec.weight in {one.weight for one in said}
    again = merge({"list": merged.specs})
    assert again.specs == merged.specs
    assert again.conflicts == ()


@pytest.mark.parametrize(
    "text",
    ["http://a b:1", 'http://a"<b:1', "http://a;b:1", "http://a\\b:1", "http://\x00a:1", "http://[fe80::1%25e]:1"],
)
def test_a_host_is_a_name_or_an_address(text: str) -> None:
    """What a node or a label says of itself becomes no backend whose name would break what it stands in."""
    with pytest.raises(ValueError, match="host"):
        canonical_url(text)


def test_one_spelling_names_a_backend() -> None:
    """Scheme, case and the usual port are one way only."""
    assert canonical_url("WS://Node_1.Internal/") == "http://node_1.internal:80"
    assert canonical_url("wss://[FD00::1]:8443") == "https://[fd00::1]:8443"
