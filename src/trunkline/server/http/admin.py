"""The admin port: publish, look at channels and connections, disconnect, drain. On loopback by default.

Rules: every request needs a bearer token with the scope of its route (`net/admin/routes.py`); the body of a request
without a token is read and thrown away. Nothing here is reachable through the data port, so an edge cannot expose it by
mistake. Answers never contain message bodies. What an operator ordered is carried out even if the answer finds no
client any more.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Final, NamedTuple, TypeVar
from urllib.parse import unquote

import msgspec

from trunkline.errors import BusCannotStore, BusUnavailable, MessageTooLarge, StartError
from trunkline.http1.requests import Request, RequestReader, Response, json_response, text_response
from trunkline.logs.logger import get_logger
from trunkline.net.addresses import Network
from trunkline.net.admin.audit import record
from trunkline.net.admin.holders import UNKNOWN, Holder, Refusal, refusal
from trunkline.net.admin.routes import NODE_ROUTES, Route, route
from trunkline.net.admin.tokens import NOT_KEPT_HINT, AdminTokens, read_tokens
from trunkline.net.hosts import Hosts
from trunkline.process.open_files import Shares
from trunkline.protocol import close_codes
from trunkline.protocol.control import (
    ChannelInfo,
    ConnectionInfo,
    Disconnected,
    DrainOrder,
    MoveOrder,
    Problem,
    PublishOrder,
    PublishReceipt,
)
from trunkline.server.app.decoding import MAX_DEPTH, too_deep
from trunkline.server.channels.hub import Hub
from trunkline.server.channels.rules import RuleSet, check_channel_name
from trunkline.server.connections.clock import Clock
from trunkline.server.connections.registry import Registry
from trunkline.server.connections.states import OPEN
from trunkline.server.http.http_connection import HttpConnection
from trunkline.server.http.pending import Pending
from trunkline.server.http.ports import Drains, Moves
from trunkline.settings.sections import Settings

log = get_logger("trunkline.admin")
T = TypeVar("T")
Handler = Callable[[Request], Coroutine[object, object, Response]]


class _Order(NamedTuple):
    route: Route
    handler: Handler


_DISCONNECT: Final = "/api/connections/{id}/disconnect"
_DISCONNECT_PATH: Final = re.compile("/api/connections/[^/]+/disconnect")

LISTED: Final = 1000
_MAY_BE_STORED: Final = "; this publication may be stored all the same"
"""Connections that one answer lists at most."""

HEAD_BYTES: Final = 16_384
BODY_BYTES: Final = 2 << 20
TIMEOUT_S: Final = 75.0
"""For a request to be complete, or the next one to begin: tools keep connections open between two orders."""

STOP_S: Final = 2.0
"""How long a stop waits for orders under way."""


class Admin:
    """The admin server of a node."""

    lingers = True
    trusted_proxies: tuple[Network, ...] = ()

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        hub: Hub,
        rules: RuleSet,
        registry: Registry,
        draining: Drains,
        mover: Moves,
        hosts: Hosts,
        shares: Shares,
        on_full: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._hub = hub
        self._rules = rules
        self._registry = registry
        self._draining = draining
        self._mover = mover
        self._hosts = hosts
        self.pending = Pending("admin", lambda: shares.admin, TIMEOUT_S, clock, on_full)
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._tokens: AdminTokens | None = None
        handlers: dict[str, dict[str, Handler]] = {
            "/api/publish": {"POST": self._publish},
            "/api/channels": {"GET": self._channels},
            "/api/connections": {"GET": self._connections},
            _DISCONNECT: {"POST": self._disconnect},
            "/api/drain": {"GET": self._drain_state, "POST": self._drain, "DELETE": self._end_drain},
            "/api/move": {"POST": self._move},
            "/api/keys": {"GET": self._keys},
        }
        self._orders = {
            path: {method: _Order(route(NODE_ROUTES, method, path), handler) for method, handler in by_method.items()}
            for path, by_method in handlers.items()
        }

    async def start(self, data_port: int) -> None:
        """Listen on the settings' port, by default the one above `data_port`; port 0 switches it off.

        Raises StartError: the port is taken, or the token can be neither read nor kept.
        """
        settings = self._settings.admin
        if settings.port == 0:
            return
        port = settings.port if settings.port is not None else data_port + 1
        loop = asyncio.get_running_loop()
        try:
            if port > 65_535:  # the data port is the last; the resolver would take 65536 for any port
                raise OSError("ports end at 65535")
            self._server = await loop.create_server(
                lambda: HttpConnection(self), settings.host, port, reuse_address=True
            )
        except OSError as error:
            raise StartError(
                f"cannot listen on the admin port {settings.host}:{port}: {error.strerror or error}",
                "Choose another with admin.port (TRUNKLINE_ADMIN_PORT), or 0 to switch it off.",
            ) from None
        self._hosts.listens_on(sock.getsockname()[0] for sock in self._server.sockets)
        self.port = port
        self._tokens = AdminTokens(port, read_tokens(settings))
        self._tokens.keep()
        if self._tokens.unkept:
            log.warning("admin_token_not_kept", why=self._tokens.unkept, next_step=NOT_KEPT_HINT)

    async def stop(self) -> None:
        """Close the port once orders under way are answered, and forget the token that was made for it."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        # What is left waits for the bus, which ends next, or came over a kept connection meanwhile.
        for task in self._tasks:
            task.cancel()
        self.pending.close()
        if self._tokens is not None:
            self._tokens.forget()
            self._tokens = None

    @property
    def token(self) -> str:
        """A bearer token that may do everything, empty while the port is closed."""
        return self._tokens.reveal() if self._tokens is not None else ""

    def reload(self, settings: Settings, rules: RuleSet) -> None:
        """Serve by these settings from now on."""
        self._settings = settings
        self._rules = rules

    def replace_tokens(self, tokens: Sequence[Holder]) -> None:
        """Take the tokens of new settings in the place of the old, from the next request on.

        Args:
            tokens: what `net.admin.tokens.read_tokens` has read of the new settings.
        """
        if self._tokens is not None:
            self._tokens.replace(tokens)

    def holder(self, authorization: str | None) -> Holder | None:
        """Who sent an Authorization header, None for nobody known."""
        if self._tokens is None or authorization is None:
            return None
        # Heads are read as latin-1, so that every byte survives; a token is UTF-8.
        return self._tokens.of(authorization.encode("latin-1").decode("utf-8", "surrogateescape"))

    def refusal(self, authorization: str | None, route: Route) -> Refusal | None:
        """Why a request with this Authorization header may not use a route, None when it may."""
        return refusal(self.holder(authorization), route)

    def new_reader(self) -> RequestReader:
        """A reader with the bounds of this port."""
        return RequestReader(
            HEAD_BYTES, BODY_BYTES, lambda head: self.holder(head.headers.get("authorization")) is not None
        )

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run `work` as a task that a stop waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def failed(self, reason: str) -> None:
        """Series count the connections of clients, not these."""

    def serve(self, connection: HttpConnection, request: Request, upgrade: bool) -> Response | Awaitable[Response]:
        """Carry out one order."""
        misdirected = self._hosts.refusal(request.headers.get("host"), False)
        if misdirected:
            return json_response(Problem("bad_request", misdirected), 400)
        holder = self.holder(request.headers.get("authorization"))
        path = request.target.partition("?")[0]
        if holder is None:
            return json_response(UNKNOWN, 401)
        orders = self._orders.get(_DISCONNECT if _DISCONNECT_PATH.fullmatch(path) else path)
        if orders is None:
            return text_response(404, "404: Not Found")
        order = orders.get("GET" if request.method == "HEAD" else request.method)
        if order is None:
            allowed = ",".join(sorted({*orders, "HEAD"} if "GET" in orders else orders))
            return text_response(405, "405: Method Not Allowed", [("Allow", allowed)])
        refused = refusal(holder, order.route)
        if refused is not None:
            record(log, holder, order.route, path, request.address, refused.status)
            return json_response(refused.problem, refused.status)
        return self._carry_out(order, holder, request, path)

    async def _carry_out(self, order: _Order, holder: Holder, request: Request, path: str) -> Response:
        try:
            response = await order.handler(request)
        except _BadOrder as error:
            response = json_response(Problem("bad_request", str(error)), 400)
        except Exception:
            log.exception("order_failed", path=request.path)
            response = json_response(Problem("internal", "the node could not carry out this order"), 500)
        record(log, holder, order.route, path, request.address, response.status)
        return response

    async def _publish(self, request: Request) -> Response:
        order = _read(request, PublishOrder)
        problem = check_channel_name(order.channel, self._rules.max_name_bytes)
        if problem is not None:
            raise _BadOrder(problem)
        try:
            position = await self._hub.publish(order.channel, bytes(order.data))
        except BusCannotStore as error:
            text = f"the bus does not store publications: {error}{_MAY_BE_STORED if error.sent else ''}"
            return json_response(Problem("unavailable", text, 10.0), 503)
        except MessageTooLarge as error:
            return json_response(Problem("too_large", str(error)), 413)
        except BusUnavailable as error:
            text = f"{error}{_MAY_BE_STORED}" if error.sent else "the bus is not reachable now; try again"
            return json_response(Problem("unavailable", text, 1.0), 503)
        epoch, offset = (position.epoch, position.offset) if position is not None else (None, None)
        return json_response(PublishReceipt(order.channel, epoch, offset))

    async def _channels(self, request: Request) -> Response:
        return json_response(
            [
                ChannelInfo(
                    name=channel.name,
                    subscribers=len(channel.subscribers),
                    epoch=channel.epoch,
                    offset=channel.last if channel.epoch is not None else None,
                )
                for channel in self._hub.channels.values()
            ]
        )

    async def _connections(self, request: Request) -> Response:
        now = self._clock.now
        found = []
        for connection in itertools.islice(self._registry.connections, LISTED):
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
        return json_response(found)

    async def _disconnect(self, request: Request) -> Response:
        wanted = unquote(request.target.partition("?")[0].split("/")[3])
        ended = 0
        for connection in list(self._registry.connections):
            if connection.identity.id == wanted and connection.state == OPEN:
                connection.end(close_codes.NORMAL.code, "disconnected by an operator")
                ended += 1
        if not ended:
            return json_response(Problem("not_found", f"no connection {wanted[:100]!r} on this node"), 404)
        return json_response(Disconnected(ended))

    async def _drain(self, request: Request) -> Response:
        order = _read(request, DrainOrder) if request.body else DrainOrder()
        over_ms = order.over_ms if order.over_ms is not None else self._settings.server.drain_ms
        return json_response(self._draining.begin(over_ms))

    async def _end_drain(self, request: Request) -> Response:
        return json_response(self._draining.end())

    async def _drain_state(self, request: Request) -> Response:
        return json_response(self._draining.now())

    async def _move(self, request: Request) -> Response:
        order = _read(request, MoveOrder)
        try:
            return json_response(await self._mover.move(order))
        except ValueError as error:
            raise _BadOrder(str(error)) from None

    async def _keys(self, request: Request) -> Response:
        try:
            return json_response(await self._mover.count_keys(request.query.get("by", "")))
        except ValueError as error:
            raise _BadOrder(str(error)) from None


class _BadOrder(Exception):
    """An order that makes no sense; the text says why."""


def _read(request: Request, kind: type[T]) -> T:
    if too_deep(request.body):
        raise _BadOrder(f"the body nests deeper than {MAX_DEPTH}")
    try:
        # msgspec does not check the data of a publication, which goes out in text frames as it came.
        request.body.decode()
        return msgspec.json.decode(request.body, type=kind)
    except UnicodeDecodeError:
        raise _BadOrder("the body is not UTF-8") from None
    except msgspec.MsgspecError as error:
        raise _BadOrder(str(error)) from None
