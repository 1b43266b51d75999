"""Where the keys of the affinity policy live: a key stays with its clients while their node can take more. Pure.

Without this a match would be split as soon as its node comes to its bound, in the middle of the game; so new keys stop
earlier (`affinity.NEW_KEYS`), and what is left up to the bound is for the keys that are there.

Rule: memory is bounded by time and number. A key without a new client in `KEPT_S` is forgotten; its next one
goes where hashing leads, which nearly always is where it was.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

KEPT_S: Final = 600.0
MOST: Final = 100_000
KEY_CHARS: Final = 256
"""Longer keys are not remembered; hashing alone serves them."""


class Homes:
    """The keys of recent clients, by pool."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, pool: str, key: str, now: float) -> str | None:
        """The URL where a key lives, None for a new one."""
        found = self._known.get((pool, key))
        return found[0] if found is not None and now - found[1] <= KEPT_S else None

    def settle(self, pool: str, key: str, url: str, now: float) -> None:
        """A client of the key was placed at `url`."""
        if len(key) > KEY_CHARS:
            return
        known = self._known
        known.pop((pool, key), None)
        known[pool, key] = (url, now)
        while known:
            oldest = next(iter(known))
            if len(known) <= MOST and now - known[oldest][1] <= KEPT_S:
                return
            del known[oldest]

    def forget(self, pool: str, key: str) -> None:
        """The key's clients are asked to move: hashing leads the next ones."""
        self._known.pop((pool, key), None)
