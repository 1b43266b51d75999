"""One TCP connection of a node's port, as long as it speaks HTTP: requests read, answered in order; a thin Protocol.

Rules: a request that is not complete within the port's time-out ends the connection with 408, whatever arrives
meanwhile. Nothing is read while an answer is being worked out or waits for the client. After an upgrade nothing of
this object is kept: the transport gets a `Connection` for its protocol.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Coroutine
from typing import Final, Protocol, cast

from trunkline.http1.heads import BadHead
from trunkline.http1.requests import Request, RequestReader, Response, render, text_response
from trunkline.net.addresses import Network, origin_of
from trunkline.server.http.admission import request_id
from trunkline.server.http.pending import Pending

PIPELINE_LIMIT: Final = 64
EARLY_FRAMES_LIMIT: Final = 1 << 16
"""Bytes a client may send behind its handshake before it was answered."""


class Port(Protocol):
    """What a connection needs of the port it came to.

    Where it `lingers`, what the client still sends after an early refusal is read and thrown away: closing at once
    would reset the connection, and a client that is sending a body would not get the answer.
    """

    pending: Pending
    trusted_proxies: tuple[Network, ...]
    lingers: bool

    def new_reader(self) -> RequestReader:
        """A reader with the bounds of this port."""

    def serve(
        self, connection: HttpConnection, request: Request, upgrade: bool
    ) -> Response | Awaitable[Response | None] | None:
        """Serve one request, which asks to leave HTTP when `upgrade`; returns the answer, None when it was upgraded."""

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run `work` as a task that the node waits for when it stops."""

    def failed(self, reason: str) -> None:
        """The connection ends without a request that could be served."""


class HttpConnection(asyncio.Protocol):
    """One TCP or TLS connection, until it is upgraded."""

    __slots__ = (
        "_blocked", "_early", "_ending", "_peer", "_port", "_queue", "_reader", "_reading", "_task", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, port: Port) -> None:
        self._port = port
        self._reader: RequestReader | None = None
        self._queue: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._early: bytes | None = None
        self._blocked = False
        self._reading = True
        self._ending = False
        self._peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=0)
        peername = transport.get_extra_info("peername")
        self._peer = peername[0] if peername else ""
        if not self._port.pending.open(self):
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The TCP connection has ended before an upgrade."""
        self._port.pending.remove(self)
        if self._task is not None and self._early is not None:
            # There is no client left to admit. Other work goes on: an operator's order holds without its answer.
            self._task.cancel()

    @property
    def busy(self) -> bool:
        """Whether its request is being worked on."""
        return self._task is not None

    def abort(self) -> None:
        """Cut the TCP connection."""
        self.transport.abort()

    def eof_received(self) -> bool:
        """The client sends no more; close when everything is written."""
        return False

    def on_time_out(self) -> None:
        """The time for a request, or for taking its answer, is over."""
        if self._ending or self.transport.is_closing():
            # It does not take its last answer, or does not close after it.
            self.transport.abort()
        elif self._task is not None:
            self._port.pending.keep(self)
        else:
            if self._reader is not None and self._reader.mid_request:
                self._port.failed("handshake_timeout")
                self._end_with(text_response(408, "the request was not complete in time"))
            else:
                self.transport.close()
            # Once more, should it not take what is still to be written.
            self._port.pending.keep(self)

    def pause_writing(self) -> None:
        """Answers wait for the client: serve no more requests until it has taken them."""
        self._blocked = True
        self._read(False)

    def resume_writing(self) -> None:
        """The client has taken them all."""
        self._blocked = False
        self._go_on()

    def data_received(self, data: bytes) -> None:
        """Handle one read."""
        if self._ending or self.transport.is_closing():
            return
        if self._early is not None:
            self._early += data
            if len(self._early) > EARLY_FRAMES_LIMIT:
                self.transport.abort()
            return
        reader = self._reader
        if reader is None:
            reader = self._reader = self._port.new_reader()
        try:
            requests, self._early = reader.feed(data)
        except BadHead as bad:
            self._port.failed("bad_request")
            self._end_with(text_response(bad.status, bad.text))
            return
        self._queue.extend(requests)
        if len(self._queue) > PIPELINE_LIMIT:
            self._end_with(text_response(429, f"more than {PIPELINE_LIMIT} requests wait on one connection"))
            return
        self._work()

    def _work(self) -> None:
        if self._ending:
            return
        port = self._port
        while self._queue and self._task is None and not self._blocked and not self.transport.is_closing():
            request = self._queue.popleft()
            origin = origin_of(self._peer, request.headers, port.trusted_proxies)
            request.peer = self._peer
            request.address, request.secure, request.untrusted, request.proxied = origin
            upgrade = self._early is not None and not self._queue
            answer = port.serve(self, request, upgrade)
            if isinstance(answer, Response):
                self._answer(request, answer, close=upgrade)
            elif answer is not None:
                if not upgrade:
                    self._read(False)
                self._task = port.spawn(self._await_answer(request, answer, upgrade))
        if self._queue or self._task is not None or self._blocked or self._reader is None:
            return
        # Behind the answers to all requests before it.
        if self._reader.awaits_continue() and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _await_answer(self, request: Request, answer: Awaitable[Response | None], close: bool) -> None:
        response = await answer
        self._task = None
        if response is not None and not self.transport.is_closing():
            self._answer(request, response, close=close)
            self._go_on()

    def _go_on(self) -> None:
        self._work()
        if self._task is None and not self._blocked:
            self._read(True)

    def _read(self, reading: bool) -> None:
        if reading != self._reading and not self.transport.is_closing():
            self._reading = reading
            if reading:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def _answer(self, request: Request, response: Response, *, close: bool) -> None:
        keep_alive = request.keep_alive and not close
        self.transport.write(
            render(
                response,
                head_only=request.method == "HEAD",
                keep_alive=keep_alive,
                request_id=request_id(request.headers) or secrets.token_hex(8),
            )
        )
        if keep_alive:
            self._port.pending.keep(self)
        else:
            self.transport.close()

    def upgraded(self) -> bytes:
        """The transport has another protocol from now on; returns what the client sent behind its handshake."""
        self._port.pending.remove(self)
        self._reader = None
        early, self._early = self._early, None
        return early or b""

    def _end_with(self, response: Response) -> None:
        self.transport.write(render(response, keep_alive=False, request_id=secrets.token_hex(8)))
        if self._port.lingers and self.transport.can_write_eof():
            self._ending = True
            self._port.pending.keep(self)
            self.transport.write_eof()
            self._read(True)
        else:
            self.transport.close()
