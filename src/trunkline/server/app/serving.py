"""Serves one client of an endpoint: its messages in order and within its rate, and what it gets when one fails.

How messages are handled is chosen once, by the class that serves the client, so that the hot path checks nothing that
is already known: a plain `on_message` without envelope is called straight from the read.

Messages of a client are served in order. While one is being awaited, the next ones wait in `_backlog`, and a client
that sends faster than it is served is not read from. Heartbeats alone are answered at once.

What an application's code raises concerns the message, or the client, that it was called for and nothing else; that
holds for a CancelledError from something it awaited too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Coroutine
from typing import Any, Final, TypeAlias

import msgspec

from trunkline.errors import BusCannotStore, BusUnavailable, ClientGone, MessageError, MessageTooLarge
from trunkline.logs.logger import get_logger
from trunkline.net.limits import Bucket
from trunkline.protocol import close_codes, wire
from trunkline.server.app import decoding
from trunkline.server.app.client import Client
from trunkline.server.app.declaration import CHANNEL_REQUESTS
from trunkline.server.app.endpoint import Endpoint, EndpointFunction
from trunkline.server.app.inbox import BACKLOG_LIMIT, Inbox
from trunkline.server.app.refusals import Refusals
from trunkline.server.app.route import Route
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.runtime import Runtime
from trunkline.server.connections.states import CLOSED, OPEN
from trunkline.server.connections.tasks import FAULTS, ends_this_task
from trunkline.server.connections.work_grace import WorkGrace
from trunkline.websocket import frames

log = get_logger("trunkline.client")

Work: TypeAlias = Coroutine[Any, Any, None]

_PING = frames.ping()

_AT_A_TIME: Final = 32
"""Messages that were waiting, and are served before the event loop has its turn."""


def serve(route: Route, connection: Connection) -> Serving:
    """Make what serves the client of `connection`."""
    declaration = route.declaration
    if declaration.envelope:
        return _WithEnvelope(route, connection)
    handler = declaration.handler
    plain = isinstance(handler, Endpoint) and not asyncio.iscoroutinefunction(handler.on_message)
    if plain and declaration.decoder is None and route.limits.rate_per_s == 0:
        return _Direct(route, connection)
    return _Bare(route, connection)


class Serving:
    """The handler of a connection; what differs with and without the envelope is its subclasses'."""

    names_session = False

    __slots__ = ("_backlog", "_bucket", "_client", "_inbox", "_refusals", "_route", "_task", "connection")

    def __init__(self, route: Route, connection: Connection) -> None:
        self.connection = connection
        self._route = route
        self._inbox = None if isinstance(route.declaration.handler, Endpoint) else Inbox(connection)
        self._client = Client(connection, route.reach, self._inbox)
        self._backlog: deque[tuple[int, bytes]] | None = None
        self._bucket: Bucket | None = None
        self._refusals: Refusals | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin the endpoint's work."""
        handler = self._route.declaration.handler
        if not isinstance(handler, Endpoint):
            assert self._inbox is not None  # noqa: S101 - a function's clients have one
            self._inbox.task = self._route.services.registry.spawn(self._run(handler))
            return
        try:
            work = handler.on_connect(self._client)
        except FAULTS as error:
            self._give_up(error, "on_connect")
            return
        if work is not None:
            self._take_turns(self._connect(work))

    async def _connect(self, work: Awaitable[None]) -> None:
        try:
            await work
        except FAULTS as error:
            if ends_this_task(error):
                raise
            self._give_up(error, "on_connect")
            if self._backlog is not None:
                # Nothing that it sent meanwhile meets a client that the endpoint could not begin with.
                self._backlog.clear()

    async def _run(self, function: EndpointFunction) -> None:
        try:
            await function(self._client)
        except FAULTS as error:
            # Also when somebody cancelled it: nobody else takes what this client sends.
            self._give_up(error, "function")
            if ends_this_task(error):
                raise
        else:
            self._client.close()

    def beat(self) -> None:
        """A ping finds dead peers."""
        self.connection.send_bytes(_PING)

    def farewell(self, code: int, reason: str, reconnect_after_ms: int | None) -> bytes:
        """The frames that go before our close frame."""
        return b""

    def expiring(self, left_ms: int) -> None:
        """Without envelope there is no message that could tell it."""

    def ended(self) -> None:
        """Let the endpoint know that the connection has ended; what it still does for the client has its time."""
        inbox = self._inbox
        if inbox is not None:
            inbox.end()
            if inbox.task is not None and not inbox.task.done():
                self._bound(inbox.task)
        if self._task is not None:
            self._bound(self._task)
        handler, connection = self._route.declaration.handler, self.connection
        if not isinstance(handler, Endpoint):
            return
        try:
            work = handler.on_disconnect(self._client, connection.close_code, connection.close_reason)
        except FAULTS as error:
            self._disconnect_failed(error)
        else:
            if work is not None:
                self._bound(self._route.services.registry.spawn(self._disconnect(work)))

    def _bound(self, task: asyncio.Task[None]) -> None:
        WorkGrace(self._route.services.runtime, task, self.connection.identity.id, self._route.path)

    async def _disconnect(self, work: Awaitable[None]) -> None:
        try:
            await work
        except FAULTS as error:
            if ends_this_task(error):
                raise
            self._disconnect_failed(error)

    def _disconnect_failed(self, error: BaseException) -> None:
        self._log_fault("on_disconnect_failed", error, "on_disconnect")

    def _log_fault(self, event: str, error: BaseException, hook: str) -> None:
        route = self._route
        route.services.runtime.meter.faults += 1
        log.error(
            event, hook=hook, endpoint=route.name, path=route.path, connection=self.connection.identity.id,
            exc_info=error,
        )  # fmt: skip

    def receive(self, opcode: int, payload: bytes) -> None:
        """Serve a message now, or when those before it are served."""
        backlog = self._backlog
        if backlog is not None:
            if self._out_of_turn(opcode, payload):
                return
            backlog.append((opcode, payload))
            if len(backlog) >= BACKLOG_LIMIT:
                self.connection.pause_reading()
            return
        work = self._handle(opcode, payload)
        if work is not None:
            self._take_turns(work)

    def _handle(self, opcode: int, payload: bytes) -> Work | None:
        raise NotImplementedError

    def _out_of_turn(self, opcode: int, payload: bytes) -> bool:
        """Serve a message while others wait, if its place among them means nothing; returns whether it did."""
        return False

    def _take_turns(self, work: Work) -> None:
        """Await `work`; messages that come meanwhile wait until it is done."""
        backlog: deque[tuple[int, bytes]] = deque()
        self._backlog = backlog
        self._task = self._route.services.registry.spawn(self._work_through(work, backlog))

    async def _work_through(self, work: Work, backlog: deque[tuple[int, bytes]]) -> None:
        served = 0
        try:
            await work
            while backlog:
                served += 1
                if not served % _AT_A_TIME:
                    await asyncio.sleep(0)
                opcode, payload = backlog.popleft()
                if len(backlog) == BACKLOG_LIMIT // 2:
                    self.connection.resume_reading()
                following = self._handle(opcode, payload)
                if following is not None:
                    await following
        except asyncio.CancelledError as error:
            if self.connection.state == OPEN:
                # Somebody cancelled this task, which serves a client that is still there: it must not wait for ever.
                self._log_fault("handler_failed", error, "on_message")
                self.connection.end(close_codes.INTERNAL.code, close_codes.INTERNAL.reason)
            raise
        finally:
            self._backlog = self._task = None
            self.connection.resume_reading()

    @property
    def held_back(self) -> bool:
        """Whether the client is not read from because its messages wait."""
        if self._backlog is not None and len(self._backlog) >= BACKLOG_LIMIT:
            return True
        return self._inbox is not None and self._inbox.full

    def _over_rate(self) -> float:
        """Count a message; returns the seconds until one is let through, 0.0 when this one is."""
        limits = self._route.limits
        if limits.rate_per_s <= 0:
            return 0.0
        runtime = self._route.services.runtime
        now = runtime.clock.now
        bucket = self._bucket
        if bucket is None:
            bucket = self._bucket = Bucket(limits.rate_burst, limits.rate_per_s, now)
        wait_s = bucket.take(now)
        if wait_s:
            runtime.meter.rate_limited += 1
        return wait_s

    def _rate_error(self, wait_s: float, untold: int = 0) -> MessageError:
        limits = self._route.limits
        text = f"over the limit of {limits.rate_burst:g} messages at once and {limits.rate_per_s:g} a second"
        if untold:
            text += f"; {untold:,} more were refused before this one"
        return MessageError(wire.RATE_LIMIT_EXCEEDED, text, temporary=True, retry_after_ms=int(wait_s * 1000) + 1)

    def _pass_on(self, message: Any, id: wire.MessageId) -> Work | None:
        """Give a message to the endpoint."""
        if self._inbox is not None:
            self._inbox.put(message)
            return None
        work = self._route.on_message(self._client, message)
        return None if work is None else self._guard(work, id)

    async def _guard(self, work: Awaitable[None], id: wire.MessageId = None) -> None:
        """Await `work` for the client; see `_explain` for what becomes of an exception."""
        try:
            await work
        except FAULTS as error:
            if ends_this_task(error):
                raise
            self._explain(error, id)

    def _explain(self, error: BaseException, id: wire.MessageId = None) -> None:
        """Log the application's fault and end the connection: without envelope there is no error message.

        With envelope, there is one that names `id`, and the connection stays.
        """
        self._give_up(error, "on_message")

    def _give_up(self, error: BaseException, hook: str) -> None:
        """Log a fault in `hook`, without which the endpoint cannot go on with this client, and end the connection."""
        if isinstance(error, ClientGone) or self.connection.state == CLOSED:
            return
        self._log_fault("handler_failed", error, hook)
        self.connection.end(close_codes.INTERNAL.code, close_codes.INTERNAL.reason)


class _Bare(Serving):
    """Without envelope: the endpoint's messages are all there is, and what breaks a rule closes the connection."""

    __slots__ = ()

    def _handle(self, opcode: int, payload: bytes) -> Work | None:
        try:
            wait_s = self._over_rate()
            if wait_s:
                raise self._rate_error(wait_s)
            decoder = self._route.declaration.decoder
            if decoder is not None:
                return self._pass_on(decoding.decode(decoder, payload), None)
            return self._pass_on(payload.decode() if opcode == frames.TEXT else payload, None)
        except MessageError as error:
            policy = error.code == wire.RATE_LIMIT_EXCEEDED
            close = close_codes.POLICY if policy else close_codes.UNSUPPORTED_DATA
            self._route.services.registry.note_error(error.code, error.message)
            self.connection.end(close.code, error.message)
        except FAULTS as error:
            self._explain(error)
        return None


class _Direct(_Bare):
    """The shortest way: no envelope, no rate, no type, a plain function."""

    __slots__ = ()

    def receive(self, opcode: int, payload: bytes) -> None:
        """Call `on_message`."""
        try:
            self._route.on_message(self._client, payload.decode() if opcode == 1 else payload)
        except FAULTS as error:
            self._explain(error)


class _WithEnvelope(Serving):
    """With envelope: the server speaks the messages of the protocol besides the endpoint's own."""

    names_session = True

    __slots__ = ("_refreshes",)

    def __init__(self, route: Route, connection: Connection) -> None:
        super().__init__(route, connection)
        self._refreshes: Bucket | None = None

    def begin(self) -> None:
        """Greet the client, then begin the endpoint's work."""
        route, identity = self._route, self.connection.identity
        runtime, limits = route.services.runtime, route.limits
        self.connection.send_message(
            wire.ConnectionEstablished(
                identity.id,
                route.services.node,
                identity.session,
                identity.resumed,
                int(runtime.bounds.heartbeat_s * 1000),
                wire.ClientLimits(limits.message_bytes, limits.rate_burst, limits.rate_per_s),
                runtime.clock.wall_ms,
            )
        )
        super().begin()

    def beat(self) -> None:
        """The heartbeat message, and a ping."""
        runtime = self._route.services.runtime
        self.connection.send_bytes(_heartbeat(runtime.clock.wall_ms) + _PING)
        runtime.meter.messages_sent += 1

    def farewell(self, code: int, reason: str, reconnect_after_ms: int | None) -> bytes:
        """The goodbye message."""
        return goodbye(self._route.services.runtime, code, reason, reconnect_after_ms)

    def expiring(self, left_ms: int) -> None:
        """The warning that asks for a fresh token."""
        self.connection.send_message(wire.TokenExpiring(left_ms, self._route.services.runtime.clock.wall_ms))

    def _handle(self, opcode: int, payload: bytes) -> Work | None:
        id: wire.MessageId = None
        declaration = self._route.declaration
        try:
            wait_s = self._over_rate()
            if wait_s:
                self._refuse(wait_s, payload)
                return None
            if opcode == frames.BINARY:
                raise MessageError(wire.INVALID_MESSAGE, "this endpoint takes JSON in text messages, not binary ones")
            own = declaration.own_tags
            if own is not None and decoding.message_type(payload) not in own:
                message: Any = msgspec.Raw(payload)
            else:
                message = decoding.decode(declaration.decoder, payload)  # type: ignore[arg-type]
                id = getattr(message, "id", None)
            if isinstance(message, wire.Heartbeat):
                self.connection.send_message(wire.Pong(self._route.services.runtime.clock.wall_ms, message.id))
                return None
            if isinstance(message, CHANNEL_REQUESTS):
                work = self._route.services.requests.handle(self.connection, message)
                return None if work is None else self._guard(work, id)
            if isinstance(message, wire.Refresh):
                work = self._refresh(message)
                return None if work is None else self._guard(work, id)
            return self._pass_on(message, id)
        except MessageError as error:
            self._explain(error, id if id is not None else decoding.message_id(payload))
        except FAULTS as error:
            self._explain(error, id)
        return None

    def _out_of_turn(self, opcode: int, payload: bytes) -> bool:
        # Who waits for slow work asks in this way whether the server is still there.
        if len(payload) > _HEARTBEAT_BYTES or b'"heartbeat"' not in payload:
            return False
        try:
            _decode_heartbeat(payload)
        except msgspec.MsgspecError:
            return False
        self._handle(opcode, payload)
        return True

    def _refuse(self, wait_s: float, payload: bytes) -> None:
        """Tell the client that it is over its rate, but not again and again."""
        now = self._route.services.runtime.clock.now
        if self._refusals is None:
            self._refusals = Refusals(now)
        untold = self._refusals.tell(now)
        if untold is not None:
            self._send_error(self._rate_error(wait_s, untold), decoding.message_id(payload))

    def _refresh(self, message: wire.Refresh) -> Work | None:
        refreshing = self._route.services.refreshing
        if self._refreshes is None:
            self._refreshes = refreshing.new_bucket()
        return refreshing.handle(self.connection, message, self._refreshes)

    def _explain(self, error: BaseException, id: wire.MessageId = None) -> None:
        """Send an `error` message; only the application's own fault is logged, and its text stays here."""
        connection = self.connection
        if isinstance(error, ClientGone) or connection.state == CLOSED:
            return
        if isinstance(error, MessageError):
            self._send_error(error, id)
        elif isinstance(error, BusUnavailable):
            self._send_error(_bus_error(error), id)
        elif isinstance(error, MessageTooLarge):
            text = f"data: {error.size:,} bytes, as the bus sends it, are more than its limit of {error.limit:,}"
            self._send_error(MessageError(wire.INVALID_MESSAGE, text), id)
        else:
            self._log_fault("handler_failed", error, "on_message")
            self._send_error(_INTERNAL, id)

    def _give_up(self, error: BaseException, hook: str) -> None:
        if isinstance(error, BusUnavailable):
            self._explain(error)
            self.connection.end(close_codes.OVERLOADED.code, "the bus is not reachable", 1000)
            return
        if not isinstance(error, ClientGone) and self.connection.state == OPEN:
            self._send_error(error if isinstance(error, MessageError) else _NOT_SERVED, None)
        super()._give_up(error, hook)

    def _send_error(self, error: MessageError, id: wire.MessageId) -> None:
        services = self._route.services
        services.registry.note_error(error.code, error.message)
        log.debug("request_refused", connection=self.connection.identity.id, code=error.code, why=error.message)
        self.connection.send_message(
            wire.ErrorMessage(
                error.code, error.message, error.temporary, services.runtime.clock.wall_ms, id, error.retry_after_ms
            )
        )


def goodbye(runtime: Runtime, code: int, reason: str, reconnect_after_ms: int | None) -> bytes:
    """The frame of the last message before a close frame with `code`."""
    runtime.meter.messages_sent += 1
    message = wire.Goodbye(code, reason, close_codes.may_reconnect(code), reconnect_after_ms, runtime.clock.wall_ms)
    return frames.text(msgspec.json.encode(message))


def _bus_error(error: BusUnavailable) -> MessageError:
    full = isinstance(error, BusCannotStore)
    if not error.sent:
        return _BUS_FULL if full else _BUS_AWAY
    # No refusal: clients repeat those, and what is stored already would be there twice.
    why = "; /health says why" if full else " in time"
    text = f"the bus did not acknowledge the publication{why}; it may be stored all the same"
    return MessageError(wire.TIMEOUT, text, temporary=True)


_BUS_AWAY = MessageError(
    wire.UNAVAILABLE, "the bus is not reachable now; try again", temporary=True, retry_after_ms=1000
)
_BUS_FULL = MessageError(
    wire.UNAVAILABLE,
    "the bus does not store publications now; /health says why",
    temporary=True,
    retry_after_ms=10_000,
)
_INTERNAL = MessageError(wire.INTERNAL, "the server could not handle this message")
_NOT_SERVED = MessageError(wire.INTERNAL, "the server could not serve this connection")

_HEARTBEAT_BYTES: Final = 256
"""No heartbeat is longer, unless its client wants it to wait its turn."""

_decode_heartbeat = msgspec.json.Decoder(wire.Heartbeat).decode

_last_heartbeat: tuple[int, bytes] = (0, b"")


def _heartbeat(wall_ms: int) -> bytes:
    """The heartbeat frame of this tick, the same for every client that is due in it."""
    global _last_heartbeat
    if _last_heartbeat[0] != wall_ms:
        _last_heartbeat = (wall_ms, frames.text(msgspec.json.encode(wire.ServerHeartbeat(wall_ms))))
    return _last_heartbeat[1]
