"""Rendezvous hashing with bounded load: one key always meets the same backend, and no backend gets too much. Pure.

Rules:

- Each backend gives each key a score out of nothing but its URL, its weight and the key; the highest one wins. When a
  backend leaves, only its own keys move; when one joins, only those that it wins.
- A backend wins keys in proportion to its weight (weighted rendezvous hashing).
- A backend whose connections have reached `bound` times its part of all (rounded up) passes clients on to the next in
  their key's order (consistent hashing with bounded loads), and has them back once it has room. New keys are passed on
  halfway there already, so that the clients of those that are here can still come; and a backend with a handful of
  connections is never too full, for parts of so few mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from trunkline.placement.hashing import mix, point_of, score
from trunkline.placement.pool import Backend, Lane

NEW_KEYS: Final = 0.5
"""How far on the way from its part to its bound a backend takes new keys."""

NEVER_FULL: Final = 16
"""With fewer connections a backend is never too full; for new keys half as many."""


def choose(
    lane: Lane, key: str, bound: float, now: float, tried: Sequence[str], settled: str | None = None
) -> tuple[Backend | None, bool]:
    """The backend of a key, and whether it is another than the key's own because that has its part.

    A backend may hold `bound` times its part. `settled` is the URL where the key has clients, None for a new key.
    """
    total = 1
    shares = 0.0
    for backend in lane.members:
        if backend.ready(now, tried):
            total += backend.estimate
            shares += backend.full_share
    if not shares:
        return None, False
    part = total / shares
    for backend in lane.members if settled is not None else ():
        if backend.url == settled and backend.ready(now, tried):
            if backend.estimate < max(NEVER_FULL, math.ceil(bound * part * backend.full_share)):
                return backend, False
            break
    allowed = (1.0 + (bound - 1.0) * NEW_KEYS) * part
    point = point_of(key)
    even = lane.even
    best = fitting = -1.0
    home: Backend | None = None
    chosen: Backend | None = None
    for backend in lane.members:
        # Among equal weights the order of the scores is that of the bits, which saves the logarithm.
        wanted = mix(point, backend.seed) if even else score(point, backend.seed, backend.spec.weight)
        # Readiness comes last: few scores come this far.
        if wanted > fitting and backend.ready(now, tried):
            if wanted > best:
                best = wanted
                home = backend
            if backend.estimate < math.ceil(allowed * backend.full_share):
                fitting = wanted
                chosen = backend
    # The parts add up to more than the total, so somebody has room; rounding of floats is all that could deny it.
    return (home, False) if chosen is None else (chosen, chosen is not home)
