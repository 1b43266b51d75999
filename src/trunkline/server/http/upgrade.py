"""The data port: plain HTTP is answered by the pages, a handshake that is let in becomes a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from time import perf_counter

from trunkline.errors import Refused
from trunkline.http1.requests import Request, RequestReader, Response, text_response
from trunkline.logs.logger import get_logger
from trunkline.net.addresses import networks
from trunkline.net.hosts import Hosts
from trunkline.process.open_files import Shares
from trunkline.protocol.sessions import session_in
from trunkline.server.app.serving import serve
from trunkline.server.connections.arrivals import Arrivals
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.identity import ClientIdentity
from trunkline.server.connections.names import Names
from trunkline.server.connections.registry import Registry
from trunkline.server.connections.runtime import Runtime
from trunkline.server.connections.tasks import FAULTS, ends_this_task
from trunkline.server.http.admission import Admission, Admitted, retry_after_header
from trunkline.server.http.http_connection import HttpConnection
from trunkline.server.http.pages import Pages
from trunkline.server.http.pending import Pending
from trunkline.server.http.turned_away import TurnedAway
from trunkline.settings.sections import ServerSettings
from trunkline.websocket.frames import FrameReader

log = get_logger("trunkline.http")


class DataPort:
    """Serves the HTTP connections of the data port. `on_opened` is called with each WebSocket that was opened."""

    lingers = False

    def __init__(
        self,
        settings: ServerSettings,
        runtime: Runtime,
        registry: Registry,
        arrivals: Arrivals,
        admission: Admission,
        pages: Pages,
        on_opened: Callable[[Connection], None],
        hosts: Hosts,
        shares: Shares,
    ) -> None:
        self.pending = Pending(
            "data",
            lambda: shares.pending(len(registry.connections)),
            settings.handshake_timeout_ms / 1000,
            runtime.clock,
            lambda: runtime.meter.pending_dropped.add("data"),
        )
        self._runtime = runtime
        self._registry = registry
        self._arrivals = arrivals
        self._admission = admission
        self._pages = pages
        self._on_opened = on_opened
        self._hosts = hosts
        self._names = Names()
        self.reload(settings)

    def reload(self, settings: ServerSettings) -> None:
        """Serve by these settings from now on."""
        self.trusted_proxies = networks(settings.trusted_proxies)
        self.pending.timeout_s = settings.handshake_timeout_ms / 1000
        self._header_bytes = settings.header_bytes

    def new_reader(self) -> RequestReader:
        """A reader with the bounds of this port; no request here has a body."""
        return RequestReader(self._header_bytes)

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run `work` as a task that the node waits for when it stops."""
        return self._registry.spawn(work)

    def failed(self, reason: str) -> None:
        """Count a connection that ends without a request that could be served."""
        self._runtime.meter.connections_failed.add(reason)

    def serve(
        self, connection: HttpConnection, request: Request, upgrade: bool
    ) -> Response | Awaitable[Response | None] | None:
        """Answer plain HTTP, or decide on a handshake."""
        refusal = self._hosts.refusal(request.headers.get("host"), request.proxied)
        if refusal and self._hosts.is_first():
            log.warning("host_refused", address=request.address, next_step=refusal)
        if not (upgrade and request.wants_websocket):
            return text_response(400, refusal) if refusal else self._pages.answer(request)
        started = perf_counter()
        try:
            if refusal:
                raise Refused(400, refusal, label="unknown_host")
            decided = self._admission.decide(request)
        except FAULTS as error:
            return self._refuse(connection, request, error)
        if isinstance(decided, Admitted):
            self._upgrade(connection, request, decided, started)
            return None
        return self._decide(connection, request, decided, started)

    async def _decide(
        self, connection: HttpConnection, request: Request, decided: Awaitable[Admitted], started: float
    ) -> Response | None:
        try:
            async with asyncio.timeout(self.pending.timeout_s):
                admitted = await decided
        except TimeoutError:
            slow = Refused(503, "the decision took too long", retry_after_s=5.0, label="admit_timeout")
            return self._refuse(connection, request, slow)
        except FAULTS as error:
            if ends_this_task(error):
                raise
            return self._refuse(connection, request, error)
        if not connection.transport.is_closing():
            self._upgrade(connection, request, admitted, started)
        return None

    def _refuse(self, connection: HttpConnection, request: Request, error: BaseException) -> Response | None:
        """The answer that refuses a handshake; None when the client has left."""
        if connection.transport.is_closing():
            return None
        if not isinstance(error, Refused):
            self._runtime.meter.faults += 1
            log.error("admission_failed", path=request.path, exc_info=error)
            error = Refused(500, "the server could not decide on this handshake", label="internal")
        self._note(request, error)
        self._admission.gave_up(request)
        headers = retry_after_header(error.retry_after_s)
        if error.status == 426:
            headers.append(("Sec-WebSocket-Version", "13"))
        if error.status == 401:
            headers.append(("WWW-Authenticate", "Bearer"))
        return text_response(error.status, error.reason, headers)

    def _note(self, request: Request, refused: Refused) -> None:
        self.failed(refused.label)
        log.info(
            "handshake_refused", path=request.path, address=request.address, status=refused.status, reason=refused.label
        )

    def _upgrade(self, http: HttpConnection, request: Request, admitted: Admitted, started: float) -> None:
        runtime = self._runtime
        route, refused = admitted.route, admitted.refused
        if refused is not None:
            self._note(request, refused)
        reader = FrameReader(route.limits.message_bytes, admitted.deflate is not None)
        session = session_in(request.target) if refused is None else None
        drawn = self._names.draw()
        connection = Connection(
            runtime,
            self._registry,
            http.transport,
            reader,
            identity=ClientIdentity(
                id=admitted.params.get("connection_id") or drawn[:12],
                session=session or drawn[12:],
                resumed=session is not None,
                # Without a query it is the same for all: they share one text.
                target=route.path if request.target == route.path else _without_token(request.target),
                params=admitted.params,
                claims=admitted.claims,
                address=request.address,
            ),
            serve=partial(serve, route)
            if refused is None
            else partial(TurnedAway, refused, self._admission.turned_away),
            deflate_bits=admitted.deflate.server_bits if admitted.deflate is not None else 0,
            outbox_bytes=route.limits.outbox_bytes,
            token=admitted.token,
        )
        early = http.upgraded()
        http.transport.set_protocol(connection)
        self._registry.opened(connection)
        self._arrivals.add(request.headers["sec-websocket-key"])
        connection.open(admitted.response)
        self._on_opened(connection)
        runtime.meter.handshake.observe(perf_counter() - started)
        if early:
            connection.data_received(early)


def _without_token(target: str) -> str:
    """The target as it is kept: a token in it has done its work, and must reach neither logs nor memory dumps."""
    path, mark, query = target.partition("?")
    if "token=" not in query:
        return target
    return path + mark + "&".join(part for part in query.split("&") if not part.startswith("token="))
