"""Which handshakes are let in: every check between the last byte of a request and its 101.

Cheap checks come first, so that a flood costs little, and the application decides on nothing that can be refused
without it: shape (400, 426), path (404), capacity (503), rate of the address (429; not of a client that was asked to
move), origin (403), token (401), the endpoint's `admit`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from trunkline.errors import Refused
from trunkline.http1.requests import Request
from trunkline.metrics.exposition import Meter
from trunkline.net.addresses import Origin, unknown_client
from trunkline.net.asked_sessions import AskedSessions
from trunkline.net.limits import AddressLimiter
from trunkline.protocol.sessions import session_in
from trunkline.server.app.route import Route
from trunkline.server.connections.clock import Clock
from trunkline.server.connections.identity import Claims, Identity
from trunkline.server.connections.token_life import TokenLife
from trunkline.server.http.identity import find_token
from trunkline.settings.sections import Settings
from trunkline.websocket import handshake
from trunkline.websocket.deflate import Negotiated, negotiate

if TYPE_CHECKING:
    from trunkline.server.http.tokens import Verifier
    from trunkline.server.http.turned_away import TurnedAway

PROTOCOL_NAME = "trunkline"
_NO_CLAIMS: Claims = {}


class Admitted(NamedTuple):
    """A handshake that will be answered with 101; where it was `refused`, only to say so."""

    route: Route
    params: Mapping[str, str]
    response: bytes
    deflate: Negotiated | None
    claims: Claims
    token: TokenLife | None
    refused: Refused | None = None


class AdmissionRequest(msgspec.Struct):
    """What has been found out about a handshake so far."""

    request: Request
    key: str
    route: Route
    params: Mapping[str, str]
    claims: Claims = _NO_CLAIMS
    token: TokenLife | None = None


class Admission:
    """Decides on the handshakes of a node; without a verifier tokens are not looked at.

    `shed` raises Refused while the node takes no more connections. At most `most_turned_away` get a 101 to be refused
    (`turned_away` are those); the others get their 401.
    """

    def __init__(
        self,
        settings: Settings,
        routes: Sequence[Route],
        verifier: Verifier | None,
        limiter: AddressLimiter,
        asked: AskedSessions,
        shed: Callable[[], None],
        meter: Meter,
        clock: Clock,
        most_turned_away: Callable[[], int],
    ) -> None:
        self._limiter = limiter
        self._asked = asked
        self._shed = shed
        self._meter = meter
        self._clock = clock
        self._most_turned_away = most_turned_away
        self.turned_away: set[TurnedAway] = set()
        self.reload(settings, routes, verifier)

    def reload(self, settings: Settings, routes: Sequence[Route], verifier: Verifier | None) -> None:
        """Decide by these settings and keys from now on; who is connected keeps its route, and so its limits."""
        limits = settings.limits
        self.routes = routes
        self._settings = settings
        self._verifier = verifier
        self._limiter.change(limits.handshake_burst, limits.handshake_per_s, limits.exempt)
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
        session = session_in(request.target)
        expected = session is not None and self._asked.let(session, self._clock.now)
        if not expected and (wait_s := self._limiter.take(request.address, self._clock.now)):
            text = f"too many handshakes from this address{why_unknown(request)}"
            raise Refused(429, text, retry_after_s=wait_s, label="address_rate")
        server = self._settings.server
        headers = request.headers
        if not handshake.origin_allowed(headers.get("origin"), headers.get("host", ""), server.origins):
            raise Refused(
                403, "pages of this origin may not connect; server.origins names those that may", label="origin"
            )
        request.params = found[1]
        asked = AdmissionRequest(request, key, *found)
        try:
            decided = self._identify(asked)
        except Refused as refused:
            return self._turned_away(asked, refused)
        return decided if isinstance(decided, Admitted) else self._settle(asked, decided)

    def gave_up(self, request: Request) -> None:
        """A handshake was refused: where its client was asked to move, it may try again."""
        session = session_in(request.target)
        if session is not None:
            self._asked.gave_up(session)

    async def _settle(self, asked: AdmissionRequest, decided: Awaitable[Admitted]) -> Admitted:
        try:
            return await decided
        except Refused as refused:
            return self._turned_away(asked, refused)

    def _identify(self, asked: AdmissionRequest) -> Admitted | Awaitable[Admitted]:
        """Look at the token, if there is one, then ask the endpoint."""
        request, headers = asked.request, asked.request.headers
        token = None
        if self._verifier is not None:
            token = find_token(
                headers.get("authorization"),
                request.query.get("token") if "token=" in request.target else None,
                _offered(headers),
            )
        if self._verifier is None or token is None:
            if self._settings.auth.required:
                raise Refused(401, "a token is required", label="unauthorized")
            return self._ask_endpoint(asked)
        identity = self._verifier.verify_now(token)
        if identity is not None:
            return self._ask_endpoint(asked, identity)
        return self._verify(asked, self._verifier, token)

    async def _verify(self, asked: AdmissionRequest, verifier: Verifier, token: str) -> Admitted:
        decided = self._ask_endpoint(asked, await verifier.verify(token))
        return await decided if isinstance(decided, Awaitable) else decided

    def _ask_endpoint(
        self, asked: AdmissionRequest, identity: Identity | None = None
    ) -> Admitted | Awaitable[Admitted]:
        if identity is not None:
            asked.claims = identity.claims
            if identity.lasts_s is not None:
                # Now: the endpoint may take its time.
                asked.token = TokenLife(self._clock.now, identity.lasts_s)
        answer = asked.route.admit(asked.request)
        if answer is not None and inspect.isawaitable(answer):
            return self._await_endpoint(asked, answer)
        return self._admitted(asked)

    async def _await_endpoint(self, asked: AdmissionRequest, answer: Awaitable[None]) -> Admitted:
        await answer
        return self._admitted(asked)

    def _turned_away(self, asked: AdmissionRequest, refused: Refused) -> Admitted:
        """A 401 for a client of our protocol is a close code: no page sees the status of a handshake.

        Raises `refused` for everyone else.
        """
        full = len(self.turned_away) >= self._most_turned_away()
        if full or refused.status != 401 or PROTOCOL_NAME not in _offered(asked.request.headers):
            raise refused
        return self._admitted(asked, refused)

    def _admitted(self, asked: AdmissionRequest, refused: Refused | None = None) -> Admitted:
        headers = asked.request.headers
        # Who is turned away gets nothing inflated.
        wanted = self._settings.server.deflate and refused is None
        deflate = negotiate(headers.get("sec-websocket-extensions")) if wanted else None
        supported = self._subprotocols if refused is None else (PROTOCOL_NAME,)
        response = handshake.response(
            asked.key,
            subprotocol=handshake.choose_subprotocol(headers.get("sec-websocket-protocol"), supported),
            extensions=deflate.response if deflate is not None else None,
            request_id=request_id(headers),
        )
        return Admitted(asked.route, asked.params, response, deflate, asked.claims, asked.token, refused)


def _offered(headers: Mapping[str, str]) -> list[str]:
    """The subprotocols that a client offers."""
    return [name for part in headers.get("sec-websocket-protocol", "").split(",") if (name := part.strip())]


def request_id(headers: Mapping[str, str]) -> str | None:
    """The client's X-Request-ID when it is harmless to send back and to log."""
    given = headers.get("x-request-id")
    return given if given and len(given) <= 128 and given.isascii() and given.isprintable() else None


def why_unknown(request: Request) -> str:
    """What to add to a refusal by address when that is a proxy's; empty for a client's."""
    origin = Origin(request.address, request.secure, request.untrusted, request.proxied)
    return unknown_client(request.peer, origin, "server.trusted_proxies")


def retry_after_header(seconds: float | None) -> list[tuple[str, str]]:
    """The Retry-After header, in whole seconds, at least 1."""
    return [] if seconds is None else [("Retry-After", str(max(1, math.ceil(seconds))))]
