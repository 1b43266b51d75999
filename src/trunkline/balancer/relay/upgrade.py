"""A handshake on its way: admission, a pick, the dial, the backend's answer, another backend when that was none.

Rules:

- Until the client has its 101 another backend may be tried; from then on never.
- Every pick ends in exactly one of `opened`, `failed` and `dropped`. The client's leaving is no backend's fault.
- 3xx and 4xx are the backend's word to the client. Anything else but a valid 101 is a backend that failed.
- Everything awaited has a time-out, everything read has a bound.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import msgspec

from trunkline.balancer.relay.dial import Dialled, dial
from trunkline.balancer.relay.edge_meter import EventName
from trunkline.balancer.relay.forwarding import Caller, accepts, key_is_valid, text_answer
from trunkline.balancer.relay.handshake_answer import Accepted, Failure, Refused
from trunkline.balancer.relay.routes import cookie_value
from trunkline.http1.heads import RequestHead
from trunkline.placement.placing import Ask, Pick, Refusal

if TYPE_CHECKING:
    from trunkline.balancer.relay.edge import Edge
    from trunkline.balancer.relay.edge_connection import Door


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
        try:
            await self._connect()
        finally:
            edge.handshaking -= 1
            if self._limited:
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

    async def _connect(self) -> None:
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
                    return
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
                    return
                if answered.head.status < 500:
                    edge.placer.dropped(picked)
                    edge.meter.refusals.add("backend_refused")
                    self._pass_answer(answered, picked.cookie, "backend_refused", picked.url)
                    return
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

    def _failed(self, pick: Pick, why: str) -> None:
        edge = self._edge
        edge.placer.failed(pick, why)
        if edge.on_event is not None:
            self._tell("failed", pick.url, why, 0)

    def _pass_answer(self, answered: Refused, cookie: str | None, reason: str, url: str) -> None:
        self._door.finish(self._edge.forwarding.whole_answer(answered.head, answered.body, cookie))
        self._tell_refused(answered.head.status, reason, url)

    async def _try(self, pick: Pick, request: bytes) -> Refused | None:
        """Ask one backend; None: the connection is relayed, or its client has left."""
        edge = self._edge
        backend: Dialled | None = None
        try:
            backend = await dial(edge, pick, self._door.transport)
            answer = await backend.ask(request, edge.handshake_timeout_s)
            if isinstance(answer, Refused):
                if 200 <= answer.head.status < 300:
                    raise Failure("bad_answer")
                return answer
            if not accepts(answer.head, self._head.headers["sec-websocket-key"]):
                raise Failure("bad_answer")
            self._relay(pick, backend, answer)
            return None
        except asyncio.CancelledError:
            # The client has left, or the edge stops.
            edge.placer.dropped(pick)
            raise
        finally:
            if backend is not None:
                backend.abort()

    def _relay(self, pick: Pick, backend: Dialled, answer: Accepted) -> None:
        edge = self._edge
        if self._door.is_over:
            edge.placer.dropped(pick)
            return
        now = edge.loop.time()
        try:
            relay = backend.relay(edge, pick, self._door.transport, now)
        except OSError:
            edge.placer.dropped(pick)
            self._refuse(503, "edge_full", "this balancer has no room for more connections", 2.0 + 3.0 * edge.jitter())
            return
        early = self._door.leave()
        # The relay's end makes room for its address from now on.
        relay.limited, self._limited = self._limited, False
        # Shared by all connections that have the same one.
        relay.address = sys.intern(self._caller.address)
        if edge.on_event is not None:
            relay.path = sys.intern(self._path)
        edge.add_relay(relay)
        edge.placer.opened(pick)
        edge.meter.connect_seconds.observe(now - self._started)
        if edge.on_event is not None:
            self._tell("opened", pick.url, pick.reason, 101)
        relay.start(edge.forwarding.upgrade_answer(answer.head, pick.cookie) + answer.behind, early)
