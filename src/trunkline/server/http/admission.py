"""Which handshakes are let in: every check between the last byte of a request and its 101.

Cheap checks come first, so that a flood costs little, and the application decides on nothing that can be refused
without it: shape (400, 426), path (404), capacity (503), rate of the address (429), origin (403), token (401), the
endpoint's `admit`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from trunkline.errors import Refused
from trunkline.http1.requests import Request
from trunkline.metrics.exposition import Meter
from trunkline.net.limits import AddressLimiter
from trunkline.server.app.route import Route
from trunkline.server.connections.clock import Clock
from trunkline.server.http.identity import Identity, find_token
from trunkline.settings.sections import Settings
from trunkline.websocket import handshake
from trunkline.websocket.deflate import Negotiated, negotiate

if TYPE_CHECKING:
    from trunkline.server.http.tokens import Verifier

PROTOCOL_NAME = "trunkline"


class Admitted(NamedTuple):
    """A handshake that will be answered with 101."""

    route: Route
    params: Mapping[str, str]
    response: bytes
    deflate: Negotiated | None
    claims: Mapping[str, Any]
    expires_at: float | None


class AdmissionRequest(msgspec.Struct):
    """What has been found out about a handshake so far."""

    request: Request
    key: str
    route: Route
    params: Mapping[str, str]


class Admission:
    """Decides on the handshakes of a node; without a verifier tokens are not looked at.

    `shed` raises Refused while the node takes no more connections.
    """

    def __init__(
        self,
        settings: Settings,
        routes: Sequence[Route],
        verifier: Verifier | None,
        limiter: AddressLimiter,
        shed: Callable[[], None],
        meter: Meter,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self.routes = routes
        self._verifier = verifier
        self._limiter = limiter
        self._shed = shed
        self._meter = meter
        self._clock = clock
        self._subprotocols = (*settings.server.subprotocols, PROTOCOL_NAME)

    def route(self, path: str) -> tuple[Route, Mapping[str, str]] | None:
        """The endpoint of a path, if there is one."""
        for route in self.routes:
            params = route.matches(path)
            if params is not None:
                return route, params
        return None

    def decide(self, request: Request) -> Admitted | Awaitable[Admitted]:
        """Decide on a handshake at once where that is possible; raises Refused (or the awaitable does)."""
        key = handshake.check(request)
        found = self.route(request.path)
        if found is None:
            raise Refused(404, f"no WebSocket endpoint at {request.path[:200]}", label="not_found")
        name = found[1].get("connection_id")
        if name is not None and not (len(name) <= 128 and name.isascii() and name.isprintable()):
            raise Refused(400, "the connection id in the path must be 1 to 128 printable ASCII characters")
        self._shed()
        wait_s = self._limiter.take(request.address, self._clock.now)
        if wait_s:
            raise Refused(429, "too many handshakes from this address", retry_after_s=wait_s, label="address_rate")
        server = self._settings.server
        headers = request.headers
        if not handshake.origin_allowed(headers.get("origin"), headers.get("host", ""), server.origins):
            raise Refused(403, "this origin may not connect", label="origin")
        asked = AdmissionRequest(request, key, *found)
        token = None
        if self._verifier is not None:
            token = find_token(
                headers.get("authorization"),
                request.query.get("token") if "token=" in request.target else None,
                [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",") if name.strip()],
            )
        if self._verifier is None or token is None:
            if self._settings.auth.required:
                raise Refused(401, "a token is required", label="unauthorized")
            return self._ask_endpoint(asked, None)
        identity = self._verifier.verify_now(token)
        if identity is not None:
            return self._ask_endpoint(asked, identity)
        return self._verify(asked, self._verifier, token)

    async def _verify(self, asked: AdmissionRequest, verifier: Verifier, token: str) -> Admitted:
        identity = await verifier.verify(token)
        decided = self._ask_endpoint(asked, identity)
        return await decided if isinstance(decided, Awaitable) else decided

    def _ask_endpoint(self, asked: AdmissionRequest, identity: Identity | None) -> Admitted | Awaitable[Admitted]:
        answer = asked.route.admit(asked.request)
        if inspect.isawaitable(answer):
            return self._await_endpoint(asked, identity, answer)
        return self._admitted(asked, identity)

    async def _await_endpoint(
        self, asked: AdmissionRequest, identity: Identity | None, answer: Awaitable[None]
    ) -> Admitted:
        await answer
        return self._admitted(asked, identity)

    def _admitted(self, asked: AdmissionRequest, identity: Identity | None) -> Admitted:
        headers = asked.request.headers
        deflate = negotiate(headers.get("sec-websocket-extensions")) if self._settings.server.deflate else None
        response = handshake.response(
            asked.key,
            subprotocol=handshake.choose_subprotocol(headers.get("sec-websocket-protocol"), self._subprotocols),
            extensions=deflate.response if deflate is not None else None,
            request_id=request_id(headers),
        )
        claims, expires_at = (_NO_CLAIMS, None) if identity is None else (identity.claims, identity.expires_at)
        return Admitted(asked.route, asked.params, response, deflate, claims, expires_at)


_NO_CLAIMS: Mapping[str, Any] = {}


def request_id(headers: Mapping[str, str]) -> str | None:
    """The client's X-Request-ID when it is harmless to send back and to log."""
    given = headers.get("x-request-id")
    return given if given and len(given) <= 128 and given.isascii() and given.isprintable() else None


def retry_after_header(seconds: float | None) -> list[tuple[str, str]]:
    """The Retry-After header, in whole seconds, at least 1."""
    return [] if seconds is None else [("Retry-After", str(max(1, math.ceil(seconds))))]
