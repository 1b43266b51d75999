"""Which backends come back again and again, and from when on each counts as room. Pure.

Rules:

- A backend that comes back waits before it counts as room, twice as long each time: moving clients to one that crashes
  would disturb them in vain.
- After `STEADY_S` in a row in the fleet it begins again. A successor is known by its URL or by its name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec

from trunkline.balancer.rebalance.rows import Row

STEADY_S: Final = 600.0
MOST_S: Final = 600.0
"""Longest wait."""

_DOUBLINGS: Final = 20


class _Known(msgspec.Struct):
    """One backend; `times`: how often it came back, `left_at`: None while it is here."""

    came_at: float
    times: int = 0
    left_at: float | None = None

    def times_at(self, now: float) -> int:
        """How often it had come back, as far as that still counts."""
        stayed_s = (now if self.left_at is None else self.left_at) - self.came_at
        return -1 if stayed_s >= STEADY_S else self.times


class Comebacks:
    """All backends seen within `STEADY_S`, by URL and by name."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def observe(self, rows: Iterable[Row], now: float) -> None:
        """Take the backends that can be used now."""
        here: set[str] = set()
        for row in rows:
            names = [row.url, row.node] if row.node else [row.url]
            found = self._known.get(row.url)
            if found is None or found.left_at is not None:
                before = [known for name in names if (known := self._known.get(name)) is not None]
                found = _Known(now, max((known.times_at(now) + 1 for known in before), default=0))
            for name in names:
                self._known[name] = found
            found.left_at = None
            here.update(names)
        present = {id(self._known[name]) for name in here}
        for name, known in list(self._known.items()):
            if name in here:
                continue
            if id(known) in present:
                # The name that a node had before.
                del self._known[name]
            elif known.left_at is None:
                known.left_at = now
            elif now - known.left_at > STEADY_S:
                del self._known[name]

    def room_from(self, url: str, delay_s: float) -> float:
        """When a backend counts as room, infinity for one not seen yet; its first coming waits `delay_s` elsewhere."""
        known = self._known.get(url)
        if known is None:
            # It came while answers were waited for: the next look takes it.
            return math.inf
        return known.came_at + min(delay_s * ((1 << min(known.times, _DOUBLINGS)) - 1), MOST_S)
