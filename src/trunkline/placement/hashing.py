"""Hashes by which keys find backends, the same in every process and on every balancer. Pure.

Rule: nothing here depends on the process, so no `hash()`. Clients choose the keys, so a real hash spreads them.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

_MASK: Final = (1 << 64) - 1
_SCALE: Final = 1.0 / (1 << 53)


def seed_of(url: str) -> int:
    """64 bits that stand for a backend."""
    return int.from_bytes(hashlib.blake2b(url.encode(), digest_size=8).digest(), "big")


def point_of(key: str) -> int:
    """64 bits that stand for a key."""
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
    """A backend's score for a key; with -weight / ln(h) for a uniform h it wins keys in proportion to its weight."""
    # The half keeps h within (0, 1), so that the logarithm is finite and below 0.
    return -weight / math.log(((mix(point, seed) >> 11) + 0.5) * _SCALE)
