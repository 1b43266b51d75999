"""Answers Traefik: where a new connection goes (`/place`), who is let past its limit (`/expected`), and how to route.

Rules:

- How to route at all is fetched from `/traefik/dynamic`.
- The bytes of a connection never come here, and no cookie is changed: the answer to `/place` is one header, by which
  Traefik's second layer of routers chooses the server (see `layers`).
- Whatever goes wrong here must not cost a connection. An answer without a pick, any status but 200 and 503, and no
  answer at all have one meaning: Traefik balances by itself. Only `full` refuses a client, with 503, Retry-After and a
  sentence.
- A balancer that sees no backend that can be used may be cut off itself, or have started a moment ago. Then it gives no
  pick, and Traefik tries by its own checks.
- Nothing that Traefik needs is kept here: it may restart at any time, and so may the balancer.
- A question that names a cookie comes from a Traefik whose routes are not ours (see `by_cookie`): there every request
  gets a pick, plain HTTP too, and one without a pick is refused.
- What Traefik serves to no host is answered here (`UNSERVED`), so that the refusal says what to set.
- A backend that the asking Traefik has not loaded is not picked: the connection would land anywhere, and its
  reservation on nobody. What it has loaded stands in its question (`published.marks`), so a balancer that has just
  started knows it too, also while Traefik waits to fetch again. A question without marks is taken to know all.

Hot path: between question and answer there is no await unless the placer itself answers later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog
from aiohttp import web

from trunkline.balancer.relay.meter import EdgeEvent, OnEvent
from trunkline.balancer.routes import Routes, cookie_value
from trunkline.metrics import exposition
from trunkline.metrics.series import LATENCY_BUCKETS
from trunkline.net.addresses import networks, origin_of, within
from trunkline.net.asked_sessions import AskedSessions
from trunkline.net.hosts import not_served
from trunkline.placement.backend import short_id
from trunkline.placement.placing import Ask, Pick, Placer, Refusal
from trunkline.protocol.sessions import session_in
from trunkline.settings.sections import Settings
from trunkline.settings.types import LOOPBACK
from trunkline.traefik.render.dynamic import UNSERVED_PATH
from trunkline.traefik.steer.attempts import Attempts
from trunkline.traefik.steer.by_cookie import asked_cookie, with_pick
from trunkline.traefik.steer.expected import EXPECTED_HEADER, EXPECTED_PATH
from trunkline.traefik.steer.layers import FULL_STATUS, LOADED, PICK_HEADER, layered
from trunkline.traefik.steer.published import Candidate, Publication, mark, marked

log = structlog.get_logger("trunkline.traefik")

MAX_KEY: Final = 64
"""Longest Sec-WebSocket-Key that reserves; RFC 6455 section 4.1 makes it 24 characters."""

_RETRY_MARGIN_S: Final = 1.0
_UNLOADED_TRIES: Final = 4
_NONE_LOADED: Final = Refusal(503, "no_backend", "Traefik has loaded none of the servers that could be picked.", 1.0)
# Otherwise the web framework names itself and the language's version to every client that is refused.
_SERVER: Final = {"Server": "trunkline"}


class SteeringMeter:
    """The live counts of steering.

    Attributes:
        place: seconds from Traefik's request to the answer.
        answers: requests by answer: `picked`, `open` (no pick), `refused`, `stranger`.
        repeated: handshakes tried again because a backend could not be reached.
    """

    __slots__ = ("answers", "place", "repeated")

    def __init__(self, place: exposition.Histogram | None = None, answers: exposition.Labelled | None = None) -> None:
        self.place = place or exposition.Histogram(LATENCY_BUCKETS)
        self.answers = answers or exposition.Labelled()
        self.repeated = 0


class Steering:
    """The handlers, to be mounted in the balancer's HTTP server; raises SettingsError for what Traefik cannot do.

    Args:
        placer: gives out the backends. It gets `failed(pick, "retry")` when a handshake is tried again: a
            suspicion, because the key may have been used twice, so a reason to check that backend now.
        servers: every backend of the fleet as it is now.
        asked: sessions that nodes asked to move; None: nobody tells.
        meter: counts; None for its own.
        on_event: gets each handshake; None when nobody listens.
    """

    def __init__(
        self,
        settings: Settings,
        placer: Placer,
        servers: Callable[[], Sequence[Candidate]],
        *,
        asked: AskedSessions | None = None,
        meter: SteeringMeter | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        traefik = settings.traefik
        self.meter = meter or SteeringMeter()
        self._placer = placer
        self._asked = AskedSessions() if asked is None else asked
        self._servers = servers
        self._on_event = on_event
        self._routes = Routes(settings.balancer)
        self._sticky = settings.balancer.sticky_cookie
        self._attempts = Attempts(traefik.dial_timeout_ms / 1000 + _RETRY_MARGIN_S, traefik.retry_attempts)
        self._trusted_networks = networks((*LOOPBACK, *traefik.networks))
        self._proxies = networks((*LOOPBACK, *traefik.trusted_proxies))
        self._publication = Publication(lambda chosen: layered(settings, chosen))
        self._untrusted_logged = self._unserved_logged = False
        self._publication.update(servers())

    def routes(self) -> list[web.RouteDef]:
        """The routes for an aiohttp application."""
        return [
            web.get("/place", self._on_place),
            web.get(EXPECTED_PATH, self._on_expected),
            web.get("/traefik/dynamic", self._on_dynamic),
            web.route("*", UNSERVED_PATH, self._on_unserved),
        ]

    async def _on_place(self, request: web.Request) -> web.Response:
        started = time.perf_counter()
        if not self._trusted(request):
            return self._refuse_untrusted(request)
        headers = request.headers
        target = headers.get("X-Forwarded-Uri", "/")
        path = target.partition("?")[0]
        route = self._routes.find(headers.get("X-Forwarded-Host", ""), path)
        address = self._client(headers.get("X-Forwarded-For", ""))
        key = headers.get("Sec-WebSocket-Key", "")
        affinity = route.affinity(target, headers)
        by_cookie = asked_cookie(request.query_string)
        answer: Pick | Refusal | None = None
        reserves = 0 < len(key) <= MAX_KEY
        if reserves or by_cookie or (not key and affinity is not None):
            ask = Ask(
                key=key if reserves else "",
                pool=route.pool,
                policy=route.policy,
                affinity=affinity,
                sticky=cookie_value(headers.get("Cookie", ""), self._sticky) if self._sticky else None,
                address=address,
            )
            answer = await self._place(ask, target, _loaded(request.query_string))
        if by_cookie and answer is not None:
            response = self._answer_by_cookie(answer, by_cookie, headers.get("Cookie", ""))
        else:
            response = self._answer(answer, bool(key))
        took_s = time.perf_counter() - started
        self.meter.place.observe(took_s)
        if key and answer is not None and self._on_event is not None:
            if isinstance(answer, Pick):
                self._on_event(EdgeEvent("steered", answer.url, answer.reason, address, path, took_s, 0))
            else:
                self._on_event(EdgeEvent("refused", "", answer.reason, address, path, took_s, response.status))
        return response

    async def _on_expected(self, request: web.Request) -> web.Response:
        if not self._trusted(request):
            return self._refuse_untrusted(request)
        session = session_in(request.headers.get("X-Forwarded-Uri", ""))
        expected = session is not None and self._asked.let(session, time.monotonic())
        return web.Response(headers={EXPECTED_HEADER: "1", **_SERVER} if expected else _SERVER)

    async def _place(self, ask: Ask, target: str, loaded: frozenset[str] | None) -> Pick | Refusal:
        """Place a handshake, on another backend than those that failed it already."""
        now = time.monotonic()
        handshake = hash((ask.key, ask.address, target))
        earlier = self._attempts.earlier(handshake, now) if ask.key else ()
        if earlier:
            self.meter.repeated += 1
            self._placer.failed(earlier[-1], "retry")
        answer = await self._place_loaded(ask, tuple(pick.url for pick in earlier), loaded)
        if earlier and isinstance(answer, Refusal) and answer.reason == "all_tried":
            # Better a backend that failed once than none; and a key used twice must not lock its client out.
            answer = await self._place_loaded(ask, (), loaded)
        if isinstance(answer, Pick) and ask.key:
            self._attempts.picked(handshake, (*earlier, answer), now)
        return answer

    async def _place_loaded(self, ask: Ask, tried: tuple[str, ...], loaded: frozenset[str] | None) -> Pick | Refusal:
        """Place among the servers with these marks; None: among all."""
        for _ in range(_UNLOADED_TRIES):
            answer = await self._ask(ask, tried)
            if not isinstance(answer, Pick) or loaded is None or mark(answer.url) in loaded:
                return answer
            self._placer.dropped(answer)
            unloaded = (server.url for server in self._servers() if mark(server.url) not in loaded)
            tried = (*tried, answer.url, *unloaded)
        return _NONE_LOADED

    async def _ask(self, ask: Ask, tried: tuple[str, ...]) -> Pick | Refusal:
        answer = self._placer.place(msgspec.structs.replace(ask, tried=tried) if tried else ask)
        return answer if isinstance(answer, Pick | Refusal) else await answer

    def _answer(self, answer: Pick | Refusal | None, handshake: bool) -> web.Response:
        if isinstance(answer, Pick):
            self.meter.answers.add("picked")
            return web.Response(headers={PICK_HEADER: short_id(answer.url), **_SERVER})
        if answer is None or not handshake or answer.reason != "full":
            self.meter.answers.add("open")
            return web.Response(headers=_SERVER)
        return self._refuse(answer)

    def _answer_by_cookie(self, answer: Pick | Refusal, name: str, cookies: str) -> web.Response:
        if isinstance(answer, Refusal):
            return self._refuse(answer)
        self.meter.answers.add("picked")
        return web.Response(headers={"Cookie": with_pick(cookies, name, short_id(answer.url)), **_SERVER})

    def _refuse(self, answer: Refusal) -> web.Response:
        self.meter.answers.add("refused")
        return web.Response(
            status=FULL_STATUS,
            text=answer.text + "\n",
            headers={
                "Retry-After": str(max(1, math.ceil(answer.retry_after_s))),
                "Cache-Control": "no-store",
                **_SERVER,
            },
        )

    def _client(self, forwarded_for: str) -> str:
        """The client's address as Traefik forwarded it; the last hop is Traefik's request to itself on loopback."""
        return origin_of("127.0.0.1", {"x-forwarded-for": forwarded_for}, self._proxies).address

    async def _on_dynamic(self, request: web.Request) -> web.Response:
        if not self._trusted(request):
            return self._refuse_untrusted(request)
        publication = self._publication
        if publication.update(self._servers()):
            log.info("traefik_configuration_changed", servers=len(publication.urls), bytes=len(publication.body))
        return web.Response(body=publication.body, content_type="application/json", headers=_SERVER)

    async def _on_unserved(self, request: web.Request) -> web.Response:
        if not self._trusted(request):
            return self._refuse_untrusted(request)
        host = request.headers.get("X-Forwarded-Host", "")
        refusal = not_served(host, "balancer.hosts", "traefik.trusted_proxies")
        if not self._unserved_logged:
            self._unserved_logged = True
            log.warning("host_refused", next_step=refusal)
        return web.Response(status=400, text=f"{refusal}\n", headers=_SERVER)

    def _trusted(self, request: web.Request) -> bool:
        return within(request.remote or "", self._trusted_networks)

    def _refuse_untrusted(self, request: web.Request) -> web.Response:
        self.meter.answers.add("stranger")
        if not self._untrusted_logged:
            self._untrusted_logged = True
            log.warning(
                "stranger_refused",
                address=request.remote,
                path=request.path,
                next_step="If Traefik runs there, add its address to traefik.networks.",
            )
        return web.Response(status=403, text="Only Traefik may ask this; see traefik.networks.\n", headers=_SERVER)


def _loaded(query: str) -> frozenset[str] | None:
    """The marks of the servers that the asking Traefik has loaded; None when its question has none."""
    name, _, text = query.partition("=")
    return marked(text) if name == LOADED and text else None
