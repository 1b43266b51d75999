"""Connections to backends until they have answered a handshake: over a bare socket, or over a transport.

Rules:

- A bare socket where the relay can be one of sockets: then no transport is ever made for the backend.
- Everything awaited has a time-out, everything read has a bound. After a 101 nothing more is read: what follows is the
  relay's.
- Of a name with several addresses the first that takes the connection counts (`net/staggered.py`).
- Whoever dials closes what came of it (`abort`), unless a relay has taken it over.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

from trunkline.balancer.relay.handshake_answer import Answer, AnswerReader, Failure
from trunkline.balancer.relay.splice.relay import Relay, RelayOwner, keep_alive, options_of
from trunkline.balancer.relay.splice.sockets import SocketRelay, take_descriptor
from trunkline.balancer.relay.splice.transports import TransportRelay
from trunkline.net.poller import IN, ONCE, OUT, Poller
from trunkline.net.staggered import Address, first_to_connect
from trunkline.placement.backend import Place, place_of
from trunkline.placement.placing import Pick
from trunkline.process.open_files import exhausted

READ_SIZE: Final = 1 << 14


class DialBounds(NamedTuple):
    """Bounds of a dial and its handshake.

    Attributes:
        dial_s: seconds until the backend has taken the connection, TLS included.
        answer_s: seconds until its answer is complete.
        head_bytes: most bytes of the answer's head.
    """

    dial_s: float
    answer_s: float
    head_bytes: int


class Dialer:
    """Connects to backends; without a poller there are no bare sockets."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, poller: Poller | None, bounds: DialBounds, tls: ssl.SSLContext
    ) -> None:
        self._loop = loop
        self._poller = poller
        self._bounds = bounds
        self._tls = tls

    async def dial(self, pick: Pick, client: asyncio.Transport) -> SocketHandshake | TransportHandshake:
        """Connect to a backend.

        Raises Failure `dial`, `dial_timeout` or `tls`, and OSError where no more files can be opened here.
        """
        place = _place_of(pick.url)
        try:
            if self._poller is not None and not place.tls and client.can_write_eof():
                return await self._dial_socket(self._poller, place)
            async with asyncio.timeout(self._bounds.dial_s):
                return await self._dial_transport(place, pick.server_name)
        except TimeoutError:
            raise Failure("dial_timeout") from None
        except ssl.SSLError:
            raise Failure("tls") from None
        except OSError as error:
            if exhausted(error):
                raise
            raise Failure("dial") from None
        except UnicodeError:
            # A name with an empty or a too long label never gets to the resolver.
            raise Failure("dial") from None

    async def _resolve(self, place: Place) -> Sequence[Address]:
        return _addresses(await self._loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM))

    async def _dial_socket(self, poller: Poller, place: Place) -> SocketHandshake:
        """Connect to the first address that takes the connection; raises Failure, or the last one's OSError."""
        loop = self._loop
        until = loop.time() + self._bounds.dial_s
        found: Sequence[Address] = _literal(place.host, place.port)
        if not found:
            async with asyncio.timeout_at(until):
                found = await self._resolve(place)

        async def connect(to: Address) -> SocketHandshake:
            family, address = to
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
            handshake = SocketHandshake(loop, poller, sock, self._bounds)
            done = False
            try:
                keep_alive(sock)
                error = sock.connect_ex(address)
                if error not in (0, errno.EINPROGRESS):
                    # No route, say: SO_ERROR stays 0, and the poller would take it for connected.
                    raise OSError(error, os.strerror(error))
                await handshake.connected(until - loop.time())
                done = True
            finally:
                if not done:
                    handshake.abort()
            return handshake

        return await first_to_connect(found, connect, SocketHandshake.abort)

    async def _dial_transport(self, place: Place, server_name: str) -> TransportHandshake:
        tls: dict[str, Any] = {}
        if place.tls:
            tls = {
                "ssl": self._tls,
                "server_hostname": server_name or place.host,
                "ssl_handshake_timeout": self._bounds.dial_s,
                "ssl_shutdown_timeout": 1.0,
            }
        found = _literal(place.host, place.port) or await self._resolve(place)
        where: dict[str, Any] = {"host": place.host, "port": place.port}
        if len(found) > 1:
            # uvloop tries one address after the other, each for as long as the system does.
            where = {"sock": await first_to_connect(found, self._connect, socket.socket.close)}
        _, protocol = await self._loop.create_connection(lambda: TransportHandshake(self._bounds), **where, **tls)
        return protocol

    async def _connect(self, to: Address) -> socket.socket:
        family, address = to
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
        try:
            await self._loop.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock


_place_of = functools.lru_cache(maxsize=1024)(place_of)


class SocketHandshake:
    """A bare socket, its own from now on, on its way to a backend's answer."""

    __slots__ = ("_answer", "_bounds", "_connected", "_fd", "_loop", "_poller", "_reader", "_sock", "_unsent")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, poller: Poller, sock: socket.socket, bounds: DialBounds
    ) -> None:
        self._loop = loop
        self._poller = poller
        self._sock = sock
        self._fd = sock.fileno()
        self._bounds = bounds
        self._reader = AnswerReader(bounds.head_bytes)
        self._unsent = b""
        self._connected: asyncio.Future[None] | None = None
        self._answer: asyncio.Future[Answer] | None = None

    async def connected(self, timeout_s: float) -> None:
        """Wait until the backend has taken the connection; raises OSError, or Failure `dial_timeout`."""
        self._connected = connected = self._loop.create_future()
        self._poller.watch(self._fd, self, OUT | ONCE)
        # One timer, where `asyncio.timeout` takes several objects and calls for each handshake.
        timer = self._loop.call_later(timeout_s, _fail, connected, "dial_timeout")
        try:
            await connected
        finally:
            timer.cancel()
            # The failure refers to this frame: without this only the garbage collector could free the two.
            self._connected = None
            del connected

    async def ask(self, request: bytes) -> Answer:
        """Send a handshake and read the answer; raises Failure `closed`, `bad_answer` or `handshake_timeout`."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._answer = answer
        self._unsent = request
        self._send()
        timer = self._loop.call_later(self._bounds.answer_s, _fail, answer, "handshake_timeout")
        try:
            return await answer
        finally:
            timer.cancel()
            self._answer = None
            del answer

    def ready(self, fd: int, events: int) -> None:
        """It is connected, takes more, or has something to read; called once for each `change`."""
        connected, answer = self._connected, self._answer
        if connected is not None and not connected.done():
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                connected.set_exception(OSError(error, os.strerror(error)))
            else:
                connected.set_result(None)
        elif answer is not None and not answer.done():
            if self._unsent:
                self._send()
            else:
                self._read(answer)

    def _send(self) -> None:
        try:
            sent = os.write(self._fd, self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            # What it sent before it went is still read.
            sent = len(self._unsent)
        self._unsent = self._unsent[sent:]
        self._poller.change(self._fd, (OUT if self._unsent else IN) | ONCE)

    def _read(self, answer: asyncio.Future[Answer]) -> None:
        found: Answer | Failure | None
        try:
            data = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            found = None
        except OSError:
            found = Failure("closed")
        else:
            found = self._understand(data)
        if found is None:
            self._poller.change(self._fd, IN | ONCE)
        elif isinstance(found, Failure):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def _understand(self, data: bytes) -> Answer | Failure | None:
        try:
            return self._reader.feed(data) if data else self._reader.ended()
        except Failure as failure:
            # Its traceback would keep this object alive, as above.
            return failure.with_traceback(None)

    def relay(self, owner: RelayOwner, pick: Pick, client: asyncio.Transport, now: float) -> Relay:
        """Make a relay of it, which takes both sides over; raises OSError when no more files can be opened."""
        client_fd = take_descriptor(client)
        self._fd = -1
        return SocketRelay(owner, pick, self._poller, client_fd, self._sock.detach(), now)

    def abort(self) -> None:
        """Close it, unless a relay has taken it over."""
        if self._fd >= 0:
            self._poller.forget(self._fd)
            self._fd = -1
            self._sock.close()


def _fail(awaited: asyncio.Future[Any], why: str) -> None:
    if not awaited.done():
        awaited.set_exception(Failure(why))


@functools.lru_cache(maxsize=1024)
def _literal(host: str, port: int) -> tuple[tuple[int, Any], ...]:
    """Where a numeric address leads, with no resolver; empty for a name."""
    try:
        return _addresses(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    except OSError:
        return ()


def _addresses(found: Sequence[tuple[Any, ...]]) -> tuple[tuple[int, Any], ...]:
    return tuple((family, address) for family, _, _, _, address in found)


class TransportHandshake(asyncio.Protocol):
    """A transport on its way to a backend's answer."""

    __slots__ = ("_answer", "_bounds", "_early", "_lost", "_reader", "_taken", "_transport")

    _transport: asyncio.Transport

    def __init__(self, bounds: DialBounds) -> None:
        self._bounds = bounds
        self._reader = AnswerReader(bounds.head_bytes)
        self._early = b""
        self._answer: asyncio.Future[Answer] | None = None
        self._lost = False
        self._taken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The backend has taken the connection."""
        self._transport = cast(asyncio.Transport, transport)
        found = transport.get_extra_info("socket")
        if found is not None:
            with options_of(found.fileno()) as sock:
                keep_alive(sock)

    async def ask(self, request: bytes) -> Answer:
        """Send a handshake and read the answer; raises Failure `closed`, `bad_answer` or `handshake_timeout`."""
        if self._lost:
            raise Failure("closed")
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answer = answer
        self._transport.write(request)
        if self._early:
            # It sent something before the request.
            self.data_received(b"")
        try:
            async with asyncio.timeout(self._bounds.answer_s):
                return await answer
        except TimeoutError:
            raise Failure("handshake_timeout") from None

    def data_received(self, data: bytes) -> None:
        """Read more of the answer."""
        answer = self._answer
        if answer is None:
            self._early += data
            if len(self._early) > self._bounds.head_bytes:
                self._transport.abort()
            return
        if answer.done():
            return
        if self._early:
            data, self._early = self._early + data, b""
        try:
            found = self._reader.feed(data)
        except Failure as failure:
            answer.set_exception(failure)
            return
        if found is not None:
            self._transport.pause_reading()
            answer.set_result(found)

    def eof_received(self) -> bool:
        """The backend sends no more, which may be the end of its body."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._lost = True
        answer = self._answer
        if answer is not None and not answer.done():
            try:
                answer.set_result(self._reader.ended())
            except Failure as failure:
                answer.set_exception(failure)

    def relay(self, owner: RelayOwner, pick: Pick, client: asyncio.Transport, now: float) -> Relay:
        """Make a relay of it, which takes both sides over; raises Failure `closed` when the backend has gone."""
        if self._lost:
            raise Failure("closed")
        self._taken = True
        return TransportRelay(owner, pick, client, self._transport, now)

    def abort(self) -> None:
        """Close it, unless a relay has taken it over."""
        if not self._taken:
            self._transport.abort()
