"""Publications between two nodes, and recovery at another node than the one where a client was.

One connection of a node subscribes and another publishes, for a client that does both may get acknowledgement and
publication in either order. Channels are drawn for each exchange, of those that the stock rules let anybody use.
"""

from __future__ import annotations

import secrets
from types import TracebackType
from typing import Final, NoReturn, TypeVar

import msgspec

from trunkline.load.client.conversation import ConnectionEnded, Conversation, Publication, Unanswered
from trunkline.load.client.dial import Dialer
from trunkline.load.client.protocols.feed import channel_name
from trunkline.protocol import wire

M = TypeVar("M", bound=msgspec.Struct)

_MISSED: Final = 3  # publications that a client has to recover


class NodeTalk:
    """A subscriber and a publisher at one node; made by `open`, and closed at the end of its context."""

    def __init__(self, node: str, subscriber: Conversation, publisher: Conversation, timeout_s: float) -> None:
        self.node = node
        self._subscriber = subscriber
        self._publisher = publisher
        self._timeout_s = timeout_s

    @classmethod
    async def open(cls, dialer: Dialer, node: str, token: str, timeout_s: float) -> NodeTalk:
        """Open both connections, each answer within `timeout_s`; raises DialError, ConnectionEnded or Unanswered."""
        opened: list[Conversation] = []
        try:
            for _ in range(2):
                opened.append(await Conversation.open(dialer, token))
                await opened[-1].expect(wire.ConnectionEstablished, timeout_s)
        except BaseException:
            for each in opened:
                await each.close()
            raise
        return cls(node, opened[0], opened[1], timeout_s)

    async def __aenter__(self) -> NodeTalk:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._subscriber.close()
        await self._publisher.close()

    async def passes_to(self, other: NodeTalk) -> None:
        """Publish here, and find the publication there as it was; raises Unanswered when it is not."""
        channel, data = _drawn_channel(), _data(0)
        await other._follow(channel)
        await self._publish(channel, data)
        try:
            await other._receives(channel, data)
        except Unanswered as error:
            _because(error, f"of what was published at {self.node}, {other.node} delivered something else")

    async def recovers_at(self, other: NodeTalk) -> str:
        """Have a client that was here recover there what it missed; returns why that could not be checked, or nothing.

        Raises Unanswered when it does not get all of it, in order and once.
        """
        channel = _drawn_channel()
        place = await self._follow(channel)
        missed = [_data(number) for number in range(_MISSED)]
        for data in missed:
            await self._publish(channel, data)
        if place.epoch is None or place.offset is None:
            return f"recovery was not checked: {channel} keeps no history by the channel rules"
        found = await other._follow(channel, wire.Position(place.epoch, place.offset))
        what = f"{other.node} did not recover what a client of {self.node} missed"
        if not found.recovered:
            raise Unanswered(f"{what}: {found.reason or 'it gives no reason'}")
        if found.replayed != _MISSED:
            raise Unanswered(f"{what}: it has {found.replayed} of {_MISSED} publications")
        # One more stands behind them, and comes next only if each of them came once.
        live = _data(_MISSED)
        await self._publish(channel, live)
        try:
            for data in (*missed, live):
                await other._receives(channel, data)
        except Unanswered as error:
            _because(error, what)
        return ""

    async def _follow(self, channel: str, recover: wire.Position | None = None) -> wire.AckPosition:
        self._subscriber.send(wire.Subscribe([channel], 1, {channel: recover} if recover else None))
        try:
            ack = await self._expect(self._subscriber, wire.SubscriptionAck)
        except Unanswered as error:
            _because(error, f"{self.node} took no subscription to {channel}")
        if channel not in ack.positions:
            raise Unanswered(f"{self.node} did not subscribe {channel}")
        return ack.positions[channel]

    async def _publish(self, channel: str, data: bytes) -> None:
        self._publisher.send(wire.Publish(channel, msgspec.Raw(data), 1))
        try:
            await self._expect(self._publisher, wire.PublishAck, channel)
        except Unanswered as error:
            _because(error, f"{self.node} did not acknowledge a publication to {channel}")

    async def _receives(self, channel: str, data: bytes) -> None:
        came = await self._expect(self._subscriber, Publication, channel)
        if msgspec.json.decode(came.data) != msgspec.json.decode(data):
            raise Unanswered("its data is not what was published next")

    async def _expect(self, peer: Conversation, kind: type[M], channel: str = "") -> M:
        try:
            return await peer.expect(kind, self._timeout_s, channel)
        except ConnectionEnded as ended:
            raise Unanswered(f"{self.node} ended the connection with {ended}") from None


def _drawn_channel() -> str:
    return channel_name(f"smoke-{secrets.token_hex(6)}", 0)


def _data(number: int) -> bytes:
    return msgspec.json.encode({"smoke": secrets.token_hex(4), "n": number, "text": "Grüße 😀"})


def _because(error: Unanswered, what: str) -> NoReturn:
    raise Unanswered(f"{what}: {error}") from None
