"""Clients that published to everyone but themselves, and wait for the ack that stands in their message's place.

The ack has to come where the publication would have come, so that the sender's position in the channel has no hole. It
is therefore written when the publication passes by, not when the bus acknowledged it. Should it come another way (from
history, after the bus was away) or not at all, the sender gets an ack without a place.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from trunkline.bus.base import Published
from trunkline.protocol import wire
from trunkline.server.channels.channel import Channel
from trunkline.server.connections.clock import Clock
from trunkline.server.connections.ports import Subscriber

SENDER_WAIT_S: Final = 5.0
"""How long an acknowledged publication may take to come back before its sender is answered without waiting for it."""


class Sender(msgspec.Struct, eq=False):
    """One client that waits."""

    connection: Subscriber
    id: wire.MessageId
    channel: str
    published: Published | None = None
    until: float = 0.0


class Senders:
    """All that wait on this node; `flush` writes what waits in a channel's tick."""

    def __init__(self, clock: Clock, flush: Callable[[Channel], None]) -> None:
        self._clock = clock
        self._flush = flush
        self._waiting: dict[str, Sender] = {}
        self._name = secrets.token_hex(6)
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, origin: object) -> bool:
        return origin in self._waiting

    def expect(self, connection: Subscriber, id: wire.MessageId, channel: str) -> str:
        """Let a sender wait; returns the origin that its publication has to carry."""
        self._count += 1
        origin = f"{self._name}.{self._count}"
        self._waiting[origin] = Sender(connection, id, channel)
        return origin

    def forget(self, origin: str | None) -> None:
        """The publication was not acknowledged."""
        if origin is not None:
            self._waiting.pop(origin, None)

    def acknowledged(self, origin: str, published: Published, channel: Channel | None) -> None:
        """The bus has the publication; it may have passed by already."""
        waiting = self._waiting.get(origin)
        if waiting is not None:
            waiting.published = published
            waiting.until = self._clock.now + SENDER_WAIT_S
            self.settle(origin, channel)

    def answer(self, channel: Channel, origin: str | None) -> None:
        """Write the publication that came last to all but its sender, who gets the ack in its place."""
        if origin is None:
            return
        waiting = self._waiting.pop(origin)
        sender = waiting.connection
        outgoing = channel.pending.pop()
        self._flush(channel)
        channel.pending.append(outgoing)
        follows = sender in channel.subscribers
        channel.subscribers.discard(sender)
        self._flush(channel)
        publication = outgoing.publication
        epoch, offset = publication.epoch, publication.offset
        prev: int | msgspec.UnsetType | None = msgspec.UNSET
        if follows:
            channel.subscribers.add(sender)
            # Where earlier publications were dropped for it, its gap grows by this one and the ack has no place.
            if not sender.widen_gap(channel.name, epoch, offset):
                prev = outgoing.prev
        sender.send_message(wire.PublishAck(waiting.id, channel.name, epoch, offset, self._clock.wall_ms, prev))

    def settle(self, origin: str | None, channel: Channel | None) -> None:
        """Answer without a place in the order if the publication will not pass by with its sender's mark any more."""
        waiting = self._waiting.get(origin) if origin is not None else None
        if waiting is None or waiting.published is None:
            return
        published = waiting.published
        coming = (
            channel is not None
            and waiting.connection in channel.subscribers
            and (published.offset is None or (published.epoch == channel.epoch and published.offset > channel.last))
            and self._clock.now < waiting.until
        )
        if not coming:
            self.forget(origin)
            ack = wire.PublishAck(waiting.id, waiting.channel, published.epoch, published.offset, self._clock.wall_ms)
            waiting.connection.send_message(ack)

    def settle_all(self, channels: Mapping[str, Channel]) -> None:
        """Settle everyone; call it about once a second."""
        for origin, waiting in list(self._waiting.items()):
            self.settle(origin, channels.get(waiting.channel))
