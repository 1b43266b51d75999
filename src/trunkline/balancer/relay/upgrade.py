"""A handshake on its way: admission, a pick, the dial, the backend's answer, another backend when that was none.

Rules:

- Until the client has its 101 another backend may be tried; from then on never.
- Every pick ends in exactly one of `opened`, `failed` and `dropped`. The client's leaving is no backend's fault.
- 3xx and 4xx are the backend's answer to the client. Anything else but a valid 101 is a backend that failed.
- A failure after the dial may be the request's own (a path on which the application breaks). So its blame waits until
  other backends were tried: when several failed the request and none took it, no backend is to blame.
- A client that a node asked to move is let past the limits of its address (`net/asked_sessions.py`).
- Everything awaited has a time-out, everything read has a bound.
"""

from __future__ import annotations

import random
import sys
from typing import Final

import msgspec

from trunkline.balancer.relay.client_side import ClientSide
from trunkline.balancer.relay.context import RelayContext
from trunkline.balancer.relay.dial import SocketHandshake, TransportHandshake
from trunkline.balancer.relay.forwarding import Caller, accepts, text_answer
from trunkline.balancer.relay.handshake_answer import Accepted, Failure, Refused
from trunkline.balancer.relay.meter import EdgeEvent, EventName
from trunkline.http1.heads import RequestHead
from trunkline.placement.placing import Pick, Refusal
from trunkline.protocol.sessions import session_in
from trunkline.websocket.handshake import key_is_valid

OF_THE_DIAL: Final = ("dial", "dial_timeout", "tls")
"""Failures that no request can cause: the backend never got it."""


class Upgrade:
    """One handshake."""

    __slots__ = ("_caller", "_client", "_context", "_doubtful", "_expected", "_head", "_limited", "_path", "_started")

    def __init__(self, context: RelayContext, client: ClientSide, head: RequestHead, caller: Caller) -> None:
        self._context = context
        self._client = client
        self._head = head
        self._caller = caller
        self._path = head.path
        self._started = context.loop.time()
        self._limited = False
        # The session for which it is let past the limits of its address.
        self._expected: str | None = None
        self._doubtful: list[tuple[Pick, str]] = []

    async def run(self) -> None:
        """Take it to its end: relayed, or answered and closed."""
        if not self._admitted():
            self._give_up()
            return
        relays = self._context.relays
        relays.handshaking += 1
        try:
            await self._connect()
        finally:
            relays.handshaking -= 1
            self._give_up()
            self._blame(taken=False)
            if self._limited:
                relays.leave_address(self._caller.address)

    def _admitted(self) -> bool:
        head, context, address = self._head, self._context, self._caller.address
        if head.method != "GET" or not head.minor:
            self._refuse(400, "bad_handshake", "a WebSocket handshake is a GET over HTTP/1.1")
        elif head.length:
            self._refuse(400, "bad_handshake", "a WebSocket handshake has no body")
        elif head.headers.get("sec-websocket-version") != "13":
            self._refuse(426, "bad_version", "only WebSocket version 13 is spoken here")
        elif not key_is_valid(head.headers.get("sec-websocket-key", "")):
            self._refuse(400, "bad_handshake", "header Sec-WebSocket-Key must be 16 bytes in base64")
        elif not self._is_expected() and (wait_s := context.limiter.take(address, self._started)):
            text = f"too many handshakes from your address{self._caller.unknown_client}"
            self._refuse(429, "rate_limited", text, wait_s)
        elif context.relays.full:
            self._refuse_full()
        elif (entered := context.relays.enter_address(address, expected=self._expected is not None)) is False:
            text = f"too many open connections from your address{self._caller.unknown_client}"
            self._refuse(429, "address_full", text, 5.0)
        else:
            self._limited = entered is True
            return True
        return False

    def _is_expected(self) -> bool:
        session = session_in(self._head.target)
        if session is not None and self._context.asked.let(session, self._started):
            self._expected = session
        return self._expected is not None

    def _give_up(self) -> None:
        """Whoever was let past a limit and is not relayed may try again."""
        if self._expected is not None:
            self._context.asked.gave_up(self._expected)

    def _refuse_full(self) -> None:
        wait_s = random.uniform(2.0, 5.0)  # noqa: S311 - jitter
        self._refuse(503, "edge_full", "this balancer has no room for more connections", wait_s)

    def _refuse(self, status: int, reason: str, text: str, retry_after_s: float | None = None) -> None:
        headers = [("Sec-WebSocket-Version", "13")] if status == 426 else []
        self._client.refuse(status, reason, text, retry_after_s=retry_after_s, headers=headers)
        self._report("refused", "", reason, status)

    def _report(self, event: EventName, backend: str, reason: str, status: int) -> None:
        context = self._context
        if context.on_event is not None:
            took_s = context.loop.time() - self._started
            context.on_event(EdgeEvent(event, backend, reason, self._caller.address, self._path, took_s, status))

    async def _connect(self) -> None:
        context, head = self._context, self._head
        route = context.routes.find(head.headers["host"], self._path)
        ask = context.pick_request(route, head, self._caller.address, head.headers["sec-websocket-key"])
        request = context.forwarding.upgrade_request(head, route.rewritten(head.target), self._caller)
        last: Refused | None = None
        why = ""
        url = ""
        for attempt in range(1 + context.settings.retries):
            picked = await context.place(ask)
            if isinstance(picked, Refusal):
                if not attempt:
                    self._refuse(picked.status, picked.reason, picked.text, picked.retry_after_s)
                    return
                break
            if attempt:
                context.meter.retries += 1
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
                    self._blame(taken=True)
                    context.placer.dropped(picked)
                    context.meter.refusals.add("backend_refused")
                    self._pass_answer(answered, picked.cookie, "backend_refused", picked.url)
                    return
                last, why = answered, "busy" if answered.head.status == 503 else "status_5xx"
                self._failed(picked, why)
            ask = msgspec.structs.replace(ask, tried=(*ask.tried, picked.url))
        context.meter.refusals.add("backend_failed")
        if last is not None:
            self._pass_answer(last, None, why, url)
        elif why.endswith("timeout"):
            self._client.finish(text_answer(context.forwarding, 504, "no backend answered in time"))
            self._report("refused", url, why, 504)
        else:
            self._client.finish(text_answer(context.forwarding, 502, "no backend took the connection"))
            self._report("refused", url, why, 502)

    def _failed(self, pick: Pick, why: str) -> None:
        if why == "busy" or why in OF_THE_DIAL:
            self._context.placer.failed(pick, why)
        else:
            self._doubtful.append((pick, why))
        self._report("failed", pick.url, why, 0)

    def _blame(self, *, taken: bool) -> None:
        """Report the failures that the request itself may have caused, unless a backend has taken it."""
        alike = len(self._doubtful) > 1 and not taken
        for pick, why in self._doubtful:
            self._context.placer.failed(pick, "alike" if alike else why)
        self._doubtful.clear()

    def _pass_answer(self, answered: Refused, cookie: str | None, reason: str, url: str) -> None:
        self._client.finish(self._context.forwarding.whole_answer(answered.head, answered.body, cookie))
        self._report("refused", url, reason, answered.head.status)

    async def _try(self, pick: Pick, request: bytes) -> Refused | None:
        """Ask one backend; None: the connection is relayed, or its client has left."""
        context = self._context
        backend: SocketHandshake | TransportHandshake | None = None
        try:
            backend = await context.dialer.dial(pick, self._client.transport)
            answer = await backend.ask(request)
            if isinstance(answer, Refused):
                if 200 <= answer.head.status < 300:
                    raise Failure("bad_answer")
                return answer
            if not accepts(answer.head, self._head.headers["sec-websocket-key"]):
                raise Failure("bad_answer")
            self._relay(pick, backend, answer)
            return None
        except Failure:
            raise
        except OSError:
            # This process can open no more files: no backend is to blame.
            context.placer.dropped(pick)
            self._refuse_full()
            return None
        except BaseException:
            # The client has left, the edge is stopping, or a fault of our own: no backend is to blame.
            context.placer.dropped(pick)
            raise
        finally:
            if backend is not None:
                backend.abort()

    def _relay(self, pick: Pick, backend: SocketHandshake | TransportHandshake, answer: Accepted) -> None:
        context = self._context
        if self._client.is_over:
            context.placer.dropped(pick)
            return
        now = context.loop.time()
        try:
            relay = backend.relay(context.relays, pick, self._client.transport, now)
        except OSError:
            context.placer.dropped(pick)
            self._refuse_full()
            return
        early = self._client.leave()
        if self._expected is not None:
            context.asked.back(self._expected, now)
        # The relay's end makes room for its address from now on.
        relay.limited, self._limited = self._limited, False
        # Shared by all connections that have the same one.
        relay.address = sys.intern(self._caller.address)
        if context.on_event is not None:
            relay.path = sys.intern(self._path)
        context.relays.add(relay)
        self._blame(taken=True)
        context.placer.opened(pick)
        context.meter.connect_seconds.observe(now - self._started)
        self._report("opened", pick.url, pick.reason, 101)
        try:
            relay.start(context.forwarding.upgrade_answer(answer.head, pick.cookie) + answer.behind, early)
        except OSError:
            # The kernel watches no more sockets.
            relay.abort()
