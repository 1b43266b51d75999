"""When each client of a draining node is asked to move: spread evenly, in random order, each with a hint. Pure.

A thousand clients asked at once reconnect at once, and the next node sheds them. So a drain gives every client a slot,
and a hint `reconnect_after_ms` that spreads those of neighbouring slots once more.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple


class Slot(NamedTuple):
    """When to ask client number `client`, seconds from the drain's start, and its hint in ms."""

    at_s: float
    client: int
    reconnect_after_ms: int


def plan(count: int, over_s: float, rng: random.Random) -> list[Slot]:
    """Slots for `count` clients over `over_s` seconds, in order of time; 0 asks all at once."""
    order = list(range(count))
    rng.shuffle(order)
    step = over_s / count if count else 0.0
    spread_ms = longest_hint_s(over_s) * 1000.0
    return [
        Slot((place + rng.random()) * step, index, int(rng.random() * spread_ms)) for place, index in enumerate(order)
    ]


def longest_hint_s(over_s: float) -> float:
    """Seconds that a hint of a plan of `over_s` seconds has at most."""
    return max(over_s / 10.0, 0.2)


def due(slots: Sequence[Slot], done: int, elapsed_s: float) -> Sequence[Slot]:
    """The slots whose time has come `elapsed_s` after the drain's start, without the first `done`."""
    end = done
    while end < len(slots) and slots[end].at_s <= elapsed_s:
        end += 1
    return slots[done:end]
