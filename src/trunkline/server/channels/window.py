"""A channel's recent publications on this node, and the merge of history with what arrives meanwhile. Pure.

History is read from the bus while live publications keep arriving, so the same publication may come by both ways, or
one may come by neither when the node lost its bus for a moment. `merge` turns the two into one run without duplicates,
or names the hole. A `Window` is that run kept for a while: a thousand clients that recover at once read it, not the
bus.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from trunkline.bus.base import HistoryPage, Publication
from trunkline.server.channels.publications import Outgoing


class Hole(NamedTuple):
    """Offsets `after` < offset < `before` were not in history and did not arrive live."""

    after: int
    before: int


class Merged(NamedTuple):
    """Publications in order, each once; `hole` names the first missing stretch, and nothing after it is included."""

    publications: list[Publication]
    top: int
    hole: Hole | None


def merge(after: int, history: Sequence[Publication], live: Sequence[Publication]) -> Merged:
    """Join history (after offset `after`, without holes) with publications that arrived live while it was read.

    A live publication continues the run when the offset before it is not beyond what the run has: then nothing can be
    between them. `prev` below the run's end is fine, because older publications may have expired from the bus.
    """
    run: list[Publication] = []
    top = after
    for publication in history:
        offset = publication.offset or 0
        if offset > top:
            run.append(publication)
            top = offset
    for publication in live:
        offset = publication.offset or 0
        if offset <= top:
            continue
        if (publication.prev or 0) > top:
            return Merged(run, top, Hole(top, offset))
        run.append(publication)
        top = offset
    return Merged(run, top, None)


class Window:
    """The publications of a channel after `floor`, up to the newest, without holes.

    It begins with a page of history and keeps at most `capacity` publications; the floor rises past them.
    """

    __slots__ = ("_capacity", "_items", "_offsets", "floor", "top", "used_at")

    def __init__(self, page: HistoryPage, capacity: int, now: float) -> None:
        self._capacity = max(capacity, 1)
        self._items: list[Outgoing] = []
        self._offsets: list[int] = []
        self.floor = page.floor
        self.top = max(page.top, page.floor)
        self.used_at = now
        before = page.publications[0].prev if page.publications else None
        before = page.floor if before is None else before
        for publication in page.publications:
            self.append(Outgoing(publication, before))
            before = publication.offset

    def append(self, outgoing: Outgoing) -> None:
        """Add the channel's next publication."""
        offset = outgoing.publication.offset or 0
        self._items.append(outgoing)
        self._offsets.append(offset)
        self.top = offset
        # Cut in slabs: a list is cheap to index and expensive to shorten at its front.
        excess = len(self._items) - self._capacity
        if excess > self._capacity // 4:
            self.floor = self._offsets[excess - 1]
            del self._items[:excess]
            del self._offsets[:excess]

    def expire(self, older_than_ts: int) -> None:
        """Let go of publications taken by the bus before `older_than_ts` (ms since 1970)."""
        count = 0
        while count < len(self._items) and self._items[count].publication.ts < older_than_ts:
            count += 1
        if count:
            self.floor = self._offsets[count - 1]
            del self._items[:count]
            del self._offsets[:count]

    def covers(self, after: int) -> bool:
        """Whether everything after offset `after` is here."""
        return after >= self.floor

    def since(self, after: int) -> list[Outgoing]:
        """The publications with offset > `after`, oldest first."""
        return self._items[bisect_right(self._offsets, after) :]

    def between(self, start: int, to: int) -> list[Outgoing]:
        """The publications with `start` <= offset <= `to`."""
        return self._items[bisect_right(self._offsets, start - 1) : bisect_right(self._offsets, to)]
