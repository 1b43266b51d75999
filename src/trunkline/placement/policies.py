"""The ways to choose one backend of a lane. Pure.

Each gets the lane, `now` in seconds, the URLs not to be chosen, and a source of chance; it returns a backend that is
ready, or None when there is none. Rule: nothing is allocated for each backend looked at.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

from trunkline.placement.pool import FULL, Backend, Lane

Chooser = Callable[[Lane, float, Sequence[str], random.Random], Backend | None]

DRAWS: Final = 8
"""Draws of a backend at random until all are looked at, which costs more."""


def least_connections(lane: Lane, now: float, tried: Sequence[str], rng: random.Random) -> Backend | None:
    """The lowest load; ties by chance, each with the same."""
    best = FULL
    chosen: Backend | None = None
    ties = 0
    for backend in lane.members:
        load = backend.load
        # The rest of `Backend.ready` comes behind the comparison that most backends fail.
        if load > best or load == FULL or backend.condition.until > now or (tried and backend.url in tried):
            continue
        if load < best:
            best = load
            chosen = backend
            ties = 1
        else:
            ties += 1
            if rng.random() * ties < 1.0:
                chosen = backend
    return chosen


def p2c(lane: Lane, now: float, tried: Sequence[str], rng: random.Random) -> Backend | None:
    """The lower load of two drawn at random."""
    members = lane.members
    first: Backend | None = None
    for _ in range(DRAWS):
        drawn = members[int(rng.random() * len(members))]
        if drawn is first or not drawn.ready(now, tried):
            continue
        if first is not None:
            return drawn if drawn.load < first.load else first
        first = drawn
    return first or _any(lane, now, tried, rng)


def round_robin(lane: Lane, now: float, tried: Sequence[str], rng: random.Random) -> Backend | None:
    """One after the other, in proportion to their weights: smooth weighted round robin."""
    chosen: Backend | None = None
    total = 0.0
    for backend in lane.members:
        if backend.ready(now, tried):
            weight = backend.spec.weight
            total += weight
            backend.turn += weight
            if chosen is None or backend.turn > chosen.turn:
                chosen = backend
    if chosen is not None:
        chosen.turn -= total
    return chosen


def at_random(lane: Lane, now: float, tried: Sequence[str], rng: random.Random) -> Backend | None:
    """Any, in proportion to their weights."""
    members, weights = lane.members, lane.weights
    for _ in range(DRAWS):
        drawn = members[min(bisect_right(weights, rng.random() * weights[-1]), len(members) - 1)]
        if drawn.ready(now, tried):
            return drawn
    return _any(lane, now, tried, rng)


def _any(lane: Lane, now: float, tried: Sequence[str], rng: random.Random) -> Backend | None:
    chosen: Backend | None = None
    total = 0.0
    for backend in lane.members:
        if backend.ready(now, tried):
            total += backend.spec.weight
            if rng.random() * total < backend.spec.weight:
                chosen = backend
    return chosen


CHOOSERS: Final[dict[str, Chooser]] = {
    "least_connections": least_connections,
    "p2c": p2c,
    "round_robin": round_robin,
    "random": at_random,
}
"""By the name of the setting; affinity needs the key and has a module of its own."""
