"""The admin port: publish, look at channels and connections, disconnect, drain. HTTP by aiohttp, on loopback.

Rules: every request needs the bearer token, compared in constant time. Nothing here is reachable through the data
port, so an edge cannot expose it by mistake. Answers never contain message bodies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from trunkline.bus import BusUnavailable
from trunkline.errors import StartError
from trunkline.net.admin_token import AdminToken
from trunkline.protocol import close_codes
from trunkline.protocol.control import (
    ChannelInfo,
    ConnectionInfo,
    Disconnected,
    DrainOrder,
    DrainState,
    MoveOrder,
    Problem,
    PublishOrder,
    PublishReceipt,
)
from trunkline.server.channels.rules import check_channel_name
from trunkline.server.connections.states import OPEN

if TYPE_CHECKING:
    from trunkline.server.node.node import Node

log = structlog.get_logger("trunkline.admin")
T = TypeVar("T")

LISTED = 1000
"""Connections that one answer lists at most."""


class Admin:
    """The admin server of a node.

    Args:
        node: the node it speaks for.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._runner: web.AppRunner | None = None
        self._token: AdminToken | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen, unless the settings switch the port off; raises StartError."""
        settings = self._node.settings.admin
        if settings.port == 0:
            return
        port = settings.port if settings.port is not None else self._node.port + 1
        app = web.Application(middlewares=[self._guard], client_max_size=2 << 20)
        app.add_routes(
            [
                web.post("/api/publish", self._publish),
                web.get("/api/channels", self._channels),
                web.get("/api/connections", self._connections),
                web.post("/api/connections/{id}/disconnect", self._disconnect),
                web.post("/api/drain", self._drain),
                web.delete("/api/drain", self._end_drain),
                web.post("/api/move", self._move),
                web.get("/api/keys", self._keys),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, settings.host, port).start()
        except OSError as error:
            await self.stop()
            raise StartError(
                f"cannot listen on the admin port {settings.host}:{port}: {error.strerror or error}",
                "Choose another with admin.port (TRUNKLINE_ADMIN_PORT), or 0 to switch it off.",
            ) from None
        self.port = port
        self._token = AdminToken(port, settings.token, settings.token_file)

    async def stop(self) -> None:
        """Close the port and forget the token that was made for it."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._token is not None:
            self._token.forget()
            self._token = None

    @property
    def token(self) -> str:
        """The bearer token, empty while the port is closed."""
        return self._token.reveal() if self._token is not None else ""

    def allows(self, authorization: str | None) -> bool:
        """Whether an Authorization header carries the admin token."""
        return self._token is not None and self._token.allows(authorization)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self.allows(request.headers.get("Authorization")):
            return _json(Problem("unauthorized", "the admin token is missing or wrong"), status=401)
        return await handler(request)

    async def _publish(self, request: web.Request) -> web.Response:
        order = await _read(request, PublishOrder)
        problem = check_channel_name(order.channel, self._node.rules.max_name_bytes)
        if problem is not None:
            raise _bad(problem)
        try:
            position = await self._node.hub.publish(order.channel, bytes(order.data))
        except BusUnavailable:
            return _json(Problem("unavailable", "the bus is not reachable now; try again", 1.0), status=503)
        epoch, offset = (position.epoch, position.offset) if position is not None else (None, None)
        return _json(PublishReceipt(order.channel, epoch, offset))

    async def _channels(self, request: web.Request) -> web.Response:
        return _json(
            [
                ChannelInfo(
                    name=channel.name,
                    subscribers=len(channel.subscribers),
                    epoch=channel.epoch,
                    offset=channel.last if channel.epoch is not None else None,
                )
                for channel in self._node.hub.channels.values()
            ]
        )

    async def _connections(self, request: web.Request) -> web.Response:
        now = self._node.runtime.clock.now
        found = []
        for connection in list(self._node.registry.connections)[:LISTED]:
            client = connection.identity
            found.append(
                ConnectionInfo(
                    id=client.id,
                    session=client.session,
                    path=client.path,
                    address=client.address,
                    subject=client.subject,
                    age_s=round(now - connection.opened_at, 3),
                    idle_s=round(max(now - connection.last_seen, 0.0), 3),
                    channels=[channel.name for channel in connection.channels],
                    bytes_in=connection.bytes_in,
                    bytes_out=connection.bytes_out,
                    waiting_bytes=connection.waiting_bytes,
                )
            )
        return _json(found)

    async def _disconnect(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        ended = 0
        for connection in list(self._node.registry.connections):
            if connection.identity.id == wanted and connection.state == OPEN:
                connection.end(close_codes.NORMAL.code, "disconnected by an operator")
                ended += 1
        if not ended:
            return _json(Problem("not_found", f"no connection {wanted[:100]!r} on this node"), status=404)
        return _json(Disconnected(ended))

    async def _drain(self, request: web.Request) -> web.Response:
        order = await _read(request, DrainOrder) if request.can_read_body else DrainOrder()
        over_ms = order.over_ms if order.over_ms is not None else self._node.settings.server.drain_ms
        asked = self._node.begin_drain(over_ms)
        return _json(DrainState("draining", asked, over_ms))

    async def _end_drain(self, request: web.Request) -> web.Response:
        self._node.end_drain()
        return _json(DrainState("up", len(self._node.registry.connections)))

    async def _move(self, request: web.Request) -> web.Response:
        order = await _read(request, MoveOrder)
        try:
            moved = await self._node.mover.move(order)
        except ValueError as error:
            raise _bad(str(error)) from None
        return _json(moved)

    async def _keys(self, request: web.Request) -> web.Response:
        try:
            return _json(await self._node.mover.count_keys(request.query.get("by", "")))
        except ValueError as error:
            raise _bad(str(error)) from None


async def _read(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as error:
        raise _bad(str(error)) from None


def _bad(text: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(
        text=msgspec.json.encode(Problem("bad_request", text)).decode(), content_type="application/json"
    )


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
