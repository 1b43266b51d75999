"""The history of one channel, as a pure ring: append, evict, page. Pure.

Rules:

- Offsets are dense: each publication gets the offset after the last one, and none is ever given out twice.
- `floor` is exact: it is the offset of the newest publication that is gone (by count or by age), or the offset the
  history began after. Everything above it can be read.
- Time is handed in, in ms since 1970, and comes from a clock that is not set while the history lives.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from trunkline.bus.base import HistoryPage, Publication, Retention


class History:
    """Keeps the newest publications of one channel.

    Args:
        channel: copied into every publication, as `epoch`.
        epoch: the life of this history.
        retention: its `count` must be above 0.
        start: the offset that counts as given out already. A history that takes the place of one that was forgotten
            starts where no offset can have been used.

    Attributes:
        top: the newest offset that can have been given out, here or by a history this one took the place of.
    """

    __slots__ = ("_age_ms", "_channel", "_count", "_epoch", "_floor", "_kept", "_start", "top")

    def __init__(self, channel: str, epoch: str, retention: Retention, *, start: int = 0) -> None:
        if not retention.kept:
            raise ValueError(f"channel {channel} keeps nothing, so it has no history")
        self._channel = channel
        self._epoch = epoch
        self._count = retention.count
        self._age_ms = retention.age_s * 1000
        self._start = self._floor = self.top = start
        self._kept: deque[Publication] = deque()

    def append(self, data: bytes, ts: int) -> Publication:
        """Store JSON text at `ts` (ms since 1970), which eviction by age takes as the present."""
        # prev is 0 right after the start: what came before it, if anything, is forgotten.
        prev = self.top if self.top > self._start else 0
        self.top += 1
        publication = Publication(self._channel, data, self._epoch, self.top, prev, ts)
        self._kept.append(publication)
        if len(self._kept) > self._count:
            self._drop_oldest()
        self.evict(ts)
        return publication

    def evict(self, now: int) -> None:
        """Drop what is older than the retention allows at `now` (ms since 1970)."""
        oldest_allowed = now - self._age_ms
        while self._kept and self._kept[0].ts < oldest_allowed:
            self._drop_oldest()

    def empty(self, now: int) -> bool:
        """Whether nothing can be read at `now` (ms since 1970)."""
        self.evict(now)
        return not self._kept

    def page(self, after: int, limit: int, now: int) -> HistoryPage:
        """Read at most `limit` publications with offset > `after`, oldest first, as of `now` (ms since 1970)."""
        self.evict(now)
        first = max(0, after - self._floor)  # offsets are dense, so an offset is an index
        publications = list(islice(self._kept, first, first + max(0, limit)))
        top = publications[-1].offset if publications else self.top
        if top is None or top == self._start:
            top = 0  # nothing was published yet
        more = first + len(publications) < len(self._kept)
        return HistoryPage(self._epoch, self._floor, top, publications, more)

    def _drop_oldest(self) -> None:
        self._kept.popleft()
        self._floor += 1  # offsets are dense
