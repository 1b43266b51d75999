"""A handshake on its way: admission, a pick, the dial, the backend's answer, another backend when that was none.

Rules:

- Until the client has its 101 another backend may be tried; from then on never.
- Every pick ends in exactly one of `opened`, `failed` and `dropped`. The client's leaving is no backend's fault.
- 3xx and 4xx are the backend's word to the client. Anything else but a valid 101 is a backend that failed.
- Everything awaited has a time-out, everything read has a bound.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import msgspec

from trunkline.balancer.backend import place_of
from trunkline.balancer.bodies import BodyReader
from trunkline.balancer.edge_meter import EventName
from trunkline.balancer.forwarding import Caller, accepts, key_is_valid, text_answer
from trunkline.balancer.heads import UNTIL_CLOSE, AnswerHead, BadHead, RequestHead, find_end, read_answer
from trunkline.balancer.placing import Ask, Pick, Refusal
from trunkline.balancer.relay import Relay
from trunkline.balancer.routes import cookie_value

if TYPE_CHECKING:
    from trunkline.balancer.edge import Edge
    from trunkline.balancer.edge_connection import Door

MAX_ANSWER_BODY: Final = 1 << 16
"""Most bytes of a backend's answer that refuses a handshake; a longer one is cut to its status."""


class Failure(Exception):
    """A backend could not take a connection.

    Attributes:
        why: a word that `Placer.failed` knows.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Refused(NamedTuple):
    """A backend's answer other than 101."""

    head: AnswerHead
    body: bytes


class BackendHandshake(asyncio.Protocol):
    """A connection to a backend until it has answered.

    Args:
        limit: most bytes of the answer's head.
    """

    __slots__ = ("_answer", "_body", "_buffer", "_content", "_head", "_limit", "_scanned", "lost", "transport")

    transport: asyncio.Transport

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = b""
        self._scanned = 0
        self._head: AnswerHead | None = None
        self._body: BodyReader | None = None
        self._content = b""
        self._answer: asyncio.Future[Refused | tuple[AnswerHead, bytes]] | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The backend has taken the connection."""
        self.transport = cast(asyncio.Transport, transport)

    async def ask(self, request: bytes) -> Refused | tuple[AnswerHead, bytes]:
        """Send a handshake and read the answer; after a 101 nothing more is read.

        Returns:
            The head of a 101 with the bytes behind it, or another answer.

        Raises:
            Failure: `closed` or `bad_answer`.
        """
        if self.lost:
            raise Failure("closed")
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        if self._buffer:
            # It spoke before it was asked.
            self.data_received(b"")
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """Read more of the answer."""
        answer = self._answer
        if answer is None:
            self._buffer += data
            if len(self._buffer) > self._limit:
                self.transport.abort()
            return
        if answer.done():
            return
        try:
            self._read(data, answer)
        except BadHead:
            answer.set_exception(Failure("bad_answer"))

    def _read(self, data: bytes, answer: asyncio.Future[Refused | tuple[AnswerHead, bytes]]) -> None:
        if self._body is not None:
            self._read_body(data, answer)
            return
        self._buffer += data
        while True:
            end = find_end(self._buffer, self._limit, self._scanned)
            if end < 0:
                self._scanned = len(self._buffer)
                return
            head = read_answer(self._buffer[:end])
            rest = self._buffer[end:]
            if head.status == 101:
                self.transport.pause_reading()
                answer.set_result((head, rest))
                return
            if head.status >= 200:
                break
            # An interim answer: what counts comes behind it, and all together are bounded.
            self._limit -= end
            self._buffer, self._scanned = rest, 0
        self._buffer = b""
        self._head = head
        self._body = BodyReader(head.length, 1 << 62)
        self._read_body(rest, answer)

    def _read_body(self, data: bytes, answer: asyncio.Future[Refused | tuple[AnswerHead, bytes]]) -> None:
        head, body = self._head, self._body
        if head is None or body is None:
            return
        content, _ = body.feed(data)
        self._content += content
        if len(self._content) > MAX_ANSWER_BODY:
            answer.set_result(Refused(head, b""))
        elif body.done:
            answer.set_result(Refused(head, self._content))

    def eof_received(self) -> bool:
        """The backend sends no more, which may be the end of its body."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.lost = True
        answer = self._answer
        if answer is not None and not answer.done():
            if self._head is not None and self._head.length == UNTIL_CLOSE:
                answer.set_result(Refused(self._head, self._content))
            else:
                answer.set_exception(Failure("closed"))


class Upgrade:
    """One handshake.

    Args:
        edge: where it came in.
        door: the client's connection.
        head: its request.
        caller: who sent it.
    """

    __slots__ = ("_caller", "_door", "_edge", "_head", "_limited", "_path", "_started")

    def __init__(self, edge: Edge, door: Door, head: RequestHead, caller: Caller) -> None:
        self._edge = edge
        self._door = door
        self._head = head
        self._caller = caller
        self._path = head.path
        self._started = edge.loop.time()
        self._limited = False

    async def run(self) -> None:
        """Take it to its end: relayed, or answered and closed."""
        if not self._admitted():
            return
        edge = self._edge
        edge.handshaking += 1
        relayed = False
        try:
            relayed = await self._connect()
        finally:
            edge.handshaking -= 1
            if self._limited and not relayed:
                edge.leave_address(self._caller.address)

    # --- admission ----------------------------------------------------------------------------------------------------

    def _admitted(self) -> bool:
        head, edge, address = self._head, self._edge, self._caller.address
        if head.method != "GET" or not head.minor:
            self._refuse(400, "bad_handshake", "a WebSocket handshake is a GET over HTTP/1.1")
        elif head.length:
            self._refuse(400, "bad_handshake", "a WebSocket handshake has no body")
        elif head.headers.get("sec-websocket-version") != "13":
            self._refuse(426, "bad_version", "only WebSocket version 13 is spoken here")
        elif not key_is_valid(head.headers.get("sec-websocket-key", "")):
            self._refuse(400, "bad_handshake", "header Sec-WebSocket-Key must be 16 bytes in base64")
        elif edge.stopping:
            self._refuse(503, "stopping", "this balancer is stopping", 1.0)
        elif wait_s := edge.limiter.take(address, self._started):
            self._refuse(429, "rate_limited", "too many handshakes from your address", wait_s)
        elif edge.connections + edge.handshaking >= edge.max_connections:
            self._refuse(503, "edge_full", "this balancer has no room for more connections", 2.0 + 3.0 * edge.jitter())
        elif (entered := edge.enter_address(address)) is False:
            self._refuse(429, "address_full", "too many open connections from your address", 5.0)
        else:
            self._limited = entered is True
            edge.meter.handshakes += 1
            return True
        return False

    def _refuse(self, status: int, reason: str, text: str, retry_after_s: float | None = None) -> None:
        headers = [("Sec-WebSocket-Version", "13")] if status == 426 else []
        self._door.refuse(status, reason, text, retry_after_s=retry_after_s, headers=headers)
        self._tell_refused(status, reason, "")

    def _tell_refused(self, status: int, reason: str, backend: str) -> None:
        if self._edge.on_event is not None:
            self._tell("refused", backend, reason, status)

    def _tell(self, event: EventName, backend: str, reason: str, status: int) -> None:
        self._edge.tell(event, backend, reason, self._caller.address, self._path, self._started, status)

    # --- backends -----------------------------------------------------------------------------------------------------

    async def _connect(self) -> bool:
        edge, head = self._edge, self._head
        cookie = edge.settings.sticky_cookie
        route = edge.routes.find(head.headers["host"], self._path)
        ask = Ask(
            key=head.headers["sec-websocket-key"],
            pool=route.pool,
            policy=route.policy,
            affinity=route.affinity(head.target, head.headers),
            sticky=cookie_value(head.headers.get("cookie", ""), cookie) if cookie else None,
            address=self._caller.address,
        )
        request = edge.forwarding.upgrade_request(head, route.rewritten(head.target), self._caller)
        last: Refused | None = None
        why = ""
        url = ""
        for attempt in range(1 + edge.settings.retries):
            picked = await edge.place(ask)
            if isinstance(picked, Refusal):
                if not attempt:
                    self._refuse(picked.status, picked.reason, picked.text, picked.retry_after_s)
                    return False
                break
            if attempt:
                edge.meter.retries += 1
            url = picked.url
            try:
                answered = await self._try(picked, request)
            except Failure as failure:
                why = failure.why
                self._failed(picked, why)
            else:
                if answered is None:
                    return True
                if answered.head.status < 500:
                    edge.placer.dropped(picked)
                    edge.meter.refusals.add("backend_refused")
                    self._pass_answer(answered, picked.cookie, "backend_refused", picked.url)
                    return False
                last, why = answered, "busy" if answered.head.status == 503 else "status_5xx"
                self._failed(picked, why)
            ask = msgspec.structs.replace(ask, tried=(*ask.tried, picked.url))
        edge.meter.refusals.add("backend_failed")
        if last is not None:
            self._pass_answer(last, None, why, url)
        elif why.endswith("timeout"):
            self._door.finish(text_answer(edge.forwarding, 504, "no backend answered in time"))
            self._tell_refused(504, why, url)
        else:
            self._door.finish(text_answer(edge.forwarding, 502, "no backend took the connection"))
            self._tell_refused(502, why, url)
        return False

    def _failed(self, pick: Pick, why: str) -> None:
        edge = self._edge
        edge.placer.failed(pick, why)
        edge.meter.failures.add(why)
        if edge.on_event is not None:
            self._tell("failed", pick.url, why, 0)

    def _pass_answer(self, answered: Refused, cookie: str | None, reason: str, url: str) -> None:
        self._door.finish(self._edge.forwarding.whole_answer(answered.head, answered.body, cookie))
        self._tell_refused(answered.head.status, reason, url)

    async def _try(self, pick: Pick, request: bytes) -> Refused | None:
        """Ask one backend; None: the connection is relayed."""
        edge = self._edge
        backend: BackendHandshake | None = None
        relayed = False
        try:
            backend = await dial(edge, pick)
            try:
                async with asyncio.timeout(edge.handshake_timeout_s):
                    answer = await backend.ask(request)
            except TimeoutError:
                raise Failure("handshake_timeout") from None
            if isinstance(answer, Refused):
                if 200 <= answer.head.status < 300:
                    raise Failure("bad_answer")
                return answer
            head, behind = answer
            if not accepts(head, self._head.headers["sec-websocket-key"]):
                raise Failure("bad_answer")
            if backend.lost:
                raise Failure("closed")
            relayed = self._relay(pick, backend.transport, head, behind)
            return None
        except asyncio.CancelledError:
            # The client has left, or the edge stops.
            edge.placer.dropped(pick)
            raise
        finally:
            if backend is not None and not relayed:
                backend.transport.abort()

    def _relay(self, pick: Pick, backend: asyncio.Transport, head: AnswerHead, behind: bytes) -> bool:
        edge = self._edge
        client, early = self._door.leave()
        if client is None:
            edge.placer.dropped(pick)
            return False
        now = edge.loop.time()
        relay = Relay(edge, pick, client, backend, now)
        relay.limited = self._limited
        # Shared by all connections that have the same one.
        relay.address = sys.intern(self._caller.address)
        if edge.on_event is not None:
            relay.path = sys.intern(self._path)
        edge.add_relay(relay)
        edge.placer.opened(pick)
        edge.meter.connect_seconds.observe(now - self._started)
        relay.start(edge.forwarding.upgrade_answer(head, pick.cookie) + behind, early)
        if edge.on_event is not None:
            self._tell("opened", pick.url, pick.reason, 101)
        return True


async def dial(edge: Edge, pick: Pick) -> BackendHandshake:
    """Connect to a backend; raises Failure `dial`, `dial_timeout` or `tls`."""
    place = place_of(pick.url)
    try:
        async with asyncio.timeout(edge.dial_timeout_s):
            if place.tls:
                transport, protocol = await edge.loop.create_connection(
                    lambda: BackendHandshake(edge.settings.header_bytes),
                    place.host,
                    place.port,
                    ssl=edge.backend_tls,
                    server_hostname=pick.server_name or place.host,
                    ssl_handshake_timeout=edge.dial_timeout_s,
                    ssl_shutdown_timeout=1.0,
                )
            else:
                transport, protocol = await edge.loop.create_connection(
                    lambda: BackendHandshake(edge.settings.header_bytes), place.host, place.port
                )
    except TimeoutError:
        raise Failure("dial_timeout") from None
    except ssl.SSLError:
        raise Failure("tls") from None
    except OSError:
        raise Failure("dial") from None
    edge.set_keep_alive(transport)
    return protocol
