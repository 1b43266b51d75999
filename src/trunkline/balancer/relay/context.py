"""What every request of an edge needs, handed to whatever works on one."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp

from trunkline.balancer.relay.dial import Dialer
from trunkline.balancer.relay.forwarding import Forwarding
from trunkline.balancer.relay.meter import EdgeMeter, OnEvent
from trunkline.balancer.relay.pending import PendingConnections
from trunkline.balancer.relay.relays import Relays
from trunkline.balancer.routes import Route, Routes, cookie_value
from trunkline.http1.heads import PageRequest, RequestHead
from trunkline.http1.requests import Response
from trunkline.net.addresses import Network
from trunkline.net.asked_sessions import AskedSessions
from trunkline.net.hosts import Hosts
from trunkline.net.limits import AddressLimiter
from trunkline.placement.placing import Ask, Pick, Placer, Refusal
from trunkline.settings.balancer import BalancerSettings

Pages = Callable[[PageRequest], Response | Awaitable[Response | None] | None]


@dataclass(frozen=True, slots=True, eq=False)
class RelayContext:
    """What the requests of one edge share.

    Attributes:
        asked: sessions that nodes asked to move: their handshakes meet no limit of their address.
        placer: chooses backends and gets what became of each pick; requests place through `place`.
        pages: tried first for every plain GET and HEAD; None leaves the request to a backend.
        handshake_timeout_s: seconds for a pick, and for a backend's answer.
    """

    loop: asyncio.AbstractEventLoop
    settings: BalancerSettings
    placer: Placer
    routes: Routes
    forwarding: Forwarding
    trusted_proxies: Sequence[Network]
    hosts: Hosts
    limiter: AddressLimiter
    asked: AskedSessions
    meter: EdgeMeter
    on_event: OnEvent | None
    pages: Pages | None
    pending: PendingConnections
    relays: Relays
    dialer: Dialer
    session: aiohttp.ClientSession
    handshake_timeout_s: float
    _abandoned: set[asyncio.Future[Pick | Refusal]] = field(init=False, default_factory=set)

    def pick_request(self, route: Route, head: RequestHead, address: str, key: str) -> Ask:
        """What a pick is requested with; an empty `key` reserves nothing."""
        cookie = self.settings.sticky_cookie
        return Ask(
            key=key,
            pool=route.pool,
            policy=route.policy,
            affinity=route.affinity(head.target, head.headers),
            sticky=cookie_value(head.headers.get("cookie", ""), cookie) if cookie else None,
            address=address,
        )

    async def place(self, ask: Ask) -> Pick | Refusal:
        """Request a pick, which in a worker comes from another process."""
        answer = self.placer.place(ask)
        if not inspect.isawaitable(answer):
            return answer
        coming = asyncio.ensure_future(answer)
        try:
            async with asyncio.timeout(self.handshake_timeout_s):
                return await asyncio.shield(coming)
        except asyncio.CancelledError:
            self._abandon(coming)
            raise
        except TimeoutError:
            self._abandon(coming)
            return Refusal(503, "place_timeout", "no backend could be chosen in time", random.uniform(1.0, 3.0))  # noqa: S311 - jitter

    def _abandon(self, coming: asyncio.Future[Pick | Refusal]) -> None:
        """Nobody waits for this pick any more: it is dropped when it comes."""

        def drop(done: asyncio.Future[Pick | Refusal]) -> None:
            self._abandoned.discard(done)
            if not done.cancelled() and done.exception() is None and isinstance(picked := done.result(), Pick):
                self.placer.dropped(picked)

        self._abandoned.add(coming)
        coming.add_done_callback(drop)
