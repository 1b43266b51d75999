"""A connection before it is a WebSocket: plain HTTP requests, then perhaps the upgrade; a thin Protocol.

Rules: requests of one connection are answered in order. A head that is not complete within the handshake time-out ends
the connection with 408, whatever arrives meanwhile. After the upgrade nothing of this object is kept: the transport
gets a `Connection` for its protocol.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from trunkline.errors import Refused
from trunkline.http1.heads import BadHead
from trunkline.http1.requests import Request, RequestReader, Response, render, text_response
from trunkline.net.addresses import origin_of
from trunkline.server.app.serving import serve
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.identity import ClientIdentity
from trunkline.server.http.admission import Admitted, request_id, retry_after_header
from trunkline.websocket.frames import FrameReader

if TYPE_CHECKING:
    from trunkline.server.node.node import Node

log = structlog.get_logger("trunkline.http")

PIPELINE_LIMIT: Final = 64
EARLY_FRAMES_LIMIT: Final = 1 << 16
"""Bytes a client may send behind its handshake before it was answered."""


class HttpConnection(asyncio.Protocol):
    """One TCP connection of the data port, until it is upgraded.

    Args:
        node: the node it came to.
    """

    __slots__ = ("_blocked", "_early", "_node", "_peer", "_queue", "_reader", "_task", "_transport")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._reader: RequestReader | None = None
        self._queue: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._early: bytes | None = None
        self._blocked = False
        self._peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        peername = transport.get_extra_info("peername")
        self._peer = peername[0] if peername else ""
        node = self._node
        if not node.open_door(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The TCP connection has ended before an upgrade."""
        self._node.close_door(self)
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        """Cut the TCP connection."""
        self._transport.abort()

    def eof_received(self) -> bool:
        """The client sends no more; close when everything is written."""
        return False

    def on_time_out(self) -> None:
        """The time for a request, or for taking its answer, is over."""
        if self._transport.is_closing():
            # It does not take its last answer.
            self._transport.abort()
        elif self._task is not None:
            self._node.keep_door(self)
        else:
            if self._reader is not None and self._reader.mid_request:
                self._node.runtime.meter.connections_failed.add("handshake_timeout")
                self._close_with(text_response(408, "the request was not complete in time"))
            else:
                self._transport.close()
            # Once more, should it not take what is still to be written.
            self._node.keep_door(self)

    def pause_writing(self) -> None:
        """Answers wait for the client: serve no more requests until it has taken them."""
        self._blocked = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has taken them all."""
        self._blocked = False
        self._transport.resume_reading()
        self._work()

    def data_received(self, data: bytes) -> None:
        """Handle one read."""
        if self._transport.is_closing():
            return
        if self._early is not None:
            self._early += data
            if len(self._early) > EARLY_FRAMES_LIMIT:
                self._transport.abort()
            return
        if self._reader is None:
            self._reader = RequestReader(self._node.settings.server.header_bytes)
        try:
            requests, tail = self._reader.feed(data)
        except BadHead as bad:
            self._node.runtime.meter.connections_failed.add("bad_request")
            self._close_with(text_response(bad.status, bad.text))
            return
        if tail is not None:
            self._early = tail
        self._queue.extend(requests)
        if len(self._queue) > PIPELINE_LIMIT:
            self._close_with(text_response(429, f"more than {PIPELINE_LIMIT} requests wait on one connection"))
            return
        self._work()

    def _work(self) -> None:
        while self._queue and self._task is None and not self._blocked and not self._transport.is_closing():
            request = self._queue.popleft()
            origin = origin_of(self._peer, request.headers, self._node.trusted_proxies)
            request.peer, request.address, request.secure = self._peer, origin.address, origin.secure
            upgrade = self._early is not None and not self._queue
            if upgrade and request.wants_websocket:
                self._admit(request)
                return
            self._answer(request, self._node.answer(request, origin.stranger), close=upgrade)

    def _answer(self, request: Request, response: Response, *, close: bool = False) -> None:
        keep_alive = request.keep_alive and not close
        self._transport.write(
            render(
                response,
                head_only=request.method == "HEAD",
                keep_alive=keep_alive,
                request_id=request_id(request.headers) or secrets.token_hex(8),
            )
        )
        if keep_alive:
            self._node.keep_door(self)
        else:
            self._transport.close()

    def _close_with(self, response: Response) -> None:
        self._transport.write(render(response, keep_alive=False, request_id=secrets.token_hex(8)))
        self._transport.close()

    # --- the upgrade --------------------------------------------------------------------------------------------------

    def _admit(self, request: Request) -> None:
        started = perf_counter()
        try:
            decided = self._node.admission.decide(request)
        except Exception as error:
            self._refuse(request, error)
            return
        if isinstance(decided, Admitted):
            self._upgrade(request, decided, started)
        else:
            self._task = self._node.registry.spawn(self._decide(request, decided, started))

    async def _decide(self, request: Request, decided: Awaitable[Admitted], started: float) -> None:
        try:
            async with asyncio.timeout(self._node.handshake_timeout_s):
                admitted = await decided
        except TimeoutError:
            self._refuse(request, Refused(503, "the decision took too long", retry_after_s=5.0, label="admit_timeout"))
            return
        except Exception as error:
            self._refuse(request, error)
            return
        finally:
            self._task = None
        if not self._transport.is_closing():
            self._upgrade(request, admitted, started)

    def _refuse(self, request: Request, error: Exception) -> None:
        if self._transport.is_closing():
            return
        if not isinstance(error, Refused):
            log.error("admission_failed", path=request.path, exc_info=error)
            error = Refused(500, "the server could not decide on this handshake", label="internal")
        self._node.runtime.meter.connections_failed.add(error.label)
        log.info(
            "handshake_refused", path=request.path, address=request.address, status=error.status, reason=error.label
        )
        headers: list[tuple[str, str]] = retry_after_header(error.retry_after_s)
        if error.status == 426:
            headers.append(("Sec-WebSocket-Version", "13"))
        if error.status == 401:
            headers.append(("WWW-Authenticate", "Bearer"))
        self._answer(request, text_response(error.status, error.reason, headers), close=True)

    def _upgrade(self, request: Request, admitted: Admitted, started: float) -> None:
        node = self._node
        runtime = node.runtime
        route = admitted.route
        reader = FrameReader(route.limits.message_bytes, admitted.deflate is not None)
        bits = admitted.deflate.server_bits if admitted.deflate is not None else 0
        session = _session(request)
        drawn = node.names.draw()
        connection = Connection(
            runtime,
            node.registry,
            self._transport,
            reader,
            identity=ClientIdentity(
                id=admitted.params.get("connection_id") or drawn[:12],
                session=session or drawn[12:],
                resumed=session is not None,
                target=_without_token(request.target),
                params=admitted.params,
                claims=admitted.claims,
                address=request.address,
            ),
            serve=partial(serve, route),
            deflate_bits=bits,
            outbox_bytes=route.limits.outbox_bytes,
            expires_at=node.monotonic(admitted.expires_at),
        )
        node.close_door(self)
        self._transport.set_protocol(connection)
        node.registry.opened(connection)
        node.arrivals.add(request.headers["sec-websocket-key"])
        connection.open(admitted.response)
        node.on_opened(connection)
        self._reader = None
        runtime.meter.handshake.observe(perf_counter() - started)
        early, self._early = self._early, None
        if early:
            connection.data_received(early)


def _session(request: Request) -> str | None:
    """The session that a reconnecting client brings along, if it is well formed."""
    if "session=" not in request.target:
        return None
    given: Any = request.query.get("session")
    if given and 16 <= len(given) <= 64 and given.replace("-", "").replace("_", "").isalnum() and given.isascii():
        return str(given)
    return None


def _without_token(target: str) -> str:
    """The target as it is kept: a token in it has done its work, and must reach neither logs nor memory dumps."""
    path, mark, query = target.partition("?")
    if "token=" not in query:
        return target
    return path + mark + "&".join(part for part in query.split("&") if not part.startswith("token="))
