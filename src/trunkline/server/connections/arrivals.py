"""Which WebSockets a node has opened lately: a bounded ring of their keys. Pure.

A balancer counts each of its picks at a node until it sees the connection there: it knows it by the Sec-WebSocket-Key
that both saw. Adding one costs a connection no more than an append.

Rule: `opened` counts from 0 in each `run`; with another run, numbers of an earlier one mean nothing.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

KEPT = 4096
"""Keys kept; a node that opens more between two looks is settled by its count."""


class Arrivals:
    """The keys of the newest WebSockets; `run` is drawn at the start of the process, `opened` counts since then."""

    __slots__ = ("_keys", "opened", "run")

    def __init__(self, run: str, kept: int = KEPT) -> None:
        self.run = run
        self.opened = 0
        self._keys: deque[str] = deque(maxlen=kept)

    def add(self, key: str) -> None:
        """A WebSocket was opened; `key` is its Sec-WebSocket-Key."""
        self.opened += 1
        self._keys.append(key)

    def behind(self, after: int, run: str | None = None) -> tuple[str, ...]:
        """Keys of those behind the first `after`, oldest first, as far as they are kept.

        All that are kept when there was no look before (`after` is negative), or when `after` was counted in another
        `run`.
        """
        new = self.opened - after
        kept = len(self._keys)
        if new < 0 or new > kept or after < 0 or (run is not None and run != self.run):
            new = kept
        return tuple(islice(self._keys, kept - new, None))
