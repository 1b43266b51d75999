"""The balancer: the authoritative state of a fleet, and the picks made from it.

Sources name the backends, load reports give their connections, health checks and failed handshakes decide which can be
used, relays and other balancers report what was picked. Whatever carries the bytes (a relay in this process or in a
worker, or Traefik) requests its picks here.

Start order: the link to nodes and balancers, the store, sources, checks and reports; then it learns for a moment, so
that a balancer that was away does not send all returning clients to the first backend that it learns of, or to a held
one. Nothing here listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal

import structlog

from trunkline.balancer.deploys import DeployWatch
from trunkline.balancer.health.checks import HealthChecks
from trunkline.balancer.health.reports import ReportPoller
from trunkline.balancer.overview import Overview, overview
from trunkline.balancer.rebalance.driver import Rebalancer
from trunkline.balancer.rollout.driver import VersionKeeper
from trunkline.balancer.sources import base
from trunkline.balancer.sources.configured import configured
from trunkline.balancer.sources.fixed import ListSource, specs_of
from trunkline.balancer.sources.nats import NatsSource
from trunkline.balancer.tls import backend_context
from trunkline.balancer.traffic.control import TrafficControl
from trunkline.balancer.traffic.copy import copy_for
from trunkline.balancer.traffic.rules import state_of
from trunkline.balancer.traffic.store import open_for
from trunkline.metrics import exposition
from trunkline.metrics.series import LATENCY_BUCKETS
from trunkline.net.asked_sessions import AskedSessions
from trunkline.placement.backend import BackendSpec
from trunkline.placement.condition import Change
from trunkline.placement.fleet import Fleet
from trunkline.placement.homes import KEY_CHARS
from trunkline.placement.pick import place
from trunkline.placement.placing import Ask, Pick, Refusal
from trunkline.process.bounds import end_part, end_tasks
from trunkline.protocol.control import LoadReport, NodeReport, PickNotice, PickNotices
from trunkline.protocol.goodbyes import Goodbyes
from trunkline.protocol.timestamps import utc
from trunkline.protocol.traffic import TrafficState
from trunkline.settings.balancer import BalancerSettings
from trunkline.settings.reloaded import ReloadRecord
from trunkline.settings.sections import Settings

if TYPE_CHECKING:
    from trunkline.balancer.talk import FleetTalk

log = structlog.get_logger("trunkline.balancer")

LEARN_S: Final = 1.5
"""Longest time that a start waits to learn of the fleet."""

HELLO_S: Final = 0.3
"""Time that nodes get to answer a balancer's hello."""

TICK_S: Final = 0.25
"""How often picks that never showed up are looked for."""

RESTART_S: Final = 1.0
"""A part of the balancer that failed is started again after so long."""

PART_S: Final = 10.0
"""Time that each part has to end at a stop."""

SERIES_KEPT: Final = 2_000
"""Label sets of one counter above which those of backends that left are forgotten: addresses may change."""

SUSPICIONS: Final = ("busy", "retry", "alike")
"""Failures that prove no fault, and so lead to a check, not an ejection: a backend that sheds load works, a client may
use one key twice, and what several backends answer alike is their application's answer to one request."""


class BalancerMeter:
    """The live counts of one balancer."""

    __slots__ = (
        "ejections", "failures", "moves", "pending_dropped", "picks", "place", "refusals", "reports", "steering",
        "steering_answers",
    )  # fmt: skip

    def __init__(self) -> None:
        self.picks = exposition.Labelled()
        self.refusals = exposition.Labelled()
        self.failures = exposition.Labelled()
        self.pending_dropped = exposition.Labelled()
        self.ejections = exposition.Labelled()
        self.reports = exposition.Labelled()
        self.moves = exposition.Labelled()
        self.place = exposition.Histogram(LATENCY_BUCKETS)
        # Of a balancer that steers: its handlers count into these.
        self.steering_answers = exposition.Labelled()
        self.steering = exposition.Histogram(LATENCY_BUCKETS)


class Balancer:
    """The authoritative state of a fleet; a `Placer`.

    Attributes:
        asked: sessions that nodes asked to move.
        on_goodbyes: called with what nodes say of them, for processes that keep their own record.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.balancer
        self.id = secrets.token_hex(4)
        # Its place, for the list of balancers: one that takes any free port has none that is known before.
        self.at = f"{socket.gethostname()}:{self.settings.port}" if self.settings.port else ""
        self.reloads = ReloadRecord(time.time())
        self.meter = BalancerMeter()
        self._rng = random.Random()  # noqa: S311 - ties and jitter, no secrets
        self.fleet = Fleet(self.settings, self._rng)
        self.deploys = DeployWatch()
        self.asked = AskedSessions()
        self.on_goodbyes: Callable[[Goodbyes], None] = lambda said: None
        self.nats_connected = False
        self.ready = asyncio.Event()
        self._news = asyncio.Event()
        self._checks = HealthChecks(self.settings, self._on_checked)
        self._reports = ReportPoller(self.settings, self._on_report, self._on_report_failed, self._known_opened)
        self._talk: FleetTalk | None = None
        self._listed = ListSource(self.settings.backends)
        self._sources: dict[str, base.Source] = {"list": self._listed} | configured(settings, self._is_well)
        if self.settings.announced and settings.bus.url != "memory":
            from trunkline.balancer.talk import FleetTalk

            self._nats_source = NatsSource(self.settings.forget_after_ms / 1000)
            self._sources["nats"] = self._nats_source
            self._talk = FleetTalk(
                settings.bus, self.id, self._on_node, self._on_notices, self._on_nats,
                on_goodbyes=self._on_goodbyes,
                forget_s=self.settings.forget_after_ms / 1000, traffic=lambda: self.traffic.generation,
                place=self.at,
            )  # fmt: skip
        self._store = open_for(settings)
        self.traffic = TrafficControl(self._store, self.fleet, self.deploys, self._on_traffic, copy_for(settings))
        self._versions = VersionKeeper(self._store, self.fleet, lambda: self._talk is None or self.nats_connected)
        self._lists: dict[str, Sequence[BackendSpec]] = {}
        self._conflicts: tuple[base.Conflict, ...] = ()
        self._rebalancer = Rebalancer(
            self.settings, self.fleet, self._talk, self.meter.moves, lambda: self.deploys.under_way
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to learn; raises StartError or SettingsError for what cannot work."""
        if self._talk is not None:
            await self._talk.start()
        await self._store.start()
        self._keep_running("traffic", self.traffic.run)
        self._keep_running("versions", self._versions.run)
        await self._checks.start()
        await self._reports.start()
        for name, source in self._sources.items():
            self._keep_running(
                f"source {name}", functools.partial(source.run, functools.partial(self._on_source, name))
            )
        self._keep_running("clock", self._tick)
        self._keep_running("rebalancer", self._rebalancer.run)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEARN_S):
                await self._learn()

    async def _learn(self) -> None:
        """Wait for the table, each source's list, the nodes' answers, and a report or a failure of each backend."""
        await self.traffic.learned.wait()
        while not (self._lists.keys() >= self._sources.keys() and (self._talk is None or self.nats_connected)):
            self._news.clear()
            await self._news.wait()
        if self._talk is not None:
            await asyncio.sleep(HELLO_S)
        while any(row.report is None and not row.report_failure for row in self.fleet.backends.values()):
            self._news.clear()
            await self._news.wait()

    def prepare(self, settings: BalancerSettings) -> Callable[[], None]:
        """Make ready what reloaded settings need, and return what takes them over.

        Raises SettingsError for a backend or a certificate that cannot be used; nothing has changed then.
        """
        specs = specs_of(settings.backends)
        tls = backend_context(settings)

        def take_over() -> None:
            self._checks.tls.successor = tls
            self._reports.tls.successor = tls
            self._listed.reload(specs)

        return take_over

    async def stop(self) -> None:
        """End everything, each part within its bound."""
        await end_tasks(self._tasks)
        await end_part("checks", self._checks.close(), within_s=PART_S)
        await end_part("reports", self._reports.close(), within_s=PART_S)
        if self._talk is not None:
            await end_part("talk", self._talk.close(), within_s=PART_S)
        await end_part("store", self._store.close(), within_s=PART_S)

    def _keep_running(self, part: str, run: Callable[[], Awaitable[None]]) -> None:
        async def again() -> None:
            while True:
                try:
                    await run()
                except Exception:
                    # A fault in one source must not leave the balancer with its last list for ever.
                    log.exception("balancer_part_failed", part=part, again_in_s=RESTART_S)
                await asyncio.sleep(RESTART_S)

        self._tasks.append(asyncio.create_task(again()))

    def place(self, ask: Ask) -> Pick | Refusal | Awaitable[Pick | Refusal]:
        """Choose a backend and reserve a place on it; later, when every pick wants fresh reports."""
        if self.settings.cache_ttl_ms == 0:
            return self._place_fresh(ask)
        return self._place(ask)

    async def _place_fresh(self, ask: Ask) -> Pick | Refusal:
        await self._reports.refresh([url for url, row in self.fleet.backends.items() if row.pool == ask.pool])
        return self._place(ask)

    def _place(self, ask: Ask) -> Pick | Refusal:
        started = time.perf_counter()
        answer = place(self.fleet, ask, time.monotonic(), self._rng)
        self.meter.place.observe(time.perf_counter() - started)
        if isinstance(answer, Pick):
            self.meter.picks.add(answer.url, answer.reason)
            log.debug("placed", backend=answer.url, reason=answer.reason, pool=ask.pool, policy=ask.policy)
            if self._talk is not None and answer.reservation:
                kept = ask.affinity if ask.policy == "affinity" and ask.affinity is not None else ""
                self._talk.note(PickNotice("p", answer.url, ask.key, kept[:KEY_CHARS]))
        else:
            self.meter.refusals.add(answer.reason)
            log.debug("not_placed", reason=answer.reason, pool=ask.pool, policy=ask.policy)
        return answer

    def opened(self, pick: Pick) -> None:
        """The backend has answered 101."""
        self._changed(pick.url, self.fleet.opened(pick.reservation, time.monotonic()))

    def failed(self, pick: Pick, why: str) -> None:
        """No connection came of it through the backend's fault."""
        self.meter.failures.add(pick.url, why)
        self._note("f", pick)
        log.debug("pick_failed", backend=pick.url, why=why, suspicion=why in SUSPICIONS)
        now = time.monotonic()
        if why in SUSPICIONS:
            self.fleet.dropped(pick.reservation, now)
            self._checks.hurry(pick.url)
        else:
            self._changed(pick.url, self.fleet.failed(pick.reservation, why, now))
            row = self.fleet.backends.get(pick.url)
            if row is not None and row.condition.kept:
                self._checks.hurry(pick.url)

    def dropped(self, pick: Pick) -> None:
        """No connection came of it, and the backend is not to blame."""
        self._note("f", pick)
        self.fleet.dropped(pick.reservation, time.monotonic())

    def closed(self, pick: Pick) -> None:
        """An opened connection has ended."""
        self._note("c", pick)
        self.fleet.closed(pick.reservation, time.monotonic())

    def _note(self, event: Literal["f", "c"], pick: Pick) -> None:
        if self._talk is not None and pick.reservation:
            key = self.fleet.key_of(pick.reservation)
            if key is not None:
                self._talk.note(PickNotice(event, pick.url, key))

    def _is_well(self, url: str) -> bool:
        row = self.fleet.backends.get(url)
        return row is not None and row.condition.state != "down"

    def _on_source(self, name: str, specs: Sequence[BackendSpec]) -> None:
        self._lists[name] = specs
        self._news.set()
        found = base.merge(self._lists)
        merged = found.specs
        for conflict in found.conflicts:
            if conflict not in self._conflicts:
                log.warning("backend_named_twice", backend=conflict.url, text=str(conflict))
        self._conflicts = found.conflicts
        changes = self.fleet.set_backends(merged, time.monotonic())
        for url in (*changes.added, *changes.changed):
            self._changed(url, self.fleet.heard(url, time.monotonic()))
        self._checks.set_backends(merged)
        self._reports.set_backends(merged)
        for url in changes.added:
            log.info("backend_joined", backend=url, source=self.fleet.backends[url].spec.source)
        for url in changes.removed:
            log.info("backend_left", backend=url)
        if changes.removed:
            self._forget_series()
        if any((changes.added, changes.removed, changes.changed)):
            self._fleet_changed()

    def _forget_series(self) -> None:
        meter = self.meter
        for counter in (meter.picks, meter.failures, meter.ejections, meter.moves):
            if len(counter.values) > SERIES_KEPT:
                # In place: the rebalancer counts into the same one.
                for labels in [labels for labels in counter.values if labels[0] not in self.fleet.backends]:
                    del counter.values[labels]

    def _on_report(self, url: str, report: LoadReport, asked_at: float) -> None:
        self.meter.reports.add("polled")
        self._take(url, report, asked_at)

    def _on_node(self, report: NodeReport) -> None:
        self.meter.reports.add("pushed")
        self._nats_source.reported(report)
        if report.leaving:
            # Its place is given up, or taken by a successor with reports of its own.
            return
        self._take(report.url, report.report, time.monotonic())
        self._reports.reported(report.url)

    def _take(self, url: str, report: LoadReport, asked_at: float) -> None:
        self._news.set()
        row = self.fleet.backends.get(url)
        if row is None:
            return
        was_draining, took = row.draining, row.takes
        self.fleet.take_report(url, report, asked_at=asked_at, now=time.monotonic())
        if row.draining != was_draining:
            log.info("backend_draining" if row.draining else "backend_drained_no_more", backend=url)
        if row.takes != took:
            # Draining, or the first report names a group that the table gives something.
            self._fleet_changed()

    def _on_report_failed(self, url: str, why: str) -> None:
        self.meter.reports.add("failed")
        self.fleet.report_failed(url, why, time.monotonic())
        self._news.set()

    def _known_opened(self, url: str) -> tuple[str, int] | None:
        row = self.fleet.backends.get(url)
        return row.known_opened if row is not None else None

    def _on_checked(self, url: str, ok: bool, why: str) -> None:
        if not ok:
            log.debug("check_failed", backend=url, why=why)
        self._changed(url, self.fleet.checked(url, ok, why, time.monotonic()))

    def _on_notices(self, balancer: str, notices: PickNotices) -> None:
        now = time.monotonic()
        for notice in notices.notices:
            self.fleet.take_notice(balancer, notice, now)

    def _on_goodbyes(self, said: Goodbyes) -> None:
        self.asked.hear(said, time.monotonic())
        self.on_goodbyes(said)

    def _on_nats(self, connected: bool) -> None:
        self.nats_connected = connected
        self._news.set()
        self._nats_source.connected(connected)

    def _on_traffic(self) -> None:
        self._fleet_changed()
        if self._talk is not None:
            self._talk.tell()

    def _changed(self, url: str, change: Change | None) -> None:
        if change is None:
            return
        if change.after in ("up", "half_open"):
            log.info(f"backend_{change.after}", backend=url, before=change.before, why=change.why)
        else:
            log.warning("backend_out", backend=url, before=change.before, state=change.after, why=change.why)
            self.meter.ejections.add(url, change.after)
        self._fleet_changed()

    def _fleet_changed(self) -> None:
        now = time.monotonic()
        if any(row.takes and row.condition.usable(now) for row in self.fleet.backends.values()):
            self.ready.set()
        else:
            self.ready.clear()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            self.fleet.expire(now)
            for backend in self.fleet.backends.values():
                self._changed(backend.url, backend.condition.passed(now))
            while self.fleet.news:
                news = self.fleet.news.popleft()
                log.info(f"backend_{news.event}", backend=news.url, why=news.why)

    def overview(self) -> Overview:
        """What /balancer-metrics shows."""
        rows = self.fleet.rows(time.monotonic())
        return overview(rows, self.fleet.imbalance(), utc(time.time()), self.traffic_state())

    def traffic_state(self) -> TrafficState:
        """What `GET /api/traffic` shows."""
        peers = {} if self._talk is None else self._talk.peers()
        backends = self.fleet.backends.values()
        return state_of(
            self.traffic.table,
            self.fleet.shares,
            backends,
            (self.id, self.at),
            peers,
            time.monotonic(),
            self._store.name,
        )
