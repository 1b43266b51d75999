"""A client as application code sees it: whose connection it is, and what can be sent to it and done for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec

from trunkline.errors import ClientGone
from trunkline.protocol import close_codes, wire
from trunkline.server.app.inbox import Inbox
from trunkline.server.app.namespace import State
from trunkline.server.channels.hub import Hub
from trunkline.server.channels.requests import Requests
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.identity import Claims
from trunkline.server.connections.states import OPEN
from trunkline.websocket import frames
from trunkline.websocket.deflate import deflate

_encode = msgspec.json.encode
_HEADS = frames.SHORT_HEADS


class Reach(NamedTuple):
    """What all clients of an endpoint share; messages of fewer than `deflate_min_bytes` are not compressed."""

    hub: Hub
    requests: Requests
    deflate_min_bytes: int


class Client:
    """One connected client."""

    __slots__ = ("_connection", "_inbox", "_reach", "_state")

    def __init__(self, connection: Connection, reach: Reach, inbox: Inbox | None) -> None:
        self._connection = connection
        self._reach = reach
        self._inbox = inbox
        # Of most clients nobody asks for it.
        self._state: object = None

    @property
    def state(self) -> State:
        """Yours to keep things in: `client.state.room = "lobby"`, and `"room" in client.state`.

        A value that was assigned to `client.state` as a whole stands in its place.
        """
        if self._state is None:
            self._state = State()
        return self._state  # type: ignore[return-value]

    @state.setter
    def state(self, value: object) -> None:
        self._state = value

    @property
    def id(self) -> str:
        """The connection's id; unique unless the path names it (`{connection_id}`)."""
        return self._connection.identity.id

    @property
    def session(self) -> str:
        """Stays the same over reconnects of a client that sends it back. It is no proof of identity."""
        return self._connection.identity.session

    @property
    def resumed(self) -> bool:
        """Whether the client brought its session along."""
        return self._connection.identity.resumed

    @property
    def params(self) -> Mapping[str, str]:
        """Parameters of the path."""
        # All clients without parameters share one dict below.
        return self._connection.identity.params or {}

    @property
    def claims(self) -> Claims:
        """Claims of the verified token; empty without one."""
        return self._connection.identity.claims

    @property
    def subject(self) -> str | None:
        """The token's `sub`, None without one."""
        return self._connection.identity.subject

    @property
    def address(self) -> str:
        """The client's address, seen through trusted proxies."""
        return self._connection.identity.address

    @property
    def query(self) -> dict[str, str]:
        """Parameters of the query; of a repeated one the last; what comes behind the first 100 is not looked at."""
        fields = self._connection.identity.target.partition("?")[2].split("&", 100)[:100]
        return dict(parse_qsl("&".join(fields), keep_blank_values=True))

    @property
    def connected(self) -> bool:
        """Whether messages still reach the client."""
        return self._connection.state == OPEN

    def send(self, message: object) -> None:
        """Send one message; it is never dropped.

        `str` goes out as text, `bytes` as binary, anything else that msgspec encodes as JSON text.

        Raises:
            ClientGone: the connection has ended.
        """
        connection = self._connection
        if connection.state != OPEN:
            raise ClientGone(connection.close_code, connection.close_reason)
        if isinstance(message, str):
            first, payload = 0x81, message.encode()
        elif isinstance(message, bytes):
            first, payload = 0x82, message
        else:
            first, payload = 0x81, _encode(message)
        if connection.deflate_bits and len(payload) >= self._reach.deflate_min_bytes:
            first, payload = first | 0x40, deflate(payload, connection.deflate_bits)
        length = len(payload)
        frame = _HEADS[first][length] + payload if length < 126 else frames.build(first, payload)
        if connection.corked is not None:
            connection.corked.append(frame)
        else:
            connection.send_bytes(frame)
        connection.runtime.meter.messages_sent += 1

    async def publish(self, channel: str, data: object, *, to_others: bool = False, id: wire.MessageId = None) -> None:
        """Put a message into a channel, in this client's name. Channel rules do not apply to application code.

        Args:
            channel: a channel's name.
            data: anything msgspec can encode as JSON; `msgspec.Raw` is taken as it is.
            to_others: everyone but this client gets it; this client gets a `publish_ack` in its place.
            id: goes into that ack.

        Raises:
            BusUnavailable: the bus did not acknowledge it.
            MessageTooLarge: the bus takes no message of this size.
        """
        hub = self._reach.hub
        encoded = bytes(data) if isinstance(data, msgspec.Raw) else _encode(data)
        if to_others:
            await hub.publish_to_others(channel, encoded, self._connection, id)
        else:
            await hub.publish(channel, encoded)

    async def join(self, channel: str, since: wire.Position | None = None) -> None:
        """Make this client a subscriber; it gets a `subscription_ack`, and what it missed `since` the given position.

        Raises BusUnavailable when the channel cannot be had now.
        """
        await self._reach.requests.join(self._connection, channel, since)

    def leave(self, channel: str) -> None:
        """End a subscription; nothing happens if there is none."""
        hub = self._reach.hub
        found = hub.channels.get(channel)
        if found is not None and self._connection in found.subscribers:
            hub.remove(found, self._connection)

    def close(
        self, code: int = close_codes.NORMAL.code, reason: str = "", *, reconnect_after_ms: int | None = None
    ) -> None:
        """Close the connection; safe to call twice.

        Args:
            code: a close code of the table in `trunkline.protocol.close_codes`, or 3000 to 4999.
            reason: at most 123 bytes of UTF-8.
            reconnect_after_ms: a hint for the goodbye message.

        Raises:
            ValueError: no close frame may carry `code`.
        """
        if not close_codes.is_valid_on_wire(code):
            raise ValueError(
                f"close code {code} may not stand on the wire; use one from trunkline.protocol.close_codes or 3000-4999"
            )
        self._connection.end(code, reason, reconnect_after_ms)

    def __aiter__(self) -> AsyncIterator[object]:
        """Iterate over the client's messages until it disconnects; for endpoints that are functions."""
        if self._inbox is None:
            raise TypeError("only an endpoint that is an async function can iterate over its client's messages")
        return self._inbox

    def __repr__(self) -> str:
        return f"<Client {self.id} {'open' if self.connected else 'ended'}>"
