"""A scripted peer, and the client in a page, for the tests of the browser client.

The peer speaks WebSocket with an implementation that is not ours and does only what a test tells it to, so a test reads
as a conversation: what the client must send, what the peer answers. It serves the static files on the same port, under
the security policy that the node uses.
"""

from __future__ import annotations

import asyncio
import json
import mimetypes
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest

from tests.support import ROOT

pytest.importorskip("playwright.async_api", reason="playwright is not installed")
pytest.importorskip("websockets.asyncio.server", reason="websockets is not installed")

from playwright.async_api import Page
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from tests.support.patience import patient

STATIC = ROOT / "src" / "trunkline" / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TIMEOUT_S = patient(8.0)


class Wire:
    """The peer's end of one connection; the test decides what is sent and reads what arrived."""

    def __init__(self, connection: ServerConnection) -> None:
        """Wrap an accepted connection; reading starts at once so that pings and closes are seen."""
        self._connection = connection
        self.received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.path = connection.request.path if connection.request else ""
        self.subprotocol = connection.subprotocol
        offer = connection.request.headers.get("Sec-WebSocket-Protocol", "") if connection.request else ""
        self.offered = [name.strip() for name in offer.split(",") if name.strip()]
        self.on_message: Callable[[dict[str, Any]], list[dict[str, Any]] | None] | None = None
        self.connection_id = "k1"
        self.greeting: list[dict[str, Any]] | None = None

    async def run(self) -> None:
        """Read until the connection ends."""
        try:
            if self.greeting is not None:
                await self.establish(connection_id=self.connection_id)
                await self.send(*self.greeting)
            async for text in self._connection:
                message = json.loads(text)
                answers = self.on_message(message) if self.on_message else None
                if answers is None:
                    self.received.put_nowait(message)
                else:
                    await self.send(*answers)
        except ConnectionClosed:
            pass

    async def send(self, *messages: dict[str, Any]) -> None:
        """Send messages in order, each with `ts` added."""
        for message in messages:
            await self._connection.send(json.dumps({"ts": 1_700_000_000_000, **message}))

    async def send_text(self, text: str) -> None:
        """Send text as it is."""
        await self._connection.send(text)

    async def establish(self, session: str = "s1", interval_ms: int = 30_000, **fields: Any) -> None:
        """Send `connection_established`."""
        limits = {"message_bytes": 65_536, "rate_burst": 100, "rate_per_s": 10}
        established = {"connection_id": "k1", "node": "node-a", "session": session, "resumed": False}
        await self.send(
            {
                "type": "connection_established",
                **established,
                "heartbeat_interval_ms": interval_ms,
                "limits": limits,
                **fields,
            }
        )

    async def expect(self, message_type: str) -> dict[str, Any]:
        """Return the next message, which must be of this type."""
        message = await asyncio.wait_for(self.received.get(), TIMEOUT_S)
        assert message["type"] == message_type, message
        return message

    async def acknowledge(self, positions: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Expect a subscribe, answer it with these positions, and return it."""
        asked = await self.expect("subscribe")
        await self.send(subscription_ack(positions, asked["id"]))
        return asked

    async def close(self, code: int, reason: str = "") -> None:
        """Close with a handshake."""
        await self._connection.close(code, reason)

    def cut(self) -> None:
        """End the TCP connection with no close frame: the browser sees 1006."""
        self._connection.transport.abort()

    async def closed_code(self) -> int | None:
        """Wait until the browser has closed and return its close code."""
        await asyncio.wait_for(self._connection.wait_closed(), TIMEOUT_S)
        return self._connection.close_code


class Peer:
    """A server on one loopback port: static files over HTTP, and connections handed to the test one by one."""

    def __init__(self) -> None:
        """Make a peer that is not listening yet."""
        self.port = 0
        self.accepted: asyncio.Queue[Wire] = asyncio.Queue()
        self.refuse: HTTPStatus | None = None
        self.refused = 0
        self.on_connect: Callable[[Wire], None] | None = None
        self._server: Server | None = None

    @property
    def origin(self) -> str:
        """The http origin, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            0,
            process_request=self._http,
            select_subprotocol=self._choose,
            compression=None,
            ping_interval=None,
            close_timeout=1,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """Close every connection and the port."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def accept(self) -> Wire:
        """Return the next connection that a browser opens."""
        return await asyncio.wait_for(self.accepted.get(), TIMEOUT_S)

    async def _handle(self, connection: ServerConnection) -> None:
        wire = Wire(connection)
        if self.on_connect is not None:
            self.on_connect(wire)
        self.accepted.put_nowait(wire)
        await wire.run()

    @staticmethod
    def _choose(_connection: ServerConnection, offered: Any) -> Subprotocol | None:
        return Subprotocol("trunkline") if "trunkline" in offered else None

    def _http(self, _connection: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            if self.refuse is None:
                return None
            self.refused += 1
            return respond(self.refuse, b"refused", "text/plain")
        name = request.path.split("?")[0].lstrip("/") or "index.html"
        if name == "blank":
            return respond(HTTPStatus.OK, b"<!doctype html><title>blank</title>", "text/html")
        file = STATIC / name
        if "/" in name or not file.is_file():
            return respond(HTTPStatus.NOT_FOUND, b"not found", "text/plain")
        return respond(HTTPStatus.OK, file.read_bytes(), mimetypes.guess_type(name)[0] or "text/plain")


def respond(status: HTTPStatus, body: bytes, content_type: str) -> Response:
    """Build a plain HTTP answer with the node's content policy."""
    headers = Headers(
        {
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Connection": "close",
        }
    )
    return Response(status.value, status.phrase, headers, body)


def subscription_ack(positions: dict[str, dict[str, Any]], message_id: str | None = None) -> dict[str, Any]:
    """A `subscription_ack`; without an id it is one that nobody asked for."""
    full = {
        name: {"epoch": "e1", "offset": 0, "recovered": False, "replayed": 0, **fields}
        for name, fields in positions.items()
    }
    return {
        "type": "subscription_ack",
        "id": message_id,
        "subscribed": list(full),
        "count": len(full),
        "positions": full,
    }


def publication(
    offset: int | None, *, channel: str = "news", prev: int | None = -1, epoch: str | None = "e1", data: Any = None
) -> dict[str, Any]:
    """A `publication`; `prev` is the offset before unless given, and `data` names the offset unless given."""
    if prev == -1:
        prev = None if offset is None else offset - 1
    return {
        "type": "publication",
        "channel": channel,
        "epoch": epoch,
        "offset": offset,
        "prev": prev,
        "data": f"p{offset}" if data is None else data,
    }


class Client:
    """The client in a page: `window.c` is the connection, `window.seen` what its callbacks were given."""

    def __init__(self, page: Page, peer: Peer) -> None:
        """Wrap a blank page of the peer's origin."""
        self.page = page
        self.peer = peer

    async def connect(self, url: str = "/ws", options: str = "{}") -> None:
        """Connect; `options` is a JavaScript expression that adds to quick back-off settings."""
        await self.page.evaluate(
            """async ([url, options]) => {
              window.T = await import("/trunkline.js");
              window.seen = [];
              window.handlers = (tag = "") => ({
                onPublication: (data) => seen.push(`${tag}pub ${JSON.stringify(data).replaceAll('"', "")}`),
                onGap: (g) => seen.push(`${tag}gap ${g.reason} ${g.after} ${g.before}`),
                onSubscribed: (p) => seen.push(`${tag}sub ${p.offset}`),
                onError: (e) => seen.push(`${tag}error ${e.code}`),
              });
              window.states = [];
              window.c = T.connect(url, { backoff: { min: 10, max: 40 }, ...eval(`(${options})`) });
              c.on("state", (s) => states.push(s));
            }""",
            [url, options],
        )

    async def run(self, expression: str) -> Any:
        """Evaluate a JavaScript expression in the page; a promise is awaited."""
        return await asyncio.wait_for(self.page.evaluate(expression), TIMEOUT_S)

    async def do(self, statements: str) -> None:
        """Run JavaScript statements in the page and wait for none of their promises."""
        await asyncio.wait_for(self.page.evaluate(f"() => {{ {statements} }}"), TIMEOUT_S)

    async def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        await self.page.wait_for_function(condition, timeout=TIMEOUT_S * 1000, polling=20)

    async def seen(self, count: int) -> list[str]:
        """Wait until the callbacks have been called `count` times and return what they saw."""
        try:
            await self.until(f"seen.length >= {count}")
        finally:
            seen: list[str] = await self.run("seen")
        return seen

    async def opened(self, url: str = "/ws", options: str = "{}", **fields: Any) -> Wire:
        """Connect and establish; return the peer's end."""
        await self.connect(url, options)
        wire = await self.peer.accept()
        await wire.establish(**fields)
        await self.until("c.state === 'open'")
        return wire

    async def subscribed(self, offset: int = 5) -> Wire:
        """Connect and subscribe to `news`, whose head is at `offset`."""
        wire = await self.opened()
        await self.do("window.sub = c.subscribe('news', handlers())")
        await wire.acknowledge({"news": {"offset": offset}})
        await self.until("seen.length === 1")
        return wire
