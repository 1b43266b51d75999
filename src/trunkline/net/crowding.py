"""Connections dropped to make room for others, as an operator should hear of them: once, not for each. Pure."""

from __future__ import annotations

from typing import Final

QUIET_S: Final = 60.0
"""After so long without a drop the next one is news again."""


class Crowding:
    """Which drops are to be logged."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = float("-inf")

    def is_news(self, now: float) -> bool:
        """A connection is dropped, at `now` seconds of a steady clock; True when that is to be logged."""
        quiet_s, self._last = now - self._last, now
        return quiet_s > QUIET_S
