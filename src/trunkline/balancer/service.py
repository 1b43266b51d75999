"""A relaying balancer, composed: authoritative state, the listener for clients, the admin port.

Start order: the sockets of both ports, on which clients wait meanwhile; state, so that the first client finds backends;
the listener; the admin port; then whom this one replaces may end. Stop order: the listener and the admin port, which
another process may want, relayed connections as they end or when their time is over, then the state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from trunkline.balancer.admin import BalancerAdmin
from trunkline.balancer.core import PART_S, Balancer
from trunkline.balancer.event_log import EventLog
from trunkline.balancer.listening import Listening
from trunkline.balancer.measures import EdgeCounts, counts_of
from trunkline.balancer.own_pages import OwnPages
from trunkline.balancer.pages import BalancerPages
from trunkline.balancer.relay.edge import Edge
from trunkline.balancer.workers.supervisor import Workers
from trunkline.errors import SettingsError, StartError
from trunkline.net.admin.tokens import read_tokens
from trunkline.process.bounds import end_part
from trunkline.settings.sections import Settings

log = structlog.get_logger("trunkline.balancer")


class RelayService:
    """A relaying balancer; `take_over` and `on_taken` as `Listening` has them."""

    def __init__(
        self, settings: Settings, *, take_over: bool = False, on_taken: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings.balancer
        self._listening = Listening(settings.balancer, take_over=take_over, on_taken=self._taken)
        self._on_taken = on_taken
        self.balancer = Balancer(settings)
        self._events = EventLog() if settings.log.access else None
        self._edge: Edge | None = None
        self._own_pages: OwnPages | None = None
        self._workers: Workers | None = None
        if settings.balancer.workers > 1:
            self._workers = Workers(self.balancer, settings)
            pages = self._workers.pages
        else:
            pages = BalancerPages(self.balancer, self._counts)
            self._own_pages = own_pages = OwnPages(settings.balancer, pages.render_soon)
            self._edge = Edge(
                settings.balancer,
                self.balancer,
                asked=self.balancer.asked,
                pages=own_pages.answer,
                on_event=self._events.add if self._events is not None else None,
            )
        self.admin = BalancerAdmin(self.balancer, pages, settings.admin)
        self.port = 0

    async def start(self) -> None:
        """Learn of the fleet and listen; raises StartError."""
        self._listening.open()
        self.port = self._listening.port
        try:
            self.admin.open(self.port, self._listening.admin)
            await self.balancer.start()
            await self._listen()
            await self.admin.start()
            await self._listening.started(self.admin.sockets)
        except (SettingsError, StartError):
            # Clients may have come already, when another process takes the place that this one was to take.
            await self._close(self._drain_s)
            self._listening.close()
            raise
        self.admin.keep_token()
        log.info(
            "balancer_up",
            id=self.balancer.id,
            mode="relay",
            port=self.port,
            admin_port=self.admin.port,
            policy=self._settings.policy,
            workers=self._settings.workers,
        )

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        """Make ready what reloaded settings need, in workers too, and return what takes them over; connections stay.

        Raises SettingsError or StartError for what cannot be used; nothing has changed then.
        """
        tokens = read_tokens(settings.admin)
        taken = [self.balancer.prepare(settings.balancer)]
        if self._edge is not None:
            taken.append(self._edge.prepare(settings.balancer))
        if self._workers is not None:
            taken.append(await self._workers.prepare(settings))

        def take_over() -> None:
            self._settings = settings.balancer
            self.admin.reload(settings.balancer)
            self.admin.replace_tokens(tokens)
            if self._own_pages is not None:
                self._own_pages.reload(settings.balancer)
            for each in taken:
                each()

        return take_over

    async def stop(self) -> None:
        """Take no more clients, let the connected ones go on for `drain_ms`, then end. Cancel it to end at once."""
        try:
            await end_part("offer", self._listening.stop(), within_s=PART_S)
            # Both ports at once, for the balancer that takes this one's place.
            await asyncio.gather(
                end_part("connections", self._stop_listening(self._drain_s), within_s=self._drain_s + PART_S),
                end_part("admin port", self.admin.move(), within_s=PART_S),
            )
        finally:
            await self._close(0.0)
            log.info("balancer_stopped")

    @property
    def _drain_s(self) -> float:
        return self._settings.drain_ms / 1000

    def _taken(self) -> None:
        # The other one keeps a token of its own under the same name next.
        self.admin.forget_token()
        self._on_taken()

    def _counts(self) -> EdgeCounts:
        return counts_of(self._edge.meter, self._edge.connections) if self._edge is not None else EdgeCounts()

    async def _listen(self) -> None:
        if self._workers is not None:
            await self._workers.start(self._listening.clients)
        elif self._edge is not None:
            if self._events is not None:
                self._events.start()
            await self._edge.start(self._listening.clients)

    async def _stop_listening(self, drain_s: float) -> None:
        if self._workers is not None:
            await self._workers.stop(drain_s)
        elif self._edge is not None:
            await self._edge.stop(drain_s)

    async def _close(self, drain_s: float) -> None:
        await end_part("offer", self._listening.stop(), within_s=PART_S)
        await end_part("listener", self._stop_listening(drain_s), within_s=drain_s + PART_S)
        await end_part("admin port", self.admin.stop(), within_s=PART_S)
        await self.balancer.stop()
        if self._events is not None:
            await end_part("connection log", self._events.stop(), within_s=PART_S)
