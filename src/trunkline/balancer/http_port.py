"""A port of the balancer that aiohttp serves: the admin port, and the one that a steered Traefik asks.

Rules: its TCP connections are bounded in number, and the one that has been silent longest makes room for a new one, so
that idle clients cannot lock others out, here or by the process's open files. It is served under the names of its
`Hosts` alone, and its answers are kept by no cache and guessed at by no browser.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, cast

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from trunkline.http1.heads import is_host
from trunkline.metrics.exposition import Labelled
from trunkline.net.crowding import Crowding
from trunkline.net.hosts import Hosts
from trunkline.net.listening import BACKLOG

ANSWER_S: Final = 2.0
"""Time that requests under way have to be answered at a stop; aiohttp would give them a minute."""

log = structlog.get_logger("trunkline.balancer")

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a fault is of this program; a request that is no HTTP is its client's, who gets a 400."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError)


_aiohttp_log = logging.getLogger("trunkline.balancer.http")
_aiohttp_log.addFilter(_is_ours)


class HttpPort:
    """One such port.

    Args:
        name: what the port is called in the log and in `dropped`.
        most: TCP connections at most.
        dropped: counts those that made room for others.
        hosts: the names under which it is served.
        head_bytes: longest request line, and longest header.
    """

    def __init__(self, name: str, most: int, dropped: Labelled, hosts: Hosts, head_bytes: int = 8190) -> None:
        self._name = name
        self._most = most
        self._dropped = dropped
        self._hosts = hosts
        self._head_bytes = head_bytes
        self._crowding = Crowding()
        self._handlers: dict[str, dict[str, _Handler]] = {}
        self._runner: web.ServerRunner | None = None
        self._servers: list[asyncio.Server] = []
        # The one that has been silent longest comes first.
        self._open: dict[_Bounded, None] = {}

    async def start(self, routes: Iterable[web.RouteDef], sockets: Sequence[socket.socket]) -> None:
        """Serve `routes` on sockets that listen, which are closed at the end."""
        for route in routes:
            # What a Traefik passes on for nobody is answered to a GET alone.
            method = "GET" if route.method == "*" else route.method
            self._handlers.setdefault(route.path, {})[method] = cast(_Handler, route.handler)
        server = web.Server(
            self._answer,
            access_log=None,
            max_line_size=self._head_bytes,
            max_field_size=self._head_bytes,
            logger=_aiohttp_log,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=ANSWER_S)
        await self._runner.setup()
        self._hosts.listens_on(sock.getsockname()[0] for sock in sockets)
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._servers.append(await loop.create_server(self._accept, sock=sock, backlog=BACKLOG))

    async def move(self, sock: socket.socket) -> None:
        """Free the port at once and answer on a Unix socket that listens; requests under way are answered."""
        self._close_listeners()
        if self._runner is None or self._runner.server is None:
            return
        # Kept connections would lead whoever comes again to this process.
        self._runner.server.pre_shutdown()
        self._servers.append(await asyncio.get_running_loop().create_unix_server(self._accept, sock=sock))

    def _close_listeners(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def stop(self) -> None:
        """Close it once the requests under way are answered."""
        self._close_listeners()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request.

        Not by an application of aiohttp: that fails on an Expect header that is not UTF-8, before any handler.
        """
        response = self._misdirected(request) or await self._route(request)
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        handlers = self._handlers.get(request.path)
        if handlers is None:
            return web.Response(status=404, text="404: Not Found")
        handler = handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ",".join(["GET", "HEAD", *(method for method in handlers if method != "GET")])
            return web.Response(status=405, text="405: Method Not Allowed", headers={"Allow": allowed})
        return await handler(request)

    def _misdirected(self, request: web.BaseRequest) -> web.Response | None:
        """The refusal of a request under a name that is not this port's."""
        given = request.headers.getall("Host", [])
        # aiohttp takes what RFC 9112 section 3.2 refuses.
        if len(given) > 1 or (not given and request.version >= HttpVersion11) or not all(map(is_host, given)):
            return web.Response(status=400, text="header Host is missing or malformed\n")
        refusal = self._hosts.refusal(request.host if given else None, False)
        return web.Response(status=400, text=f"{refusal}\n") if refusal else None

    def _accept(self) -> asyncio.Protocol:
        assert self._runner is not None  # noqa: S101 - start() has made it
        assert self._runner.server is not None  # noqa: S101 - start() has set it up
        return _Bounded(self, self._runner.server())

    def opened(self, connection: _Bounded) -> None:
        """One has come; the oldest goes when there are too many."""
        if len(self._open) >= self._most:
            if self._crowding.is_news(asyncio.get_running_loop().time()):
                log.warning("pending_connections_full", port=self._name, most=self._most)
            self._dropped.add(self._name)
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.abort()
        self._open[connection] = None

    def spoke(self, connection: _Bounded) -> None:
        """A client has sent something."""
        if self._open.pop(connection, connection) is None:
            self._open[connection] = None

    def closed(self, connection: _Bounded) -> None:
        """One has ended."""
        self._open.pop(connection, None)


class _Bounded(asyncio.Protocol):
    """One TCP connection: what happens on it is passed on to aiohttp."""

    __slots__ = ("_inner", "_port", "_transport")

    def __init__(self, port: HttpPort, inner: asyncio.Protocol) -> None:
        self._port = port
        self._inner = inner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._inner.connection_made(transport)
        self._port.opened(self)

    def data_received(self, data: bytes) -> None:
        self._port.spoke(self)
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.closed(self)
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def abort(self) -> None:
        self._transport.abort()
