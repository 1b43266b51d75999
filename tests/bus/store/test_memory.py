"""The outage that tests can make of the store in memory."""

from __future__ import annotations

import pytest

from tests.support.server.store_probe import Seen
from trunkline.bus.store.memory import MemoryStore
from trunkline.errors import BusUnavailable


async def test_an_outage_fails_calls_and_silences_watchers_until_it_ends() -> None:
    """While it is unreachable every call fails and nobody hears; then watchers are given what they do not have."""
    store, seen, late = MemoryStore(), Seen(), Seen()
    revision = await store.put("a", b"1", 0)
    await store.watch("a", seen)
    store.reachable = False
    for call in (store.get("a"), store.keys(), store.put("a", b"2", revision), store.delete("a", revision)):
        with pytest.raises(BusUnavailable):
            await call
    await store.watch("a", late)
    assert late.got == []
    store.reachable = True
    assert (seen.got, late.got) == ([("a", b"1")], [("a", b"1")])
    await store.put("a", b"2", revision)
    assert seen.got == late.got == [("a", b"1"), ("a", b"2")]
    await store.close()
    await store.put("a", b"3", None)
    assert len(seen.got) == 2
