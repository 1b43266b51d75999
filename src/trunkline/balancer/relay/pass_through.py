"""A plain HTTP request on its way: the balancer's own pages, or one backend, bodies streamed in both directions.

Rules:

- No body is ever held whole: what one side does not take stops the reading of the other.
- Bodies are framed again on each side; content is never decoded, redirects are not followed.
- It places without a key, so nothing is reserved; `failed` or `dropped` reports what became of the pick.
- A GET or HEAD whose backend could not be dialled gets one more. Nothing else is ever sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from trunkline.balancer.relay.client_side import STALL_S, ClientSide
from trunkline.balancer.relay.context import RelayContext
from trunkline.balancer.relay.forwarding import Caller, head_bytes
from trunkline.balancer.relay.meter import EdgeEvent
from trunkline.http1.bodies import BodyReader
from trunkline.http1.heads import AnswerHead, Field, PageRequest, RequestHead
from trunkline.placement.placing import Pick, Refusal
from trunkline.process.open_files import exhausted

BODY_HIGH_WATER: Final = 1 << 16
"""Bytes of a request's body waiting for the backend, above which the client is not read."""

TURN_LINES: Final = 1024
"""Lines of chunks that are read at a time: a body of tiny chunks must not hold the other clients up."""

SILENCE_S: Final = 300.0
"""How long a backend may send nothing in the middle of a body; long, because streams of events are quiet at times."""


_FAULTS: Final[tuple[tuple[type[Exception], str, int], ...]] = (
    (aiohttp.ClientSSLError, "tls", 502),
    (aiohttp.ConnectionTimeoutError, "dial_timeout", 504),
    (aiohttp.ServerTimeoutError, "dial_timeout", 504),
    (aiohttp.ClientConnectorError, "dial", 502),
    (UnicodeError, "dial", 502),  # of a host with an empty or a too long label
    (TimeoutError, "handshake_timeout", 504),
    (aiohttp.ClientResponseError, "bad_answer", 502),
    (aiohttp.ClientPayloadError, "bad_answer", 502),
    (Exception, "closed", 502),
)
"""What went wrong at a backend and the client's status, by the first kind of error that fits."""


class RequestBody:
    """The body of a request while it comes in.

    Args:
        expected: the client waits for 100 Continue before it sends the body.

    Attributes:
        broken: the client did not send all of it.
        size: bytes waiting for the backend.
    """

    __slots__ = ("_client", "_expected", "_pieces", "_reader", "_waiter", "broken", "size")

    def __init__(self, reader: BodyReader, client: ClientSide, expected: bool) -> None:
        self._reader = reader
        self._client = client
        self._expected = expected
        self._pieces: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.broken = False
        self.size = 0

    @property
    def complete(self) -> bool:
        """Whether all of it has come in."""
        return self._reader.done

    def feed(self, data: bytes) -> bytes:
        """Take what one read returned; returns what follows the body, or is to be fed again. Raises BadHead."""
        content, rest = self._reader.feed(data, TURN_LINES)
        if content:
            self._expected = False
            self._pieces.append(content)
            self.size += len(content)
        self.wake()
        return rest

    def wake(self) -> None:
        """Let whoever reads look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes in; raises TimeoutError when the client stalls, ConnectionError when it ended early."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self.size -= len(piece)
                if self.size <= BODY_HIGH_WATER:
                    self._client.read_on()
                yield piece
            if self._reader.done:
                return
            if self._client.ended:
                self.broken = True
                raise ConnectionError("the client has ended its request early")
            if self._expected:
                self._expected = False
                self._client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(STALL_S):
                    await self._waiter
            except TimeoutError:
                self.broken = True
                raise
            self._waiter = None


class PassThrough:
    """One plain request."""

    __slots__ = ("_body", "_caller", "_client", "_context", "_head", "_head_sent", "_target")

    def __init__(
        self, context: RelayContext, client: ClientSide, head: RequestHead, caller: Caller, body: RequestBody
    ) -> None:
        self._context = context
        self._client = client
        self._head = head
        self._caller = caller
        self._body = body
        self._target = head.target
        self._head_sent = False

    async def run(self) -> None:
        """Answer it."""
        if await self._answer_page():
            return
        context, head = self._context, self._head
        route = context.routes.find(head.headers.get("host", ""), head.path)
        self._target = route.rewritten(head.target)
        ask = context.pick_request(route, head, self._caller.address, "")
        again = head.method in ("GET", "HEAD") and self._body.complete
        while True:
            picked = await context.place(ask)
            if isinstance(picked, Refusal):
                if ask.tried:
                    self._refuse(502, "backend_failed", "no backend took the request")
                else:
                    self._refuse(picked.status, picked.reason, picked.text, picked.retry_after_s)
                return
            if await self._try(picked, again and not ask.tried):
                return
            context.meter.retries += 1
            ask = msgspec.structs.replace(ask, tried=(picked.url,))

    async def _answer_page(self) -> bool:
        context, head = self._context, self._head
        if context.pages is None or head.method not in ("GET", "HEAD"):
            return False
        path, _, query = head.target.partition("?")
        found = context.pages(
            PageRequest(head.method, path, query, head.headers, self._caller.address, self._caller.untrusted)
        )
        page = await found if inspect.isawaitable(found) else found
        if page is None:
            return False
        keep = self._keeps()
        self._client.write(
            context.forwarding.own_answer(
                page.status,
                page.body,
                content_type=page.content_type,
                headers=page.headers,
                keep_alive=keep,
                head_only=head.method == "HEAD",
            )
        )
        await self._client.next_request(keep)
        return True

    def _keeps(self) -> bool:
        return self._head.keep_alive and self._body.complete and not self._context.pending.stopping

    def _refuse(self, status: int, reason: str, text: str, retry_after_s: float | None = None) -> None:
        self._context.meter.requests.add(f"{status // 100}xx")
        self._client.refuse(status, reason, text, retry_after_s=retry_after_s, head_only=self._head.method == "HEAD")

    async def _try(self, pick: Pick, again: bool) -> bool:
        """Send it to one backend; False: that could not be dialled, and another may be tried."""
        context = self._context
        try:
            async with contextlib.AsyncExitStack() as stack:
                answer = await self._request(pick, stack)
                if answer.status == 101:
                    raise aiohttp.ClientPayloadError("101 to a request that wanted no upgrade")
                context.placer.dropped(pick)
                await self._pass_answer(answer, pick.cookie)
                return True
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            if exhausted(error) and not self._head_sent:
                # This process can open no more files: no backend is to blame.
                context.placer.dropped(pick)
                self._refuse(503, "edge_full", "this balancer has no room for more connections", 1.0)
                return True
            why, status = next((why, status) for kind, why, status in _FAULTS if isinstance(error, kind))
        except BaseException:
            if not self._head_sent:
                context.placer.dropped(pick)
            raise
        return self._failed(pick, why, status, again)

    def _failed(self, pick: Pick, why: str, status: int, again: bool) -> bool:
        context = self._context
        if self._head_sent:
            # Half an answer cannot be taken back: cutting it off is all that is left.
            self._client.abort()
            return True
        if self._body.broken:
            context.placer.dropped(pick)
            self._refuse(408, "body_incomplete", "the request's body did not come in full")
            return True
        if self._client.answered:
            context.placer.dropped(pick)
            return True
        context.placer.failed(pick, why)
        if context.on_event is not None:
            context.on_event(EdgeEvent("failed", pick.url, why, self._caller.address, self._head.path, 0.0, 0))
        if again and why in ("dial", "dial_timeout", "tls"):
            return False
        self._refuse(status, "backend_failed", "the backend did not answer" if status == 504 else "no backend answered")
        return True

    async def _request(self, pick: Pick, stack: contextlib.AsyncExitStack) -> aiohttp.ClientResponse:
        context, head = self._context, self._head
        headers: CIMultiDict[str] = CIMultiDict(
            (name, _text(value))
            for name, lower, value in context.forwarding.request_fields(head, self._caller)
            if lower != "expect"
        )
        async with asyncio.timeout(None) as limit:

            async def body() -> AsyncIterator[bytes]:
                async for piece in self._body.pieces():
                    yield piece
                if not self._head_sent:
                    limit.reschedule(context.loop.time() + context.handshake_timeout_s)

            has_body = bool(head.length)
            if not has_body:
                limit.reschedule(
                    context.loop.time() + context.settings.dial_timeout_ms / 1000 + context.handshake_timeout_s
                )
            return await stack.enter_async_context(
                context.session.request(
                    head.method,
                    URL(pick.url + self._target, encoded=True),
                    headers=headers,
                    data=body() if has_body else None,
                    allow_redirects=False,
                    server_hostname=pick.server_name or None,
                )
            )

    async def _pass_answer(self, answer: aiohttp.ClientResponse, cookie: str | None) -> None:
        client, head = self._client, self._head
        fields: list[Field] = [
            (name.decode("latin-1"), name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in answer.raw_headers
        ]
        headers = {lower: value for _, lower, value in fields}
        found = AnswerHead(answer.status, answer.reason or "", fields, headers, 0)
        passed = self._context.forwarding.answer_fields(found, cookie)
        empty = head.method == "HEAD" or answer.status in (204, 304)
        measured = "content-length" in headers and "transfer-encoding" not in headers
        chunked = not empty and not measured and head.minor == 1
        if not measured:
            passed = [field for field in passed if field[1] != "content-length"]
        keep = self._keeps() and (empty or measured or chunked)
        if chunked:
            passed.append(("Transfer-Encoding", "transfer-encoding", "chunked"))
        passed.append(("Connection", "connection", "keep-alive" if keep else "close"))
        self._head_sent = client.began = True
        self._context.meter.requests.add(f"{answer.status // 100}xx")
        client.write(head_bytes(f"HTTP/1.1 {answer.status} {found.phrase}", passed))
        if not empty:
            # One timer, moved on with each piece.
            async with asyncio.timeout(SILENCE_S) as limit:
                async for piece in answer.content.iter_any():
                    client.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                    await client.drained()
                    limit.reschedule(self._context.loop.time() + SILENCE_S)
            if chunked:
                client.write(b"0\r\n\r\n")
        await client.next_request(keep)


def _text(value: str) -> str:
    """A header's value as aiohttp, which sends UTF-8, has to be given it."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value
