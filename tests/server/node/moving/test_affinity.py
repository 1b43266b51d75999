"""What keeps clients together, read from a request target."""

from __future__ import annotations

from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.balancer.routes import Route
from trunkline.http1.requests import Request
from trunkline.server.node.moving.affinity import reader_of
from trunkline.settings.balancer import RouteEntry


@pytest.mark.parametrize(
    ("affinity", "target", "value"),
    [
        ("query:m", "/x?m=1", "1"),
        ("query:m", "/x?a=2&m=1&b", "1"),
        ("query:m", "/x?m=1&m=2", "2"),
        ("query:m", "/x?m=", None),
        ("query:m", "/x?m=1&m", None),
        ("query:m", "/x?m=" + "y" * 257, None),
        ("query:m", "/x?" + "&".join(f"m={number}" for number in range(150)), "99"),
        ("query:m", "/x?mm=1", None),
        ("query:m", "/x", None),
        ("query:m", "/x?%6d=a%20b+c", "a b c"),
        ("path:1", "/room/7?x=1", "room"),
        ("path:2", "/room/a%20b?x=1", "a b"),
        ("path:2", "/room", None),
        ("path:2", "/room/", None),
    ],
)
def test_values(affinity: str, target: str, value: str | None) -> None:
    """Each form, and where there is none."""
    read = reader_of(affinity)
    assert read is not None
    assert read(target) == value


@given(st.text(min_size=1), st.text(min_size=1), st.dictionaries(st.text(), st.text(), max_size=5))
def test_any_query(name: str, value: str, others: dict[str, str]) -> None:
    """Whatever name and value are, a well-formed query gives the value back."""
    read = reader_of(f"query:{name}")
    assert read is not None
    others.pop(name, None)
    query = "&".join(part for part in (urlencode(others), f"{quote_plus(name)}={quote_plus(value)}") if part)
    assert read(f"/x?{query}") == value


FIELDS = st.lists(st.tuples(st.sampled_from(["m", "%6d", "n", ""]), st.sampled_from(["", "=", "=1", "=a+b%20"])))


@given(FIELDS, st.integers(0, 130))
def test_balancer_and_node_agree(fields: list[tuple[str, str]], before: int) -> None:
    """What a balancer places by is what the node counts by, and what its application reads."""
    target = "/room/7?" + "&".join(["x=1"] * before + ["".join(field) for field in fields])
    read = reader_of("query:m")
    assert read is not None
    assert Route(RouteEntry("/"), "affinity", "query:m").affinity(target, {}) == read(target)
    assert read(target) == (Request("GET", target, "/room/7", {}).query.get("m") or None)


def test_what_nodes_cannot_know() -> None:
    """Headers and cookies are not kept; what is no affinity says so."""
    assert reader_of("header:X-Room") is None
    assert reader_of("cookie:room") is None
    for wrong in ("", "query", "query:", "path:0", "path:x", "path:100", "colour:red"):
        with pytest.raises(ValueError, match="no affinity"):
            reader_of(wrong)
