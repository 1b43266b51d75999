"""One channel on one node: who is subscribed, what was seen last, and how a tick's publications go out. Pure.

    event       ATTACHING   LIVE          CATCHING_UP
    ATTACHED    LIVE
    MISSED                  CATCHING_UP
    CAUGHT_UP                             LIVE

    ATTACHING    the hub reads from the bus where the channel stands; live publications wait
    LIVE         each publication is the next one, and goes out with the others of its loop tick
    CATCHING_UP  the node missed something, or may have: live publications wait until history has filled the hole

What is not in the table is refused. What the subscribers saw is one chain, `last`; a publication whose `prev` lies
beyond it opens a hole. The hub talks to the bus; this file decides and writes.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping
from typing import Final

from trunkline.bus.base import Publication, Retention, Subscription
from trunkline.server.channels.publications import Outgoing
from trunkline.server.channels.window import Window
from trunkline.server.connections.ports import Subscriber


class State(enum.Enum):
    """What the channel is doing."""

    ATTACHING = "attaching"
    LIVE = "live"
    CATCHING_UP = "catching up"


class Event(enum.Enum):
    """What happens to a channel."""

    ATTACHED = "the bus delivers it, and it is known where it stands"
    MISSED = "the node missed a publication, or may have"
    CAUGHT_UP = "the subscribers have what history has, or cannot get it now"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.ATTACHING, Event.ATTACHED): State.LIVE,
    (State.LIVE, Event.MISSED): State.CATCHING_UP,
    (State.CATCHING_UP, Event.CAUGHT_UP): State.LIVE,
}

_write = os.write
Listener = Callable[[Publication], None]


class Channel:
    """A channel that somebody on this node follows.

    Attributes:
        retention: how much of it the bus keeps.
        last: the newest offset that subscribers here have seen, or know that they will not get.
        clear_to: an offset up to which history had nothing more than `last`; offsets of other channels lie between.
        joining: clients that still read what they missed and will be subscribers after it.
        pending: this tick's publications.
        waiting: live publications that cannot go out before history was read.
        recording: what went out while a window is being read, else None.
        suspect: the node may have missed something and could not read from the bus yet.
        idle_since: when the last follower left, None while there is one.
    """

    __slots__ = (
        "clear_to", "epoch", "idle_since", "joining", "last", "listeners", "name", "pending", "recording", "retention",
        "state", "subscribers", "subscription", "suspect", "waiting", "window",
    )  # fmt: skip

    def __init__(self, name: str, retention: Retention) -> None:
        self.name = name
        self.retention = retention
        self.state = State.ATTACHING
        self.epoch: str | None = None
        self.last = 0
        self.clear_to = 0
        self.joining = 0
        self.subscribers: set[Subscriber] = set()
        self.listeners: list[Listener] = []
        self.subscription: Subscription | None = None
        self.pending: list[Outgoing] = []
        self.waiting: list[Publication] = []
        self.window: Window | None = None
        self.recording: list[Outgoing] | None = None
        self.suspect = False
        self.idle_since: float | None = None

    def moved(self, event: Event) -> bool:
        """Go to the state after `event`; False when the table refuses it."""
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            return False
        self.state = following
        return True

    @property
    def followed(self) -> bool:
        """Whether anybody here needs the channel."""
        return bool(self.subscribers) or bool(self.listeners) or self.joining > 0

    @property
    def top(self) -> int:
        """The newest offset that a client can have seen, as far as this node knows."""
        return max(self.last, self.clear_to)

    def leave(self, subscriber: Subscriber, now: float) -> None:
        """End a subscription; `now` in seconds of the node's clock."""
        self.subscribers.discard(subscriber)
        self.note_idle(now)

    def note_idle(self, now: float) -> None:
        """Remember since when nobody follows the channel, if nobody does."""
        if not self.followed:
            self.idle_since = now

    def accept(self, publication: Publication) -> bool:
        """Take the next publication into the tick's batch; False when it opens a hole, or an epoch began."""
        offset = publication.offset
        if offset is None:
            self._append(publication, None)
            return True
        if publication.epoch != self.epoch or (publication.prev or 0) > self.last:
            return False
        if offset <= self.last:
            return True
        self._append(publication, self.last)
        self.last = offset
        return True

    def _append(self, publication: Publication, prev: int | None) -> None:
        outgoing = Outgoing(publication, prev)
        self.pending.append(outgoing)
        if publication.offset is not None:
            if self.window is not None:
                self.window.append(outgoing)
            if self.recording is not None:
                self.recording.append(outgoing)

    def flush(self, deflate_min_bytes: int, shared_bits: int) -> tuple[int, int, int]:
        """Write the tick's publications, joined, once to each subscriber.

        Returns how many deliveries were made, how many bytes were written, how many deliveries were dropped.
        """
        batch, self.pending = self.pending, []
        if not batch or not self.subscribers:
            return 0, 0, 0
        count = len(batch)
        plain = batch[0].frame if count == 1 else b"".join([outgoing.frame for outgoing in batch])
        packed: bytes | None = None
        first_prev = batch[0].prev
        last = batch[-1].publication.offset
        size = delivered = dropped = 0
        # A write can end a connection and so change the set; iterating over a copy costs less than looking for it.
        for connection in tuple(self.subscribers):
            if connection.deflate_bits == shared_bits:
                if packed is None:
                    packed = b"".join([outgoing.deflated(deflate_min_bytes) for outgoing in batch])
                data = packed
                length = len(data)
            else:
                data = plain
                length = len(plain)
            # What `push` does for a client that keeps up, without the call: nearly all deliveries are this.
            sent = 0
            fd = connection.fd
            if fd >= 0 and not connection.blocked and connection.corked is None and not connection.state:
                try:
                    sent = _write(fd, data)
                except OSError:
                    sent = 0
            if sent:
                connection.bytes_out += length
                if sent != length:
                    connection.hand_over(data[sent:])
            elif not connection.push(data, self, first_prev, last):
                # One that is being closed gets no more, but is not slow.
                dropped += 0 if connection.state else count
                continue
            delivered += count
            size += length
        return delivered, size, dropped
