"""The ring of keys of newly opened connections, against a plain list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trunkline.server.connections.arrivals import Arrivals


@given(st.integers(0, 50), st.integers(1, 20), st.integers(-3, 60), st.sampled_from([None, "run", "other"]))
def test_keys_behind(opened: int, kept: int, after: int, run: str | None) -> None:
    """Those behind the number are given, or all that are kept when it means nothing here."""
    arrivals = Arrivals("run", kept)
    keys = [f"key{number}" for number in range(opened)]
    for key in keys:
        arrivals.add(key)
    assert arrivals.opened == opened
    newest = tuple(keys[-kept:])
    if run == "other" or after < 0 or after > opened:
        assert arrivals.behind(after, run) == newest
    else:
        assert arrivals.behind(after, run) == tuple(keys[after:])[-kept:]
