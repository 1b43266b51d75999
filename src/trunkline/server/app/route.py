"""A declared endpoint, compiled: its path, its limits, and how a message gets from the frame layer to its handler.

How messages are handled is chosen once, when the route is compiled, so that the hot path asks nothing that is already
known: a plain `on_message` without envelope is called straight from the read; everything else goes through `handle`.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Union

import msgspec

from trunkline.errors import MessageError
from trunkline.logs.logger import get_logger
from trunkline.protocol import close_codes, wire
from trunkline.server.app import decoding, feed
from trunkline.server.app.client import Client
from trunkline.server.app.faults import explain, guard
from trunkline.websocket import frames

if TYPE_CHECKING:
    from trunkline.server.app.app import Endpoint
    from trunkline.server.channels.hub import Hub
    from trunkline.server.channels.rules import RuleSet
    from trunkline.server.connections.registry import Registry
    from trunkline.settings.sections import Settings

log = get_logger("trunkline.route")

EndpointFunction = Callable[[Client], Coroutine[Any, Any, None]]
Work = Coroutine[Any, Any, None] | None

_CHANNEL_TYPES: Final = (wire.Subscribe, wire.Unsubscribe, wire.Publish, wire.Replay)
_CHANNEL_TAGS: Final = frozenset({"subscribe", "unsubscribe", "publish", "replay"})


class Limits(msgspec.Struct, frozen=True):
    """Limits of one endpoint; None: the setting's value.

    Attributes:
        message_bytes: largest message.
        rate_burst: messages a client may send at once.
        rate_per_s: messages a second it may go on with; 0 switches the limit off.
        outbox_bytes: bytes that may wait for a client that reads slowly.
        deflate_min_bytes: answers below this go out uncompressed.
    """

    message_bytes: int | None = None
    rate_burst: float | None = None
    rate_per_s: float | None = None
    outbox_bytes: int | None = None
    deflate_min_bytes: int | None = None


class EffectiveLimits(msgspec.Struct, frozen=True):
    """Limits with the settings filled in."""

    message_bytes: int
    rate_burst: float
    rate_per_s: float
    outbox_bytes: int
    deflate_min_bytes: int


class Route:
    """One endpoint. See `App.websocket` for the arguments."""

    def __init__(
        self,
        path: str,
        *,
        endpoint: Endpoint | None,
        function: EndpointFunction | None,
        message: Any,
        channels: bool,
        envelope: bool,
        limits: Limits,
        setting: str | None,
    ) -> None:
        if not path.startswith("/"):
            raise ValueError(f"path {path!r} must start with /")
        if channels and not envelope:
            raise ValueError(f"path {path!r}: channels need the envelope")
        self.path = path
        self.max_channels = 100
        self.pattern = _compile(path)
        self.envelope = envelope
        self.channels = channels
        self.setting = setting
        self.limits = EffectiveLimits(65536, 100, 10, 1 << 20, 1024)
        self._declared = limits
        self._endpoint = endpoint
        self._function = function
        self._any_json = message is msgspec.Raw
        self._decoder = self._make_decoder(message)
        self._typed = message is not None
        self._async_message = endpoint is not None and asyncio.iscoroutinefunction(endpoint.on_message)
        self.receive: Callable[[Client, int, bytes], None] = self._receive
        self.handle: Callable[[Client, int, bytes], Work] = self._envelope if envelope else self._bare

    def _make_decoder(self, message: Any) -> msgspec.json.Decoder[Any] | None:
        if not self.envelope:
            return None if message is None else msgspec.json.Decoder(message)
        types: list[Any] = [wire.Heartbeat, *(_CHANNEL_TYPES if self.channels else ())]
        if message is not None and not self._any_json:
            types.append(message)
        try:
            return msgspec.json.Decoder(Union[tuple(types)])  # noqa: UP007 - the members are known at run time only
        except TypeError as error:
            raise TypeError(
                f"path {self.path!r}: the message type must be a msgspec struct with a tag of its own: {error}"
            ) from None

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint's instance, None when it is a function."""
        return self._endpoint

    def bind(self, hub: Hub, rules: RuleSet, registry: Registry, node: str) -> None:
        """Connect the route with the node that serves it."""
        self.hub, self.rules, self.registry, self.node = hub, rules, registry, node

    def resolve(self, settings: Settings) -> None:
        """Fill the limits from the settings, and take the short way where nothing needs the long one."""
        declared = self._declared
        server, limits = settings.server, settings.limits
        self.max_channels = limits.channels_per_client
        self.limits = EffectiveLimits(
            server.message_bytes if declared.message_bytes is None else declared.message_bytes,
            limits.rate_burst if declared.rate_burst is None else declared.rate_burst,
            limits.rate_per_s if declared.rate_per_s is None else declared.rate_per_s,
            limits.outbox_bytes if declared.outbox_bytes is None else declared.outbox_bytes,
            server.deflate_min_bytes if declared.deflate_min_bytes is None else declared.deflate_min_bytes,
        )
        direct = not self.envelope and self._endpoint is not None and not self._async_message
        if direct and self._decoder is None and self.limits.rate_per_s == 0 and self._endpoint is not None:
            self.receive = _direct(self._endpoint.on_message)

    def matches(self, path: str) -> dict[str, str] | None:
        """The path's parameters, or None when it is another endpoint's."""
        match = self.pattern.fullmatch(path)
        return None if match is None else match.groupdict()

    # --- a connection's life ------------------------------------------------------------------------------------------

    def admit(self, request: Any) -> Awaitable[None] | None:
        """Ask the endpoint about a handshake; raises Refused."""
        if self._endpoint is None:
            return None
        result: Awaitable[None] | None = self._endpoint.admit(request)
        return result

    def begin(self, client: Client) -> None:
        """The handshake was answered: greet, then tell the endpoint."""
        runtime = client.connection.runtime
        if self.envelope:
            limits = wire.ClientLimits(self.limits.message_bytes, self.limits.rate_burst, self.limits.rate_per_s)
            client.connection.send_message(
                wire.ConnectionEstablished(
                    client.id,
                    self.node,
                    client.session,
                    client.resumed,
                    int(runtime.bounds.heartbeat_s * 1000),
                    limits,
                    runtime.clock.wall_ms,
                )
            )
        if self._function is not None:
            client.open_inbox()
            self.registry.spawn(self._serve(client, self._function))
            return
        if self._endpoint is None:
            return
        try:
            work = self._endpoint.on_connect(client)
        except Exception as error:
            self._fail(client, error)
            return
        if work is not None:
            client.run(self._connect(client, work))

    async def _connect(self, client: Client, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            self._fail(client, error)

    async def _serve(self, client: Client, function: EndpointFunction) -> None:
        try:
            await function(client)
        except Exception as error:
            self._fail(client, error)
        else:
            client.close()

    def _fail(self, client: Client, error: Exception) -> None:
        """The endpoint could not begin or go on with this client."""
        explain(client, error, close_on_fault=True)

    def ended(self, client: Client) -> None:
        """The connection has ended: tell the endpoint."""
        if self._endpoint is None:
            return
        connection = client.connection
        try:
            work = self._endpoint.on_disconnect(client, connection.close_code, connection.close_reason)
        except Exception as error:
            log.error("on_disconnect_failed", path=self.path, connection=client.id, exc_info=error)
            return
        if work is not None:
            self.registry.spawn(guard(client, work))

    # --- messages -----------------------------------------------------------------------------------------------------

    def _receive(self, client: Client, opcode: int, payload: bytes) -> None:
        if client.wait_in_line(opcode, payload):
            return
        work = self.handle(client, opcode, payload)
        if work is not None:
            client.run(work)

    def _envelope(self, client: Client, opcode: int, payload: bytes) -> Work:
        id: wire.MessageId = None
        try:
            self._check_rate(client)
            if opcode == frames.BINARY:
                raise MessageError(wire.INVALID_MESSAGE, "this endpoint takes JSON in text messages, not binary ones")
            if self._any_json and decoding.message_type(payload) not in self._own_tags:
                message: Any = msgspec.Raw(payload)
            else:
                message = decoding.decode(self._decoder, payload)  # type: ignore[arg-type]
                id = getattr(message, "id", None)
            if isinstance(message, wire.Heartbeat):
                client.connection.send_message(wire.Pong(client.connection.runtime.clock.wall_ms, message.id))
                return None
            if isinstance(message, _CHANNEL_TYPES):
                work = feed.handle(client, message)
                return None if work is None else guard(client, work, id)
            return self._pass_on(client, message, id)
        except MessageError as error:
            explain(client, error, id if id is not None else decoding.message_id(payload))
        except Exception as error:
            explain(client, error, id)
        return None

    @functools.cached_property
    def _own_tags(self) -> frozenset[str]:
        return frozenset({"heartbeat"}) | (_CHANNEL_TAGS if self.channels else frozenset())

    def _bare(self, client: Client, opcode: int, payload: bytes) -> Work:
        try:
            self._check_rate(client)
            if self._decoder is not None:
                return self._pass_on(client, decoding.decode(self._decoder, payload), None)
            return self._pass_on(client, payload.decode() if opcode == frames.TEXT else payload, None)
        except MessageError as error:
            # There is no envelope to explain it in.
            policy = error.code == wire.RATE_LIMIT_EXCEEDED
            close = close_codes.POLICY if policy else close_codes.UNSUPPORTED_DATA
            self.registry.note_error(error.code, error.message)
            client.connection.end(close.code, error.message)
        except Exception as error:
            self._fail(client, error)
        return None

    def _pass_on(self, client: Client, message: Any, id: wire.MessageId) -> Work:
        inbox = client.inbox
        if inbox is not None:
            inbox.put(message)
            return None
        if self._endpoint is None:
            return None
        work = self._endpoint.on_message(client, message)
        return None if work is None else guard(client, work, id)

    def _check_rate(self, client: Client) -> None:
        wait_s = client.retry_after()
        if wait_s:
            client.connection.runtime.meter.rate_limited += 1
            limits = self.limits
            raise MessageError(
                wire.RATE_LIMIT_EXCEEDED,
                f"over the limit of {limits.rate_burst:g} messages at once and {limits.rate_per_s:g} a second",
                temporary=True,
                retry_after_ms=int(wait_s * 1000) + 1,
            )


def _direct(on_message: Callable[[Client, Any], Any]) -> Callable[[Client, int, bytes], None]:
    """The shortest way: no envelope, no rate, no type, a plain function."""

    def receive(client: Client, opcode: int, payload: bytes) -> None:
        try:
            on_message(client, payload.decode() if opcode == 1 else payload)
        except Exception as error:
            explain(client, error, close_on_fault=True)

    return receive


def _compile(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", path)
    text = "".join(f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
    return re.compile(text)
