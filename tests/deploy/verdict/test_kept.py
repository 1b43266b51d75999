"""Verdicts in the store: the newest are kept, a long one fits, and an unreadable one hides no other."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.support.deploy.example_facts import example_facts
from trunkline.bus.store.memory import MemoryStore
from trunkline.deploy.verdict import kept
from trunkline.deploy.verdict.kept import LONGEST_BYTES, UnreadableVerdict, history, keep, read
from trunkline.deploy.verdict.verdict import DeployVerdict, make_verdict
from trunkline.errors import BusUnavailable
from trunkline.protocol.deploys import VERDICTS


def verdict(number: int) -> DeployVerdict:
    return make_verdict(replace(example_facts(), id=f"d-{number}", started_at=f"2026-11-30T07:{number:02}:00Z"))


async def test_a_verdict_is_read_again() -> None:
    """By its id, or as the newest; None where there is none."""
    store = MemoryStore()
    assert await read(store) is None
    await keep(store, verdict(2))
    await keep(store, verdict(1))
    assert await read(store, "d-1") == verdict(1)
    assert await read(store) == verdict(2)
    assert await read(store, "d-9") is None
    assert await read(store, "no id at all") is None
    assert [each.facts.id for each in await history(store)] == ["d-2", "d-1"]


async def test_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the store does not grow for ever."""
    monkeypatch.setattr(kept, "KEPT", 3)
    store = MemoryStore()
    for number in (3, 1, 4, 2, 5):
        await keep(store, verdict(number))
    assert [each.facts.id for each in await history(store)] == ["d-5", "d-4", "d-3"]
    await keep(store, verdict(5))
    assert len(await history(store)) == 3


async def test_a_long_deploy_fits() -> None:
    """Seconds are put together until it does; nothing else is lost."""
    store = MemoryStore()
    facts = example_facts()
    long = make_verdict(replace(facts, samples=facts.samples * 100))
    await keep(store, long)
    entry = await store.get(VERDICTS + facts.id)
    assert entry is not None
    assert len(entry.value) <= LONGEST_BYTES
    back = await read(store)
    assert back is not None
    assert replace(back.facts, samples=()) == replace(long.facts, samples=())
    assert len(back.facts.samples) > 500


async def test_long_texts_fit() -> None:
    """Notes and reasons of others lose their ends when nothing else is left to drop."""
    store = MemoryStore()
    facts = example_facts()
    note = "x" * 10_000
    spans = tuple(replace(span, why=note) for span in facts.spans)
    await keep(store, make_verdict(replace(facts, notes=(note,) * 100, why=note, spans=spans)))
    entry = await store.get(VERDICTS + facts.id)
    assert entry is not None
    assert len(entry.value) <= LONGEST_BYTES
    back = await read(store)
    assert back is not None
    assert len(back.facts.notes) == 100


async def test_a_clock_that_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest verdict is not taken for the oldest."""
    monkeypatch.setattr(kept, "KEPT", 2)
    store = MemoryStore()
    for number in (3, 4, 1):
        await keep(store, verdict(number))
    assert await read(store, "d-1") == verdict(1)


async def test_an_unreadable_one() -> None:
    """It is named when it is asked for, and passed over otherwise."""
    store = MemoryStore()
    await keep(store, verdict(1))
    await store.put(f"{VERDICTS}d-2", b'{"format": 99}', None)
    assert [each.facts.id for each in await history(store)] == ["d-1"]
    with pytest.raises(UnreadableVerdict, match="deploy d-2 cannot be read: format 99 is of a newer release"):
        await read(store, "d-2")


async def test_an_outage_is_no_empty_history() -> None:
    """What cannot be read is not taken for nothing."""
    store = MemoryStore()
    store.reachable = False
    with pytest.raises(BusUnavailable):
        await read(store)
