"""One timing wheel for every time-out of a node: entries wait in slots, `advance` hands out those that are due. Pure.

Heartbeats, idle connections, handshakes and closes of 10,000 connections would otherwise be 10,000 timers of the
event loop. Here an entry costs a place in a set; time has the wheel's tick as its grain, and an entry further away than
one turn of the wheel is looked at once a turn.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """What can wait in a wheel: it remembers its slot (-1: none) and when it is due."""

    slot: int
    due: float

    def on_time(self, now: float) -> float | None:
        """It is due; returns when it is due next, None for never."""


T = TypeVar("T", bound=Timed)


class Wheel(Generic[T]):
    """A wheel of `slots`, `tick_s` seconds apart; entries are handed out at most so late."""

    def __init__(self, tick_s: float, slots: int, now: float) -> None:
        self._tick = tick_s
        self._slots: list[set[T]] = [set() for _ in range(slots)]
        self._at = 0
        self._time = now

    def schedule(self, entry: T, due: float) -> None:
        """Put `entry` (or move it) to where it is handed out at `due`."""
        self.cancel(entry)
        entry.due = due
        ticks = int((due - self._time) / self._tick) + 1
        entry.slot = (self._at + min(max(ticks, 1), len(self._slots) - 1)) % len(self._slots)
        self._slots[entry.slot].add(entry)

    def cancel(self, entry: T) -> None:
        """Take `entry` out; it may not be in."""
        if entry.slot >= 0:
            self._slots[entry.slot].discard(entry)
            entry.slot = -1

    def advance(self, now: float) -> list[T]:
        """Turn the wheel to `now`; returns the entries that are due. They are out of the wheel."""
        due: list[T] = []
        while now - self._time >= self._tick:
            self._time += self._tick
            self._at = (self._at + 1) % len(self._slots)
            slot = self._slots[self._at]
            if not slot:
                continue
            self._slots[self._at] = set()
            for entry in slot:
                entry.slot = -1
                if entry.due <= now:
                    due.append(entry)
                else:
                    self.schedule(entry, entry.due)
        return due
