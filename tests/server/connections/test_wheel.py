"""The timing wheel: nothing is handed out early, nothing much late, and nothing twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.server.connections.wheel import Wheel

TICK = 0.25


class Entry:
    """Something that waits."""

    def __init__(self) -> None:
        self.slot = -1
        self.due = 0.0


def test_due_entries_are_handed_out_once() -> None:
    """An entry comes out at the first turn after it is due, and is out of the wheel then."""
    wheel: Wheel[Entry] = Wheel(TICK, 8, 100.0)
    entry = Entry()
    wheel.schedule(entry, 101.0)
    assert wheel.advance(100.9) == []
    assert wheel.advance(101.3) == [entry]
    assert entry.slot == -1
    assert wheel.advance(200.0) == []


def test_moved_and_cancelled_entries() -> None:
    """Scheduling again moves an entry; a cancelled one never comes; cancelling twice does no harm."""
    wheel: Wheel[Entry] = Wheel(TICK, 8, 0.0)
    moved, cancelled = Entry(), Entry()
    wheel.schedule(moved, 0.5)
    wheel.schedule(cancelled, 0.5)
    wheel.schedule(moved, 1.5)
    wheel.cancel(cancelled)
    wheel.cancel(cancelled)
    assert wheel.advance(1.4) == []
    assert wheel.advance(2.0) == [moved]


@pytest.mark.parametrize("due", [1.0, 2.1, 2.4, 7.9, 63.2])
def test_far_entries_wait_whole_turns(due: float) -> None:
    """An entry further away than a turn of the wheel is neither early nor lost."""
    wheel: Wheel[Entry] = Wheel(TICK, 4, 0.0)
    entry = Entry()
    wheel.schedule(entry, due)
    now = 0.0
    while not wheel.advance(now):
        now += 0.05
        assert now < due + 2 * TICK
    assert now >= due


def test_past_entries_come_at_the_next_tick() -> None:
    """What is due already comes with the next tick."""
    wheel: Wheel[Entry] = Wheel(TICK, 4, 10.0)
    entry = Entry()
    wheel.schedule(entry, 3.0)
    assert wheel.advance(10.2) == []
    assert wheel.advance(10.25) == [entry]


def test_a_standstill_hands_out_everything_due() -> None:
    """After the process stood still for many turns, all that is due comes at once and the rest stays."""
    wheel: Wheel[Entry] = Wheel(TICK, 4, 0.0)
    entries = [Entry() for _ in range(50)]
    for number, entry in enumerate(entries):
        wheel.schedule(entry, float(number))
    assert set(wheel.advance(30.4)) == set(entries[:31])
    assert set(wheel.advance(60.0)) == set(entries[31:])


@given(
    st.lists(st.tuples(st.floats(0, 0.7), st.none() | st.floats(0, 20), st.integers(0, 3), st.booleans()), max_size=80),
    st.integers(2, 9),
)
def test_never_early_and_hardly_late(steps: list[tuple[float, float | None, int, bool]], slots: int) -> None:
    """Over any run of schedules, moves, cancels and turns, every entry comes when it is due, one tick later at most."""
    wheel: Wheel[Entry] = Wheel(TICK, slots, 0.0)
    entries = [Entry() for _ in range(4)]
    waiting: dict[int, float] = {}
    now = 0.0
    for wait, delay, which, cancel in [*steps, *[(TICK / 2, None, 0, False)] * 200]:
        now += wait
        for entry in wheel.advance(now):
            due = waiting.pop(entries.index(entry))
            assert due <= now
        for due in waiting.values():
            assert now - due <= 2 * TICK, "an entry that is due by more than a tick is still in the wheel"
        if cancel:
            wheel.cancel(entries[which])
            waiting.pop(which, None)
        elif delay is not None:
            wheel.schedule(entries[which], now + delay)
            waiting[which] = now + delay
    assert not waiting or min(waiting.values()) > now - 2 * TICK
