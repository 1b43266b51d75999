"""A client as application code sees it: who it is, what can be said to it, and its messages.

The same object serves both ways of writing an endpoint. The synchronous way handles each message inside the read that
brought it. The asynchronous way keeps a client's messages in order by itself: while one is being awaited, the next ones
wait in `_backlog`, and a client that sends faster than it is served is not read from.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from trunkline.errors import ClientGone
from trunkline.net.limits import Bucket
from trunkline.protocol import close_codes, wire
from trunkline.server.app.feed import subscribe
from trunkline.server.app.inbox import BACKLOG_LIMIT, Inbox
from trunkline.server.connections.connection import OPEN, Connection
from trunkline.websocket import frames
from trunkline.websocket.deflate import deflate

if TYPE_CHECKING:
    from trunkline.server.app.route import Route

_encode = msgspec.json.encode
_HEADS = frames.SHORT_HEADS


class Client:
    """One connected client.

    Attributes:
        id: the connection's id; unique unless the path names it (`{connection_id}`).
        session: stays the same over reconnects of a client that sends it back. It is no proof of identity.
        resumed: whether the client brought its session along.
        params: parameters of the path.
        claims: claims of the verified token; empty without one.
        subject: the token's `sub`, None without one.
        address: the client's address, seen through trusted proxies.
        state: yours to keep anything in.
    """

    __slots__ = (
        "_backlog", "_bucket", "_connection", "_inbox", "_room", "_route", "_target", "address", "claims", "id",
        "params", "receive", "resumed", "session", "state",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        route: Route,
        *,
        id: str,
        session: str,
        resumed: bool,
        target: str,
        params: Mapping[str, str],
        claims: Mapping[str, Any],
        address: str,
    ) -> None:
        self._connection = connection
        self._route = route
        self._target = target
        self._backlog: deque[tuple[int, bytes]] | None = None
        self._bucket: Bucket | None = None
        self._inbox: Inbox | None = None
        self._room: asyncio.Future[None] | None = None
        self.receive = route.receive
        self.id = id
        self.session = session
        self.resumed = resumed
        self.params = params
        self.claims = claims
        self.address = address
        self.state: Any = None

    # --- for application code -----------------------------------------------------------------------------------------

    @property
    def subject(self) -> str | None:
        """The token's `sub`."""
        subject = self.claims.get("sub")
        return subject if isinstance(subject, str) else None

    @property
    def query(self) -> dict[str, str]:
        """Parameters of the query; of a repeated one the last; what comes behind the first 100 is not looked at."""
        fields = self._target.partition("?")[2].split("&", 100)[:100]
        return dict(parse_qsl("&".join(fields), keep_blank_values=True))

    @property
    def connected(self) -> bool:
        """Whether messages still reach the client."""
        return self._connection.state == OPEN

    def send(self, message: str | bytes | msgspec.Struct | dict[str, Any] | list[Any]) -> None:
        """Send one message; it is never dropped.

        Args:
            message: `str` goes out as text, `bytes` as binary, anything else as JSON text.

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
        if connection.deflate_bits and len(payload) >= self._route.limits.deflate_min_bytes:
            first, payload = first | 0x40, deflate(payload, connection.deflate_bits)
        length = len(payload)
        frame = _HEADS[first][length] + payload if length < 126 else frames.build(first, payload)
        if connection.corked is not None:
            connection.corked.append(frame)
        else:
            connection.send_bytes(frame)
        connection.runtime.meter.messages_sent += 1

    async def publish(self, channel: str, data: Any, *, to_others: bool = False, id: wire.MessageId = None) -> None:
        """Put a message into a channel, in this client's name. Channel rules do not apply to application code.

        Args:
            channel: a channel's name.
            data: anything msgspec can encode as JSON; `msgspec.Raw` is taken as it is.
            to_others: everyone but this client gets it; this client gets a `publish_ack` in its place.
            id: goes into that ack.

        Raises:
            BusUnavailable: the bus did not acknowledge it.
        """
        hub = self._route.hub
        encoded = bytes(data) if isinstance(data, msgspec.Raw) else _encode(data)
        if to_others:
            await hub.publish_to_others(channel, encoded, self._connection, id)
        else:
            await hub.publish(channel, encoded)

    async def join(self, channel: str, since: wire.Position | None = None) -> None:
        """Make this client a subscriber; it gets a `subscription_ack` and, with `since`, what it missed.

        Args:
            channel: a channel's name.
            since: the last position that the client saw.

        Raises:
            BusUnavailable: the channel cannot be had now.
        """
        request = wire.Subscribe([channel], recover={channel: since} if since is not None else None)
        await subscribe(self, request, check_rules=False)

    def leave(self, channel: str) -> None:
        """End a subscription; nothing happens if there is none."""
        hub = self._route.hub
        found = hub.channels.get(channel)
        if found is not None and self._connection in found.subscribers:
            hub.remove(found, self._connection)

    def close(
        self, code: int = close_codes.NORMAL.code, reason: str = "", *, reconnect_after_ms: int | None = None
    ) -> None:
        """Close the connection; safe to call twice.

        Args:
            code: a close code of the table in `codes.py`, or 3000 to 4999.
            reason: at most 123 bytes of UTF-8.
            reconnect_after_ms: a hint for the goodbye message.
        """
        if not close_codes.is_valid_on_wire(code):
            raise ValueError(
                f"close code {code} may not stand on the wire; use one from trunkline.protocol.close_codes or 3000-4999"
            )
        self._connection.end(code, reason, reconnect_after_ms)

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the client's messages until it disconnects; for endpoints that are functions."""
        if self._inbox is None:
            raise TypeError("only an endpoint that is an async function can iterate over its client's messages")
        return self._inbox

    def __repr__(self) -> str:
        return f"<Client {self.id} {'open' if self.connected else 'ended'}>"

    # --- for the node -------------------------------------------------------------------------------------------------

    @property
    def connection(self) -> Connection:
        """The connection below."""
        return self._connection

    @property
    def route(self) -> Route:
        """The endpoint this client is connected to."""
        return self._route

    @property
    def target(self) -> str:
        """Path and query of the handshake as sent, without a token."""
        return self._target

    @property
    def path(self) -> str:
        """The path of the handshake, without its query."""
        return self._target.partition("?")[0]

    def retry_after(self) -> float:
        """Take one message from the rate; returns 0.0, or the seconds until the next one is welcome."""
        limits = self._route.limits
        if limits.rate_per_s <= 0:
            return 0.0
        now = self._connection.runtime.clock.now
        bucket = self._bucket
        if bucket is None:
            bucket = self._bucket = Bucket(limits.rate_burst, limits.rate_per_s, now)
        return bucket.take(now)

    def send_error(
        self,
        code: str,
        text: str,
        id: wire.MessageId = None,
        *,
        temporary: bool = False,
        retry_after_ms: int | None = None,
    ) -> None:
        """Tell the client that a message was not served."""
        runtime = self._connection.runtime
        self._route.registry.note_error(code, text)
        self._connection.send_message(
            wire.ErrorMessage(code, text, temporary, runtime.clock.wall_ms, id, retry_after_ms)
        )

    def beat(self) -> None:
        """It is time for a heartbeat: the message where the protocol has one, and a ping that finds dead peers."""
        connection = self._connection
        if self._route.envelope:
            connection.send_bytes(_heartbeat(connection.runtime.clock.wall_ms) + _PING)
            connection.runtime.meter.messages_sent += 1
        else:
            connection.send_bytes(_PING)

    def farewell(self, code: int, reason: str, reconnect_after_ms: int | None) -> bytes:
        """The frame of the goodbye message; empty on endpoints without envelope."""
        if not self._route.envelope:
            return b""
        goodbye = wire.Goodbye(
            code, reason, close_codes.may_reconnect(code), reconnect_after_ms, self._connection.runtime.clock.wall_ms
        )
        self._connection.runtime.meter.messages_sent += 1
        return frames.text(_encode(goodbye))

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Await `work` for this client; its further messages wait until it is done."""
        self._backlog = deque()
        self._route.registry.spawn(self._work_through(work))

    async def _work_through(self, work: Coroutine[Any, Any, None]) -> None:
        backlog = self._backlog
        assert backlog is not None  # noqa: S101 - run() sets it
        try:
            await work
            while backlog:
                opcode, payload = backlog.popleft()
                if len(backlog) == BACKLOG_LIMIT // 2:
                    self._connection.resume_reading()
                following = self._route.handle(self, opcode, payload)
                if following is not None:
                    await following
        finally:
            self._backlog = None
            self._connection.resume_reading()

    def wait_in_line(self, opcode: int, payload: bytes) -> bool:
        """Queue a message behind the one being awaited; False when none is."""
        backlog = self._backlog
        if backlog is None:
            return False
        backlog.append((opcode, payload))
        if len(backlog) >= BACKLOG_LIMIT:
            self._connection.pause_reading()
        return True

    @property
    def held_back(self) -> bool:
        """Whether the client is not read from because its messages wait."""
        if self._backlog is not None and len(self._backlog) >= BACKLOG_LIMIT:
            return True
        return self._inbox is not None and self._inbox.full

    async def room(self) -> None:
        """Wait until everything written so far has left for the client's kernel; for long replays."""
        connection = self._connection
        while connection.blocked and connection.state == OPEN:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    def drained(self) -> None:
        """Everything written has left."""
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    def ended(self) -> None:
        """The connection has ended."""
        self.drained()
        if self._inbox is not None:
            self._inbox.end()
        self._route.ended(self)

    def open_inbox(self) -> Inbox:
        """Collect messages for `async for`."""
        self._inbox = Inbox(self)
        return self._inbox

    @property
    def inbox(self) -> Inbox | None:
        """Where messages wait for `async for`."""
        return self._inbox


_PING = frames.ping()
_last_heartbeat: tuple[int, bytes] = (0, b"")


def _heartbeat(wall_ms: int) -> bytes:
    """The heartbeat frame of this tick, the same for every client that is due in it."""
    global _last_heartbeat
    if _last_heartbeat[0] != wall_ms:
        _last_heartbeat = (wall_ms, frames.text(_encode(wire.ServerHeartbeat(wall_ms))))
    return _last_heartbeat[1]
