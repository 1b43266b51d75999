"""The fleet as a deploy sees it: a balancer's admin port, the nodes' own pages, and the bus.

Rules:

- Which backends there are, and whether connections go there, is what the balancers say. What a node alone knows (its
  lag, its rate, its counts) it says over the bus.
- Orders go to one node by its name, over the bus, and are bounded by themselves.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Final, TypeVar

import aiohttp
import msgspec

from trunkline.bus.base import FleetLink, Subscription
from trunkline.deploy.world.balancers import Backend, Balancers, read_body
from trunkline.deploy.world.base import FleetRefused, FleetUnreachable, FleetView, NodeView
from trunkline.deploy.world.heard import Heard
from trunkline.errors import BusError, BusUnavailable, NobodyListens
from trunkline.logs.logger import get_logger
from trunkline.protocol.control import (
    LONGEST_MOVE_MS,
    MOST_MOVED,
    DrainOrder,
    DrainState,
    Health,
    Moved,
    MoveOrder,
    NodeReport,
    Problem,
    UndrainOrder,
)
from trunkline.protocol.goodbyes import CountsAsked, MoveCounts
from trunkline.protocol.subjects import (
    MAX_MESSAGE_BYTES,
    counts_subject,
    drain_subject,
    hello_subject,
    move_subject,
    report_subject,
    undrain_subject,
)
from trunkline.protocol.traffic import TrafficOrder, TrafficState
from trunkline.version import __version__

log = get_logger("trunkline.deploy")
T = TypeVar("T", bound=msgspec.Struct)

ANSWER_S: Final = 5.0
FIRST_REPORTS_S: Final = 0.5
"""Time that nodes have to report when they are asked to at the start."""

LONGEST_HEALTH: Final = 1 << 20
REASON: Final = "deploy"
"""What clients get as the reason of their goodbye."""

WORKS: Final = frozenset({"up", "half_open"})
"""States in which an older balancer, which does not say so, sends connections to a backend."""

RESOURCES: Final = frozenset({"capacity", "memory", "cpu"})
"""Checks of /health that are not the bus."""


class FleetWorld:
    """See `world.World`.

    Args:
        balancers: where the table and the backends are seen; closed with this.
        link: the bus, which belongs to the caller.
        changed_by: who writes the traffic table, in words for people.
        tls: for pages of nodes that serve HTTPS; None for the certificates that this machine trusts.
    """

    def __init__(
        self, balancers: Balancers, link: FleetLink, *, changed_by: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self._balancers = balancers
        self._link = link
        self._changed_by = changed_by
        self._tls = tls
        self._heard = Heard()
        self._listening: Subscription | None = None
        self._pages: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Begin to hear nodes; without a bus it goes on, and hears them when there is one."""
        self._listening = await self._link.listen(report_subject(self._link.prefix), self._on_report)
        try:
            await self._link.send(hello_subject(self._link.prefix), b"")
            await self._link.flush(ANSWER_S)
            await asyncio.sleep(FIRST_REPORTS_S)
        except BusError as error:
            log.warning("nodes not heard yet", why=str(error))

    async def close(self) -> None:
        """Let go of everything but the bus."""
        if self._listening is not None:
            await self._listening.close()
        if self._pages is not None:
            await self._pages.close()
        await self._balancers.close()

    async def look(self) -> FleetView:
        """The fleet now; raises FleetUnreachable, FleetRefused."""
        traffic = await self._balancers.traffic()
        backends = await self._balancers.backends()
        return FleetView(tuple(self._view(backend) for backend in backends), traffic)

    async def put_traffic(self, expect: int, weights: dict[str, float], *, force: bool = False) -> TrafficState | None:
        """Write the table; None when its generation is another one. Raises FleetUnreachable, FleetRefused."""
        return await self._balancers.put_traffic(TrafficOrder(expect, weights, self._changed_by, force))

    async def ready(self, node: NodeView) -> str:
        """Ask the node's `/ready` and `/health`; a foreign backend has neither and is what its balancer says."""
        if not node.name:
            return "" if node.usable else f"the balancer shows it as {node.state}"
        try:
            status, body = await self._page(f"{node.url}/ready")
            if status != 200:
                return f"/ready answered {status}: {body[:100].decode('utf-8', 'replace').strip()}"
            status, body = await self._page(f"{node.url}/health")
            health = msgspec.json.decode(body, type=Health)
        except msgspec.MsgspecError:
            return f"/health answered {status} and no health of a node"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"it cannot be reached at {node.url}: {str(error) or type(error).__name__}"
        for name, check in health.checks.items():
            if name not in RESOURCES and not check.healthy:
                why = f": {check.why}" if check.why else ""
                return f"its bus ({name}) is {check.status or 'unhealthy'}{why}"
        return "" if health.healthy else f"/health says {health.status}: {'; '.join(health.errors)}"

    async def counts(self, node: NodeView) -> MoveCounts | None:
        """What became of moved clients there; None of a node that does not count. Raises FleetUnreachable."""
        if not node.name:
            return None
        subject = counts_subject(self._link.prefix, node.name)
        try:
            return await self._ask(subject, CountsAsked(), MoveCounts)
        except NobodyListens:
            return None

    async def move(self, node: NodeView, count: int, over_ms: int) -> int:
        """Ask at most `count` clients to move; raises FleetUnreachable, FleetRefused."""
        subject, order = move_subject(self._link.prefix, node.name), MoveOrder(count, over_ms)
        try:
            moved = await self._ordered(subject, msgspec.structs.replace(order, reason=REASON), Moved)
        except FleetRefused:
            # An older release takes no order with a reason; whoever refused for another cause does so again.
            moved = await self._ordered(subject, order, Moved)
        return moved.moving

    async def drain(self, node: NodeView, over_ms: int) -> int:
        """Have the node ask all that are left; raises FleetUnreachable, FleetRefused."""
        subject = drain_subject(self._link.prefix, node.name)
        try:
            return (await self._ask(subject, DrainOrder(over_ms), DrainState)).connections
        except NobodyListens:
            # An older release knows no drains over the bus. A move of all does the same to a node that gets nobody new.
            return await self.move(node, MOST_MOVED, min(over_ms, LONGEST_MOVE_MS))

    async def undrain(self, node: NodeView) -> None:
        """Have the node take connections again; raises FleetUnreachable, FleetRefused."""
        await self._ordered(undrain_subject(self._link.prefix, node.name), UndrainOrder(), DrainState)

    async def _ordered(self, subject: str, order: msgspec.Struct, kind: type[T]) -> T:
        try:
            return await self._ask(subject, order, kind)
        except NobodyListens as error:
            raise FleetUnreachable(f"{error}: the node is gone, or of an older release") from None

    async def _ask(self, subject: str, question: msgspec.Struct, kind: type[T]) -> T:
        """Ask one node; raises NobodyListens, FleetUnreachable, FleetRefused."""
        try:
            answer = await self._link.ask(subject, msgspec.json.encode(question), ANSWER_S)
        except NobodyListens:
            raise
        except BusUnavailable as error:
            raise FleetUnreachable(str(error)) from None
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError as error:
            raise FleetRefused(_problem(subject, answer, str(error))) from None

    async def _page(self, url: str) -> tuple[int, bytes]:
        if self._pages is None:
            self._pages = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"trunkline-deploy/{__version__}"},
                timeout=aiohttp.ClientTimeout(total=ANSWER_S),
                trust_env=False,
            )
        async with self._pages.get(url, allow_redirects=False) as answer:
            return answer.status, await read_body(answer, LONGEST_HEALTH)

    def _view(self, backend: Backend) -> NodeView:
        name = backend.name if backend.source == "nats" else ""
        said = self._heard.find(backend.url, name, time.monotonic())
        load = said.report if said is not None else None
        return NodeView(
            name=said.node if said is not None else name,
            url=backend.url,
            colour=backend.group,
            version=(load.version if load is not None else None) or backend.version,
            state=backend.state,
            usable=backend.state in WORKS and backend.weight > 0 if backend.usable is None else backend.usable,
            connections=load.agentsConnections if load is not None else backend.connections,
            capacity=backend.capacity,
            accepts_per_s=load.accept_per_s if load is not None else None,
            lag_ms=load.loop_lag_ms if load is not None else None,
        )

    def _on_report(self, data: bytes, reply: str) -> None:
        if len(data) > MAX_MESSAGE_BYTES:
            return
        try:
            report = msgspec.json.decode(data, type=NodeReport)
        except msgspec.MsgspecError as error:
            # Of another release, or of another program; the balancers name it.
            log.debug("report ignored", why=str(error)[:300])
            return
        self._heard.reported(report, time.monotonic())


def _problem(subject: str, answer: bytes, why: str) -> str:
    """Why a node refused."""
    try:
        return f"the node refused on {subject}: {msgspec.json.decode(answer, type=Problem).message}"
    except msgspec.MsgspecError:
        return f"the answer on {subject} cannot be read, as of another release: {why}"
