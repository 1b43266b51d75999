"""A client's TCP connection until it is relayed: requests read one after the other, each answered before the next.

Rules:

- A head that is not complete within the handshake time-out ends the connection with 408, whatever arrives meanwhile.
- While a request is under way, at most `AHEAD` bytes behind it are read: pipelined requests, or frames that a client
  sends together with its handshake.
- After an answer that ends the connection, what the client still sends is read and thrown away for a moment: closing
  at once would reset the connection, and the answer would be lost.
- After the 101 nothing of this object is kept: a relay takes over the transport, or its descriptor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, cast

import structlog

from trunkline.balancer.relay.arrivals import Arrival
from trunkline.balancer.relay.client_side import STALL_S
from trunkline.balancer.relay.context import RelayContext
from trunkline.balancer.relay.forwarding import Caller, text_answer
from trunkline.balancer.relay.meter import EdgeEvent
from trunkline.balancer.relay.pass_through import BODY_HIGH_WATER, PassThrough, RequestBody
from trunkline.balancer.relay.upgrade import Upgrade
from trunkline.http1.bodies import BodyReader
from trunkline.http1.heads import BadHead, RequestHead, check_beginning, find_end, read_request
from trunkline.net.addresses import origin_of

log = structlog.get_logger("trunkline.balancer")

AHEAD: Final = 1 << 16
"""Bytes read behind a request that is under way."""

FAREWELL_S: Final = 2.0
"""How long a client may take to close after its last answer."""


class ClientConnection(asyncio.Protocol):
    """One TCP connection of the edge, until it is relayed; a `ClientSide`."""

    __slots__ = (
        "_arrival", "_balanced", "_body", "_buffer", "_context", "_drained", "_peer", "_reading", "_scanned", "_task",
        "_tls", "_turn_due", "answered", "began", "deadline", "ended", "fresh", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, context: RelayContext, arrival: Arrival | None = None) -> None:
        self._context = context
        self._arrival = arrival
        self._tls = arrival is not None and arrival.tls
        # A load balancer that the operator named passed it on; no browser sends the header that says so.
        self._balanced = False
        self._peer = ""
        self._buffer = b""
        self._scanned = 0
        self._task: asyncio.Task[None] | None = None
        self._body: RequestBody | None = None
        self._drained: asyncio.Future[None] | None = None
        self._reading = True
        self._turn_due = False
        self.answered = False
        self.began = False
        self.ended = False
        self.fresh = True
        self.deadline = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = cast(asyncio.Transport, transport)
        peername = transport.get_extra_info("peername")
        self._peer = peername[0] if peername else ""
        if self._arrival is not None:
            self._arrival.arrived()
            self._balanced = self._arrival.source is not None
            self._peer = self._arrival.source or self._peer
            self._arrival = None
        if not self._context.pending.add(self):
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; what was done for it ends."""
        self.answered = self.ended = True
        self._context.pending.remove(self)
        # It refers to this object, and would keep it alive until the garbage is collected.
        self._body = None
        if self._task is not None:
            self._task.cancel()

    def eof_received(self) -> bool:
        """The client sends no more. It still gets answers to its requests, but no WebSocket."""
        self.ended = True
        if self.answered:
            return False
        if self._body is not None:
            self._body.wake()
        if self._task is None:
            return False
        if self._context.pending.is_upgrading(self):
            self._task.cancel()
            return False
        return self.transport.can_write_eof()

    def pause_writing(self) -> None:
        """Answers wait for the client."""
        if self._drained is None:
            self._drained = self._context.loop.create_future()

    def resume_writing(self) -> None:
        """The client has taken most of them."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Handle one read."""
        if self.answered:
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._turn_due:
            return
        try:
            if self._body is not None and not self._body.complete:
                self._read_body(self._body)
                if not self._buffer or self._turn_due:
                    return
            if self._task is None:
                self._next()
            elif len(self._buffer) > AHEAD:
                self._pause()
        except BadHead as bad:
            self._on_bad(bad)

    def _read_body(self, body: RequestBody) -> None:
        """Read a bounded part of what came of a body; the others have their turn before the rest."""
        self._buffer = body.feed(self._buffer)
        if body.size > BODY_HIGH_WATER:
            self._pause()
        if self._buffer and not body.complete:
            self._pause()
            self._turn_due = True
            self._context.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        body = self._body
        if self.answered or body is None or self.transport.is_closing():
            return
        try:
            if not body.complete:
                self._read_body(body)
        except BadHead as bad:
            self._on_bad(bad)
            return
        if body.size <= BODY_HIGH_WATER and len(self._buffer) <= AHEAD:
            self.read_on()

    def _next(self) -> None:
        context = self._context
        if self._buffer[:2] == b"\r\n":
            # An empty line before a request is to be ignored (RFC 9112 section 2.2).
            self._buffer = self._buffer[2:]
        end = find_end(self._buffer, context.settings.header_bytes, self._scanned)
        if end < 0:
            if b"\n" in self._buffer:
                check_beginning(self._buffer)
            self._scanned = len(self._buffer)
            return
        head = read_request(self._buffer[:end])
        self.fresh = False
        rest, self._buffer, self._scanned = self._buffer[end:], b"", 0
        caller = self._caller(head)
        refusal = context.hosts.refusal(head.headers.get("host"), caller.trusted or self._balanced)
        if refusal:
            if context.hosts.is_first():
                log.warning("host_refused", address=caller.address, next_step=refusal)
            self.refuse(400, "unknown_host", refusal, head_only=head.method == "HEAD")
            if context.on_event is not None:
                context.on_event(EdgeEvent("refused", "", "unknown_host", caller.address, head.path, 0.0, 400))
            return
        if head.wants_websocket:
            self._buffer = rest
            self._body = None
            if len(rest) > AHEAD:
                self._pause()
            work = self._run(Upgrade(context, self, head, caller))
            self._task = context.pending.work(self, work, upgrade=True)
            return
        reader = BodyReader(head.length, context.settings.body_bytes)
        expected = head.minor == 1 and head.headers.get("expect", "").lower() == "100-continue"
        body = self._body = RequestBody(reader, self, expected)
        self._buffer = rest
        if not body.complete:
            self._read_body(body)
        if len(self._buffer) > AHEAD or body.size > BODY_HIGH_WATER:
            self._pause()
        else:
            self.read_on()
        self._task = context.pending.work(
            self, self._run(PassThrough(context, self, head, caller, body)), upgrade=False
        )

    def _caller(self, head: RequestHead) -> Caller:
        context = self._context
        origin = origin_of(self._peer, head.headers, context.trusted_proxies)
        return Caller(self._peer, origin.address, origin.proxied, self._tls, origin.untrusted)

    async def _run(self, work: Upgrade | PassThrough) -> None:
        try:
            await work.run()
        except Exception:
            log.exception("request_failed")
            if self.began:
                # What comes now would be read as a piece of the answer's body.
                self.abort()
            elif not self.answered:
                self.refuse(500, "internal", "this balancer could not handle the request")
        finally:
            self._task = None
            if not self.answered and not self.transport.is_closing() and self in self._context.pending:
                self._go_on()

    def _go_on(self) -> None:
        self._body = None
        self._context.pending.wait(self)
        try:
            if self._buffer:
                self._next()
        except BadHead as bad:
            self._on_bad(bad)
            return
        if self._task is None:
            if self.ended or self._context.pending.stopping:
                self.transport.close()
            self.read_on()

    def _on_bad(self, bad: BadHead) -> None:
        reason = {408: "head_timeout", 413: "body_too_long", 431: "head_too_long"}.get(bad.status, "bad_request")
        # Marks the answer before the task that works on the request ends, so that it writes no more.
        task, self._task = self._task, None
        if self.began:
            self.abort()
        self.refuse(bad.status, reason, bad.text)
        if self._context.on_event is not None:
            self._context.on_event(EdgeEvent("refused", "", reason, self._peer, "", 0.0, bad.status))
        if task is not None:
            task.cancel()

    def on_time_out(self) -> None:
        """The time for a request's head, or for taking the last answer, is over."""
        if self.answered or self.transport.is_closing():
            self.transport.abort()
        elif self._buffer:
            self._on_bad(BadHead(408, "the request was not complete in time"))
        else:
            self.transport.close()
            self._context.pending.wait(self, FAREWELL_S)

    def write(self, data: bytes) -> None:
        """Write a piece of an answer."""
        if not self.answered and not self.transport.is_closing():
            self.transport.write(data)

    async def drained(self) -> None:
        """Wait until the client takes more; raises TimeoutError when it does not."""
        if self._drained is not None:
            async with asyncio.timeout(STALL_S):
                await asyncio.shield(self._drained)

    async def next_request(self, keep: bool) -> None:
        """An answer is complete; close unless `keep`."""
        await self.drained()
        self.began = False
        if not keep:
            self.finish(b"")

    def refuse(
        self,
        status: int,
        reason: str,
        text: str,
        *,
        retry_after_s: float | None = None,
        headers: Iterable[tuple[str, str]] = (),
        head_only: bool = False,
    ) -> None:
        """Refuse a request with one line of text, and close."""
        self._context.meter.refusals.add(reason)
        answer = text_answer(self._context.forwarding, status, text, retry_after_s=retry_after_s, headers=headers)
        self.finish(answer[: answer.index(b"\r\n\r\n") + 4] if head_only else answer)

    def finish(self, data: bytes) -> None:
        """Write the last of an answer, and close when the client has it."""
        if self.answered or self.transport.is_closing():
            return
        self.transport.write(data)
        self.answered = True
        self._buffer = b""
        self._context.pending.wait(self, FAREWELL_S)
        if self.ended or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()
            self.read_on()

    @property
    def is_over(self) -> bool:
        """The client is gone, sends no more, or has had its last answer."""
        return self.ended or self.answered or self.transport.is_closing()

    def leave(self) -> bytes:
        """A relay has the transport from now on; returns what the client sent behind its handshake."""
        early, self._buffer = self._buffer, b""
        self.answered = True
        self._context.pending.remove(self)
        return early

    def abort(self) -> None:
        """Cut the TCP connection."""
        self.answered = True
        self.transport.abort()

    def close_if_idle(self) -> None:
        """The edge stops: end what waits for another request. A client that has just come gets its first one served."""
        if self._task is None and not self.answered and not self.fresh:
            self.transport.close()

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    def read_on(self) -> None:
        """Read from the client again."""
        if not self._reading and not self._turn_due and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()
