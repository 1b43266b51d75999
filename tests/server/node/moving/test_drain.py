"""The plan of a drain: every client once, evenly spread, in an order that nobody can foresee."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from trunkline.server.node.moving.drain import due, plan


@given(st.integers(0, 300), st.floats(0, 600), st.integers(0, 99))
def test_every_client_has_one_slot(count: int, over_s: float, seed: int) -> None:
    """Each client stands in the plan once, the slots are in order of time and within the drain."""
    slots = plan(count, over_s, random.Random(seed))
    assert sorted(slot.client for slot in slots) == list(range(count))
    times = [slot.at_s for slot in slots]
    assert times == sorted(times)
    assert all(0 <= at <= over_s for at in times)
    assert all(slot.reconnect_after_ms >= 0 for slot in slots)


def test_clients_are_spread_evenly() -> None:
    """Each tenth of the time has a tenth of the clients, one more or less."""
    slots = plan(1000, 60.0, random.Random(1))
    for tenth in range(10):
        assert 99 <= sum(tenth * 6 <= slot.at_s < tenth * 6 + 6 for slot in slots) <= 101


def test_order_and_hints_are_random() -> None:
    """Neighbours neither leave one after the other nor come back at the same time; a seed repeats the plan."""
    slots = plan(200, 10.0, random.Random(1))
    assert [slot.client for slot in slots] != list(range(200))
    assert len({slot.reconnect_after_ms for slot in slots}) > 100
    assert max(slot.reconnect_after_ms for slot in slots) < 1000
    assert plan(200, 10.0, random.Random(1)) == slots
    assert plan(200, 10.0, random.Random(2)) != slots


def test_all_at_once() -> None:
    """Over no time everybody is told at the start, with hints that still spread their return."""
    slots = plan(50, 0.0, random.Random(1))
    assert {slot.at_s for slot in slots} == {0.0}
    assert len(due(slots, 0, 0.0)) == 50
    assert len({slot.reconnect_after_ms for slot in slots}) > 20


@given(st.integers(0, 60), st.lists(st.floats(0, 3), max_size=20))
def test_due_hands_out_each_slot_once(count: int, waits: list[float]) -> None:
    """However often one looks, each slot comes once, not before its time, and none is left at the end."""
    slots = plan(count, 5.0, random.Random(count))
    told: list[int] = []
    elapsed = 0.0
    for wait in [*waits, 10.0]:
        elapsed += wait
        found = due(slots, len(told), elapsed)
        assert all(slot.at_s <= elapsed for slot in found)
        told += [slot.client for slot in found]
        assert all(slot.at_s > elapsed for slot in slots[len(told) :])
    assert told == [slot.client for slot in slots]
