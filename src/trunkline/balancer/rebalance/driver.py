"""Carries out what `plan` decides: looks at the fleet several times a second, and sends the orders to the nodes.

Rules:

- Of several balancers only the one that leads does so; the others look on, so that they know what has joined. While a
  deploy runs, which moves clients itself, all look on.
- An order that fails is not repeated at once: the node is left alone for a while.
- One log line an order, in a dry run too.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from trunkline.balancer.health.rota import JITTER
from trunkline.balancer.rebalance import plan
from trunkline.balancer.rebalance.plan import RebalanceState
from trunkline.balancer.rebalance.rows import GroupKey, Move, Row
from trunkline.errors import BusError
from trunkline.metrics.exposition import Labelled
from trunkline.placement.affinity import choose
from trunkline.placement.fleet import Fleet
from trunkline.placement.hashing import point_of, score
from trunkline.placement.pool import Backend
from trunkline.placement.versions import preferred
from trunkline.protocol.control import MoveOrder, PickNotice
from trunkline.settings.balancer import BalancerSettings

if TYPE_CHECKING:
    from trunkline.balancer.talk import FleetTalk

log = structlog.get_logger("trunkline.balancer")

LOOK_EVERY_S: Final = 0.25
"""Often enough that one order follows another without a pause that would waste the rate."""

SLICE: Final = 200
"""Keys whose homes are reckoned before others get their turn."""

FRESH_S: Final = 3.0
"""A report and a half of a node: one that was killed a moment ago is not sent clients."""

KEYS_EVERY_S: Final = 2.0
"""A node must look at every client to count its keys."""


def rows_of(fleet: Fleet, talk: FleetTalk, now: float) -> list[Row]:
    """The fleet as rebalancing sees it; a backend is a node of ours when it reports as one, whatever its source."""
    rows = []
    for pool in fleet.pools.values():
        pool.refresh(now)
        takers = {backend.url for backend in pool.takers.members}
        for backend in pool.members:
            rows.append(
                Row(
                    url=backend.url,
                    node=talk.node_at(backend.url) or "",
                    connections=backend.estimate,
                    # Clients of a version that is being replaced would come back to the new one.
                    share=backend.share if backend.url in takers and not backend.outdated else 0.0,
                    weight=backend.spec.weight,
                    pool=backend.pool,
                    # Without weights by group, placement does not distinguish colours either.
                    group=backend.group if pool.lanes else "",
                    capacity=backend.capacity,
                    usable=backend.condition.usable(now),
                    draining=backend.draining,
                    room=_has_room(backend, fleet.settings, talk, now),
                )
            )
    return rows


def _has_room(backend: Backend, settings: BalancerSettings, talk: FleetTalk, now: float) -> bool:
    """Whether clients may be sent there: it was heard from within its last reports, and is not on trial."""
    if backend.condition.trial:
        return False
    silence_s = talk.silence_s(backend.url)
    if not math.isinf(silence_s):
        return silence_s <= FRESH_S
    if backend.report is None or backend.report_failure:
        return False
    interval_s = settings.cache_ttl_ms / 1000
    return not interval_s or now - backend.reported_at <= interval_s * (1 + JITTER) + settings.report_timeout_ms / 1000


def home_of(fleet: Fleet, group: GroupKey, key: str, now: float) -> str | None:
    """The backend that a key belongs to, None when that has no room for it.

    Clients of a key whose home is full gain nothing by moving to where placement puts the next one: later ones are
    placed at home again as soon as it has room.
    """
    pool = fleet.pools.get(group[0])
    if pool is None:
        return None
    lane = pool.lanes.get(group[1]) if pool.lanes else pool.takers
    if lane is None:
        return None
    lane = preferred(lane, now, ())
    point = point_of(key)
    home = max(
        # One that is full is a home too.
        (backend for backend in lane.members if backend.condition.usable(now)),
        key=lambda backend: score(point, backend.seed, backend.spec.weight),
        default=None,
    )
    placed, _ = choose(lane, key, fleet.settings.affinity_bound, now, ())
    return home.url if home is not None and placed is home else None


class Rebalancer:
    """Evens out a fleet by orders over `talk`; without it, and while it `rests`, there are none."""

    def __init__(
        self,
        settings: BalancerSettings,
        fleet: Fleet,
        talk: FleetTalk | None,
        moves: Labelled,
        rests: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._talk = talk
        self._moves = moves
        self._rests = rests
        self._state = RebalanceState()
        self._keys_at = float("-inf")
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look and order until cancelled."""
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                try:
                    await self._look()
                except Exception:
                    # The next look finds the same fleet; balancing is no reason to lose the balancer.
                    log.exception("rebalance_failed")
        finally:
            for task in self._sending:
                task.cancel()

    async def _look(self) -> None:
        talk = self._talk
        if talk is None or self._settings.rebalance == "off":
            return
        now = time.monotonic()
        rows = rows_of(self._fleet, talk, now)
        rests = self._rests()
        if rests or not talk.leads:
            # Whom a deploy has moved is not moved again at once, as if another balancer had done it.
            plan.observe(rows, now, self._state, other_leads=rests or talk.follows)
            return
        moves = plan.plan(rows, now, self._settings, self._state)
        if not moves and now - self._keys_at >= KEYS_EVERY_S:
            moves = await self._look_at_keys(talk, rows, now)
        for move in moves:
            self._log(move)
            if not move.dry_run:
                task = asyncio.create_task(self._send(talk, move))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)

    async def _look_at_keys(self, talk: FleetTalk, rows: Sequence[Row], now: float) -> list[Move]:
        wanted = plan.keys_wanted(rows, now, self._settings, self._state)
        for group in dict.fromkeys(each[0] for each in wanted):
            self._keys_at = now
            for keeps, nodes in [(each[1], each[2]) for each in wanted if each[0] == group]:
                counts = await self._count_keys(talk, nodes, keeps)
                moves = await self._plan_keys(talk, counts, keeps, group)
                if moves:
                    return moves
            plan.keys_done(group, self._state)
        return []

    async def _plan_keys(
        self, talk: FleetTalk, counts: dict[str, dict[str, int]], keeps: str, group: GroupKey
    ) -> list[Move]:
        homes: dict[str, str | None] = {}
        for key in {key for found in counts.values() for key in found}:
            if len(homes) % SLICE == SLICE - 1:
                # Picks must not wait for a hundred thousand hashes.
                await asyncio.sleep(0)
            homes[key] = home_of(self._fleet, group, key, time.monotonic())
        # The fleet is looked at again: the answers took their time.
        now = time.monotonic()
        rows = rows_of(self._fleet, talk, now)
        return plan.plan_keys(rows, counts, homes.get, keeps, group, now, self._settings, self._state)

    @staticmethod
    async def _count_keys(talk: FleetTalk, nodes: Sequence[Row], keeps: str) -> dict[str, dict[str, int]]:
        async def ask(row: Row) -> dict[str, int]:
            try:
                return (await talk.keys(row.node, keeps)).counts
            except BusError as error:
                log.warning("keys_unknown", backend=row.url, node=row.node, why=str(error))
                return {}

        answers = await asyncio.gather(*(ask(row) for row in nodes))
        return {row.url: counts for row, counts in zip(nodes, answers, strict=True)}

    async def _send(self, talk: FleetTalk, move: Move) -> None:
        order = MoveOrder(move.count, move.over_ms, move.affinity, move.values, move.rested_ms)
        try:
            moved = await talk.move(move.node, order)
        except BusError as error:
            log.warning("move_failed", backend=move.url, node=move.node, why=str(error))
            self._state.refused(move.url, time.monotonic())
            return
        self._moves.add(move.url, times=moved.moving)
        for value in move.values:
            # The key's next client is placed by hashing again, here and at the other balancers.
            self._fleet.homes.forget(move.pool, value)
            talk.note(PickNotice("m", move.url, value))
        if moved.moving * 2 < move.count:
            # Somewhat fewer: those left by themselves.
            log.info("moved_fewer", backend=move.url, node=move.node, asked=move.count, moving=moved.moving)
            self._state.refused(move.url, time.monotonic())

    @staticmethod
    def _log(move: Move) -> None:
        log.info(
            "rebalance_dry_run" if move.dry_run else "rebalance",
            backend=move.url,
            node=move.node,
            clients=move.count,
            over_ms=move.over_ms,
            reason=move.reason,
            connections=move.connections,
            even_would_be=move.fair,
            pool=move.pool,
            group=move.group,
            keys=len(move.values),
        )
