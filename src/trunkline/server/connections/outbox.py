"""What a client that reads slowly has not taken yet: bounded in bytes, with the gap-then-close ladder. Pure.

An outbox exists only while the kernel does not take a client's bytes; most connections never have one.

    below the bound          everything is queued
    above it                 publications are dropped, one gap a channel is remembered; control messages are queued
    drained to half of it    the gaps are queued, publications flow again
    above it for the grace   the client is closed: "client too slow"

Control messages are never dropped. When they alone reach `HARD_FACTOR` times the bound, the client is closed at once,
because memory has to be bounded somewhere.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

HARD_FACTOR: Final = 4


class Dropped(NamedTuple):
    """The publications of one channel that were dropped: `after` < offset < `before`; all None without history."""

    channel: str
    epoch: str | None
    after: int | None
    before: int | None


class Outbox:
    """Frames waiting for one client: bounded by `limit` bytes, which it may exceed for `grace_s` seconds."""

    __slots__ = ("_dropped", "_frames", "grace_s", "limit", "over_since", "size")

    def __init__(self, limit: int, grace_s: float) -> None:
        self.limit = limit
        self.grace_s = grace_s
        self.size = 0
        self.over_since: float | None = None
        self._frames: deque[bytes] = deque()
        self._dropped: dict[str, Dropped] = {}

    def __bool__(self) -> bool:
        return bool(self._frames) or bool(self._dropped)

    def put(self, frame: bytes, in_flight: int, now: float) -> bool:
        """Queue a control message or an answer; False when the hard bound is reached and the client has to be closed.

        `in_flight` counts the bytes handed to the transport that the kernel has not taken, `now` is in seconds.
        """
        self._frames.append(frame)
        self.size += len(frame)
        held = self.size + in_flight
        if held > self.limit and self.over_since is None:
            self.over_since = now
        return held <= self.limit * HARD_FACTOR or len(self._frames) == 1

    def put_publications(
        self,
        frame: bytes,
        channel: str,
        epoch: str | None,
        prev: int | None,
        last: int | None,
        in_flight: int,
        now: float,
    ) -> bool:
        """Queue publications of one channel, or drop them and return False.

        `prev` is the offset before the first of them and `last` that of the last, both of `epoch`; `in_flight` as in
        `put`.
        """
        earlier = self._dropped.get(channel)
        if earlier is None and self.size + in_flight + len(frame) <= self.limit:
            self._frames.append(frame)
            self.size += len(frame)
            return True
        before = None if last is None else last + 1
        if earlier is None or earlier.epoch != epoch:
            self._dropped[channel] = Dropped(channel, epoch, prev, before)
        else:
            self._dropped[channel] = earlier._replace(before=before)
        if self.over_since is None:
            self.over_since = now
        return False

    def widen(self, channel: str, epoch: str | None, last: int | None) -> bool:
        """Let the gap that is to be announced in `channel` reach over offset `last`; False when there is none.

        A gap of an epoch that has ended is forgotten: the gap between the epochs covers it.
        """
        earlier = self._dropped.get(channel)
        if earlier is None:
            return False
        if earlier.epoch != epoch:
            del self._dropped[channel]
            return False
        self._dropped[channel] = earlier._replace(before=None if last is None else last + 1)
        return True

    def forget(self, channel: str) -> Dropped | None:
        """Let go of the gap that is to be announced in `channel`, and return it."""
        return self._dropped.pop(channel, None)

    def take(self, most: int) -> bytes:
        """Hand out frames for the transport, at least one and up to about `most` bytes; empty when there are none."""
        frames = self._frames
        if not frames:
            return b""
        taken = [frames.popleft()]
        size = len(taken[0])
        while frames and size + len(frames[0]) <= most:
            taken.append(frames.popleft())
            size += len(taken[-1])
        self.size -= size
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def gaps_due(self, in_flight: int) -> list[Dropped]:
        """The gaps to announce, once enough has drained that publications may flow again; they are forgotten here."""
        if self.size + in_flight > self.limit // 2:
            return []
        self.over_since = None
        return self.all_gaps()

    def all_gaps(self) -> list[Dropped]:
        """The gaps to announce to a client that gets no more publications; they are forgotten here."""
        gaps = list(self._dropped.values())
        self._dropped.clear()
        return gaps

    def too_slow(self, now: float) -> bool:
        """Whether the client has been above the bound for longer than the grace time."""
        return self.over_since is not None and now - self.over_since >= self.grace_s

    def clear(self) -> None:
        """Drop everything, to make room for the goodbye to a client that is being closed."""
        self._frames.clear()
        self._dropped.clear()
        self.size = 0
