"""The time of a bus, by which the age of its publications is judged. Pure.

Rules:

- It is what the bus said last (the timestamp of an answer or of a publication that has just come) plus the monotonic
  time since. The wall clock of this machine counts at the very start alone: one that is set changes no age.
- A newer timestamp moves it forward at once. It goes back only for one that is late by more than `LATE_MS`: then the
  clock of the bus itself was set back. (A publication that merely came late makes ages too small, which does no harm.)
"""

from __future__ import annotations

from typing import Final

LATE_MS: Final = 5_000


class BusClock:
    """The time of one bus; `at` is always in monotonic seconds of this process."""

    __slots__ = ("_ahead_ms",)

    def __init__(self, wall_ms: float, at: float) -> None:
        self._ahead_ms = wall_ms - at * 1000

    def ms(self, at: float) -> float:
        """The time of the bus, ms since 1970."""
        return at * 1000 + self._ahead_ms

    def answered(self, ts: float, at: float) -> None:
        """The bus was asked, and says that it is `ts`."""
        self._ahead_ms = ts - at * 1000

    def delivered(self, ts: float, at: float) -> None:
        """A publication that the bus took at `ts` has just come."""
        ahead_ms = ts - at * 1000
        if ahead_ms > self._ahead_ms or ahead_ms < self._ahead_ms - LATE_MS:
            self._ahead_ms = ahead_ms
