"""A balancer that steers Traefik, composed: authoritative state, and the port for Traefik's requests.

The same port answers what the admin port of a relaying balancer does, for here no client comes by: only Traefik, and
whoever looks at the balancer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

import structlog

from trunkline.balancer.admin import BalancerAdmin
from trunkline.balancer.core import PART_S, Balancer
from trunkline.balancer.event_log import EventLog
from trunkline.balancer.hosts import hosts_of, names_of
from trunkline.balancer.http_port import HttpPort
from trunkline.balancer.listening import Listening
from trunkline.balancer.measures import EdgeCounts
from trunkline.balancer.pages import BalancerPages
from trunkline.errors import SettingsError, StartError
from trunkline.net.admin.tokens import read_tokens
from trunkline.process import open_files
from trunkline.process.bounds import end_part
from trunkline.process.open_files import Shares
from trunkline.settings.sections import Settings
from trunkline.traefik.steer.handlers import Steering, SteeringMeter
from trunkline.traefik.steer.published import Candidate

log = structlog.get_logger("trunkline.traefik")


class SteeringService:
    """A steering balancer; `take_over` and `on_taken` as `Listening` has them."""

    def __init__(
        self, settings: Settings, *, take_over: bool = False, on_taken: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings
        self._listening = Listening(settings.balancer, take_over=take_over, on_taken=self._taken)
        self._on_taken = on_taken
        self.balancer = Balancer(settings)
        self._events = EventLog() if settings.log.access else None
        on_event = self._events.add if self._events is not None else None
        meter = SteeringMeter(self.balancer.meter.steering, self.balancer.meter.steering_answers)
        self.steering = Steering(
            settings, self.balancer, self._candidates, asked=self.balancer.asked, meter=meter, on_event=on_event
        )
        self.admin = BalancerAdmin(self.balancer, BalancerPages(self.balancer, EdgeCounts), settings.admin)
        # All its connections wait for requests.
        most = Shares(open_files.limit()).pending(0)
        self._hosts = hosts_of(settings.balancer, _name(settings))
        self._http = HttpPort("data", most, self.balancer.meter.pending_dropped, self._hosts, head_bytes=1 << 16)
        self.port = 0

    async def start(self) -> None:
        """Learn of the fleet and listen; raises StartError."""
        self._listening.open()
        self.port = self._listening.port
        try:
            self.admin.open(self.port, self._listening.admin)
            await self.balancer.start()
            if self._events is not None:
                self._events.start()
            await self._http.start([*self.steering.routes(), *self.admin.routes()], self._listening.clients)
            await self.admin.start()
            await self._listening.started(self.admin.sockets)
        except (SettingsError, StartError):
            await self.stop()
            self._listening.close()
            raise
        self.admin.keep_token()
        log.info(
            "balancer_up",
            id=self.balancer.id,
            mode="steer",
            port=self.port,
            admin_port=self.admin.port,
            policy=self._settings.balancer.policy,
        )

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        """Make ready what reloaded settings need, and return what takes them over.

        Raises SettingsError or StartError for what cannot be used; nothing has changed then.
        """
        tokens = read_tokens(settings.admin)
        take_over_state = self.balancer.prepare(settings.balancer)

        def take_over() -> None:
            self._settings = settings
            self._hosts.rename(names_of(settings.balancer, _name(settings)))
            self.admin.reload(settings.balancer)
            self.admin.replace_tokens(tokens)
            take_over_state()

        return take_over

    async def stop(self) -> None:
        """Answer no more; connections are Traefik's and stay."""
        await end_part("offer", self._listening.stop(), within_s=PART_S)
        await end_part("port for Traefik", self._http.stop(), within_s=PART_S)
        await end_part("admin port", self.admin.stop(), within_s=PART_S)
        await self.balancer.stop()
        if self._events is not None:
            await end_part("connection log", self._events.stop(), within_s=PART_S)
        log.info("balancer_stopped")

    def _taken(self) -> None:
        # The other one keeps a token of its own under the same name next.
        self.admin.forget_token()
        self._on_taken()

    def _candidates(self) -> list[Candidate]:
        now = time.monotonic()
        weights = self.balancer.fleet.shares.weights
        return [
            Candidate(
                url=backend.url,
                weight=backend.spec.weight,
                group=backend.group,
                pool=backend.pool,
                usable=backend.condition.usable(now),
                draining=backend.draining,
                tier=backend.spec.tier,
                held=backend.held,
                share=weights.get(backend.group),
            )
            for backend in self.balancer.fleet.backends.values()
        ]


def _name(settings: Settings) -> str:
    """The name under which Traefik asks, empty for an address of its own machine."""
    return urlsplit(settings.traefik.balancer_url or "").hostname or ""
