"""One life of the connection to NATS: from a successful log-in until it is lost, never revived.

Rules:

- A wire that is lost stays lost; a new one is made (`nats/link.py`). The client library's own reconnecting is off,
  because it keeps what was published while the server was away and sends it later, after its failure was
  reported.
- Every way of being lost ends in `lost` being set, every open call failing at once, and no further delivery.
- Messages are delivered from the parser, without a queue, a task or a switch of tasks per message: a subscriber that is
  slow slows the reading of the socket, and nothing is dropped on this side.
- Replies come to subjects below `<prefix>.inbox.<user>.`, so that no user needs a right on what others are answered.
- The server answers nothing to what its user may not do, and reports it beside: a call fails by that report at once.
- `echo` proves that the server has processed everything sent before it. (The client's `flush` does not: its PING is
  written at once and can overtake commands that still wait for the flusher.)
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import ssl
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog
from nats import errors as nats_errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from trunkline.errors import BusForbids, BusUnavailable, MessageTooLarge
from trunkline.nats.address import DEFAULT_PORT, NatsAddress
from trunkline.nats.login import CONNECT_TIMEOUT_S, Connection, log_in
from trunkline.protocol.subjects import inbox_prefix

log = structlog.get_logger("trunkline.bus")

OnMessage = Callable[[Msg], None]

_FORBIDDEN: Final = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"", re.IGNORECASE)
_DOES: Final = {"publish": "publish on", "subscription": "subscribe to"}
MOST_FORBIDDEN: Final = 20
"""Different subjects that a connection logs as forbidden."""

BACKLOG_BYTES = 64 * 1024 * 1024
"""What may wait for a server that does not read, before publishing fails."""


class WireSubscription(asyncio.Future[Msg]):
    """A subject being delivered over one wire: receives messages where the client library would complete a future.

    The library hands a message for a subscription with a `future` straight to `set_result`, inside its parser. A future
    that never completes and passes each message on is thereby a subscription without queue and task. The conformance
    suite shows whether a new version of the library still does so.
    """

    def __init__(self, on_message: OnMessage, siblings: set[WireSubscription]) -> None:
        super().__init__()
        self._siblings = siblings
        self.on_message: OnMessage | None = on_message
        self.subscription: NatsSubscription | None = None

    def set_result(self, msg: Msg) -> None:
        """Deliver a message."""
        if self.on_message is None:
            return
        try:
            self.on_message(msg)
        except Exception:
            # An exception here would end the library's read loop, and with it every other subscription.
            log.exception("delivery failed", subject=msg.subject)

    async def close(self) -> None:
        """End delivery at once, and unsubscribe at the server when it can be reached."""
        self.on_message = None
        self._siblings.discard(self)
        if self.subscription is not None:
            with contextlib.suppress(nats_errors.Error, OSError):
                await self.subscription.unsubscribe()


class LastingSubscription:
    """A subject being delivered over one wire after another; `forget` takes it off the list of those to bring back."""

    def __init__(self, subject: str, on_message: OnMessage, forget: Callable[[LastingSubscription], None]) -> None:
        self._subject = subject
        self._on_message = on_message
        self._forget = forget
        self._wired: WireSubscription | None = None
        self.closed = False

    async def attach(self, wire: Wire) -> None:
        """Go on over a new wire; raises BusUnavailable when that is lost already."""
        self._wired = await wire.subscribe(self._subject, self._on_message)
        if self.closed:
            await self._wired.close()

    async def close(self) -> None:
        """End delivery; safe to call twice and while there is no server."""
        if not self.closed:
            self.closed = True
            self._forget(self)
        if self._wired is not None:
            await self._wired.close()


def header_bytes(headers: dict[str, str] | None) -> int:
    """What headers add to a message; NATS counts them against its `max_payload`, the client library does not."""
    if not headers:
        return 0
    # "NATS/1.0", each as "name: value", an empty line; all end with CRLF.
    return 12 + sum(len(name.encode()) + len(value.encode()) + 4 for name, value in headers.items())


class _Call(NamedTuple):
    """A request that waits: for one reply, or for many that end with a status."""

    subject: str
    future: asyncio.Future[list[Msg]]
    many: list[Msg] | None


class Wire:
    """A live connection; made by `Wire.connect`."""

    def __init__(self, connection: Connection, inbox: str) -> None:
        self._connection = connection
        self._client = connection.client
        self._inbox = inbox
        self._calls: dict[str, _Call] = {}
        self._last_call = 0
        self._subscriptions: set[WireSubscription] = set()
        self._echo: asyncio.Task[None] | None = None
        self.lost = connection.lost

    @classmethod
    async def connect(cls, address: NatsAddress, *, prefix: str, tls: ssl.SSLContext | None) -> Wire:
        """Log in; raises BusUnavailable when no server accepts it. `prefix` is the first token of every subject."""
        wires: list[Wire] = []
        forbidden: set[str] = set()

        def on_error(error: str) -> None:
            found = _FORBIDDEN.search(error)
            if found is None:
                log.debug("nats reports", error=error)
                return
            calls = wires[0]._calls_on(found[2]) if wires and found[1].lower() == "publish" else []
            # The library hands the report on in lower case.
            subject = calls[0].subject if calls else found[2]
            text = f"NATS does not allow its user {address.user or ''!r} to {_DOES[found[1].lower()]} {subject}"
            if text not in forbidden and len(forbidden) < MOST_FORBIDDEN:
                forbidden.add(text)
                hint = "give it the right; deploy/nats has those of each part"
                log.warning("nats forbids", text=text, next_step=hint)
            for call in calls:
                call.future.set_exception(BusForbids(text))

        connection = await log_in(address, name="trunkline", tls=tls, on_error=on_error)
        version = connection.client.connected_server_version
        if (version.major, version.minor) < (2, 11):
            await connection.close()
            found = f"{version.major}.{version.minor}"
            raise BusUnavailable(f"NATS at {address.shown} is version {found}; history needs 2.11 or newer")
        wire = cls(connection, f"{inbox_prefix(prefix, address.user)}.{secrets.token_hex(8)}")
        wires.append(wire)
        try:
            await wire.subscribe(f"{wire._inbox}.*", wire._on_reply)
        except BusUnavailable:
            await wire.close("the first subscription failed")
            raise
        wire.lost.add_done_callback(wire._on_lost)
        return wire

    @property
    def alive(self) -> bool:
        """Whether messages can be sent now."""
        return self._connection.alive

    @property
    def server(self) -> tuple[str, int] | None:
        """Host and port of the server, None when it is gone."""
        url = self._client.connected_url
        return (url.hostname, url.port or DEFAULT_PORT) if url is not None and url.hostname else None

    async def send(self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Queue one message for writing, in the order of the calls; never waits for the network.

        Raises:
            BusUnavailable: the wire is lost, or the server does not read what it is sent.
            MessageTooLarge: the server takes less; it would end the connection.
        """
        self._require_alive()
        size = len(data) + header_bytes(headers)
        if size > self._client.max_payload:
            raise MessageTooLarge(size, self._client.max_payload)
        if self._client.pending_data_size > BACKLOG_BYTES:
            raise BusUnavailable(f"NATS does not read: {self._client.pending_data_size} bytes wait to be sent")
        try:
            await self._client.publish(subject, data, reply=reply, headers=headers)
        except (nats_errors.Error, OSError) as error:
            raise BusUnavailable(f"NATS did not take a message: {error}") from error

    async def call(
        self,
        subject: str | None,
        data: bytes,
        *,
        timeout_s: float,
        headers: dict[str, str] | None = None,
        many: bool = False,
    ) -> asyncio.Future[list[Msg]]:
        """Send a request and return the future of its replies; it fails with BusUnavailable after `timeout_s` seconds.

        With `many`, replies are gathered until one with a status ends them; that one is included. Sending does not
        wait, so requests leave in the order of the calls. Without a subject the message itself comes back.
        """
        loop = asyncio.get_running_loop()
        self._last_call += 1
        token = str(self._last_call)
        reply = f"{self._inbox}.{token}"
        future: asyncio.Future[list[Msg]] = loop.create_future()

        def expire() -> None:
            if not future.done():
                name = subject or "its own inbox"
                future.set_exception(BusUnavailable(f"NATS did not answer on {name} within {timeout_s:g} s"))

        def forget(_: asyncio.Future[list[Msg]]) -> None:
            timer.cancel()
            self._calls.pop(token, None)

        timer = loop.call_later(timeout_s, expire)
        self._calls[token] = _Call(subject or reply, future, [] if many else None)
        future.add_done_callback(forget)
        try:
            await self.send(subject or reply, data, reply=reply, headers=headers)
        except BaseException:
            future.cancel()
            raise
        return future

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> Msg:
        """Send a request and return its one reply; raises BusUnavailable after `timeout_s` seconds."""
        return (await (await self.call(subject, data, timeout_s=timeout_s)))[0]

    async def echo(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Return when the server has processed everything sent before; raises BusUnavailable after `timeout_s` seconds.

        Callers of one moment share a round trip.
        """
        if self._echo is None:
            self._echo = asyncio.create_task(self._send_echo(timeout_s))
            # Retrieves its outcome: when every caller has given up, asyncio would report its failure.
            self._echo.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Shielded: one caller that gives up must not take the answer from the others.
        await asyncio.shield(self._echo)

    async def subscribe(self, subject: str, on_message: OnMessage) -> WireSubscription:
        """Deliver a subject's messages, by a plain call from the loop; raises BusUnavailable when the wire is lost.

        The server has processed it after the next `echo`.
        """
        self._require_alive()
        wired = WireSubscription(on_message, self._subscriptions)
        try:
            wired.subscription = await self._client.subscribe(subject, future=wired)
        except (nats_errors.Error, OSError) as error:
            raise BusUnavailable(f"NATS did not take a subscription: {error}") from error
        self._subscriptions.add(wired)
        return wired

    async def close(self, reason: str) -> None:
        """Silence every subscription, fail every call, and close the socket; `lost` is set with `reason`."""
        self.fail(reason)
        self._on_lost(self.lost)
        await self._connection.close()

    def fail(self, reason: str) -> None:
        """Give this wire up; `lost` is set with `reason`."""
        if not self.lost.done():
            self.lost.set_result(reason)

    def _require_alive(self) -> None:
        if not self._client.is_connected:
            self.fail(str(self._client.last_error or "closed by the server"))
        if self.lost.done():
            raise BusUnavailable(f"the connection to NATS is lost: {self.lost.result()}")

    async def _send_echo(self, timeout_s: float) -> None:
        # The others of this moment join while this yields; a later caller needs a round trip of its own.
        await asyncio.sleep(0)
        self._echo = None
        # A message to our own inbox: it travels behind everything sent before, and back.
        await (await self.call(None, b"", timeout_s=timeout_s))

    def _on_reply(self, msg: Msg) -> None:
        call = self._calls.get(msg.subject.rpartition(".")[2])
        if call is None or call.future.done():
            return
        if call.many is None:
            call.future.set_result([msg])
            return
        call.many.append(msg)
        if msg.headers is not None and "Status" in msg.headers:
            call.future.set_result(call.many)

    def _calls_on(self, subject: str) -> list[_Call]:
        """The calls that wait for what was sent on a subject, in any case."""
        calls = self._calls.values()
        return [call for call in calls if call.subject.lower() == subject.lower() and not call.future.done()]

    def _on_lost(self, lost: asyncio.Future[str]) -> None:
        for subscription in self._subscriptions:
            subscription.on_message = None
        self._subscriptions.clear()
        for call in list(self._calls.values()):
            if not call.future.done():
                call.future.set_exception(BusUnavailable(f"the connection to NATS was lost: {lost.result()}"))
