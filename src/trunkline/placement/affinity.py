"""Rendezvous hashing with bounded load: one key always meets the same backend, and no backend gets too much. Pure.

Rules:

- Each backend gives each key a score out of nothing but its URL, its weight and the key; the highest one wins. When a
  backend leaves, only its own keys move; when one joins, only those that it wins.
- With -weight / ln(h) for a uniform h, a backend wins keys in proportion to its weight (weighted rendezvous hashing).
- A backend whose connections have reached `bound` times its part of all (rounded up) passes clients on to the next in
  their key's order (consistent hashing with bounded loads), and has them back once it has room. New keys are passed on
  halfway there already, so that the clients of those that are here can still come; and a backend with a handful of
  connections is never too full, for parts of so few mean nothing.
- Several processes and balancers must agree, so nothing here depends on the process: no `hash()`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trunkline.placement.pool import Backend, Lane

NEW_KEYS: Final = 0.5
"""How far on the way from its part to its bound a backend takes new keys."""

NEVER_FULL: Final = 16
"""With fewer connections a backend is never too full; for new keys half as many."""

_MASK: Final = (1 << 64) - 1
_SCALE: Final = 1.0 / (1 << 53)


def seed_of(url: str) -> int:
    """64 bits that stand for a backend."""
    return int.from_bytes(hashlib.blake2b(url.encode(), digest_size=8).digest(), "big")


def point_of(key: str) -> int:
    """64 bits that stand for a key; keys are what clients send, so they are spread by a real hash."""
    data = key.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def mix(point: int, seed: int) -> int:
    """64 evenly spread bits out of a key's and a backend's: the finaliser of SplitMix64 over their sum.

    A real hash of both would cost twice as much for each backend of each pick.
    """
    x = (point + seed) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def score(point: int, seed: int, weight: float) -> float:
    """How much a backend wants a key."""
    # The half keeps h within (0, 1), so that the logarithm is finite and below 0.
    return -weight / math.log(((mix(point, seed) >> 11) + 0.5) * _SCALE)


def choose(
    lane: Lane, key: str, bound: float, now: float, tried: Sequence[str], settled: str | None = None
) -> tuple[Backend | None, bool]:
    """The backend of a key, and whether it is another than the key's own because that has its part.

    Args:
        lane: the backends.
        key: what must stay together.
        bound: how many times its part a backend may hold.
        now: seconds.
        tried: URLs not to be chosen.
        settled: the URL where the key has clients, None for a new key.
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
        if backend.url == settled and backend.ready(now, tried) and _has_room(backend, bound * part, NEVER_FULL):
            return backend, False
    allowed = (1.0 + (bound - 1.0) * NEW_KEYS) * part
    point = point_of(key)
    even = lane.even
    best = fitting = -1.0
    home: Backend | None = None
    chosen: Backend | None = None
    for backend in lane.members:
        # Among equal weights the order of the scores is that of the bits, which saves the logarithm.
        wanted = mix(point, backend.seed) if even else score(point, backend.seed, backend.spec.weight)
        # Readiness is asked last: few scores come this far.
        if wanted > fitting and backend.ready(now, tried):
            if wanted > best:
                best = wanted
                home = backend
            if backend.estimate < math.ceil(allowed * backend.full_share):
                fitting = wanted
                chosen = backend
    # The parts add up to more than the total, so somebody has room; rounding of floats is all that could deny it.
    return (home, False) if chosen is None else (chosen, chosen is not home)


def _has_room(backend: Backend, allowed: float, always: int) -> bool:
    return backend.estimate < max(always, math.ceil(allowed * backend.full_share))
