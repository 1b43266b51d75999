"""A fleet in memory for tests of deploys: nodes, clients that move, a traffic table, and the time that passes there.

It is what the machine's driver sees as `World` and `Runtime`, without a socket; the real ones have suites of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from trunkline.deploy.machine.seen import (
    Action,
    AskReady,
    Drain,
    Ensure,
    Move,
    Preflight,
    PutTraffic,
    Remove,
    Seen,
    Smoke,
    SmokeSeen,
    StartWitnesses,
    Undrain,
    WitnessSeen,
)
from trunkline.deploy.runtimes.base import RuntimeFailed, RuntimeNode, What
from trunkline.deploy.world.base import FleetRefused, FleetUnreachable, FleetView, NodeView
from trunkline.errors import TrunklineError
from trunkline.protocol.goodbyes import MoveCounts
from trunkline.protocol.traffic import BalancerTraffic, TrafficState


@dataclass
class PretendNode:
    """One node; `asked` are the times at which clients that were asked will leave it."""

    name: str
    colour: str
    clients: int = 0
    version: str = ""
    state: str = "up"
    capacity: int = 10_000
    accepts_per_s: float = 1_000.0
    lag_ms: float = 1.0
    unready: str = ""
    smokes: str = ""
    stays: int = 0
    opened: int = 0
    closed: int = 0
    asked: int = 0
    faults: int = 0
    refused: int = 0
    run: str = "r1"
    foreign: bool = False
    resumed: dict[str, int] = field(default_factory=dict)
    leaving: list[float] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.name}"

    @property
    def usable(self) -> bool:
        return self.state == "up"


class PretendFleet:
    """All of it; `now` moves by `pass_time` alone.

    Attributes:
        starts: whether the runtime starts and stops nodes.
        new: what a node that is started looks like.
        breaks_start: why no node can be started.
        balancers: by id, the generation that each applies; `deaf` ones do not follow.
        reachable: whether the world answers.
        uncounted: nodes that do not answer when they are asked for their counts.
        unheard: nodes that do not answer to orders.
        refuses_table: why no balancer takes another table.
        orders: every action that was carried out.
        witnesses: how they are, None before they were started.
        away: clients that were asked and are not back, None for unknown.
    """

    def __init__(self, *nodes: PretendNode, starts: bool = True) -> None:
        self.now = 0.0
        self.nodes = {node.name: node for node in nodes}
        self.starts = starts
        self.new = PretendNode("", "")
        self.breaks_start = ""
        self.generation = 0
        self.weights: dict[str, float] = {}
        self.balancers = {"b1": 0, "b2": 0}
        self.deaf: set[str] = set()
        self.silent: set[str] = set()
        self.reachable = True
        self.uncounted: set[str] = set()
        self.unheard: set[str] = set()
        self.refuses_table = ""
        self.orders: list[Action] = []
        self.witnesses: WitnessSeen | None = None
        self.most_away = 0
        self.away: int | None = None

    def colour(self, name: str) -> list[PretendNode]:
        """Its nodes."""
        return [node for node in self.nodes.values() if node.colour == name]

    def clients(self, colour: str) -> int:
        """Connections to its nodes."""
        return sum(node.clients for node in self.colour(colour))

    def pass_time(self, seconds: float) -> None:
        """Clients whose time has come leave, and arrive where the table sends them."""
        self.now += seconds
        for node in list(self.nodes.values()):
            gone = [at for at in node.leaving if at <= self.now]
            node.leaving = [at for at in node.leaving if at > self.now]
            for _ in gone[: max(0, node.clients - node.stays)]:
                node.clients -= 1
                node.closed += 1
                self._arrive(node.colour)
        for balancer in self.balancers:
            if balancer not in self.deaf:
                self.balancers[balancer] = self.generation

    def _arrive(self, asked_by: str = "") -> None:
        targets = [
            node
            for node in self.nodes.values()
            if node.usable and (self.generation == 0 or self.weights.get(node.colour, 0) > 0)
        ]
        if targets:
            target = min(targets, key=lambda node: node.clients)
            target.clients += 1
            target.opened += 1
            if asked_by:
                target.resumed[asked_by] = target.resumed.get(asked_by, 0) + 1
        else:
            self.most_away += 1

    def view(self) -> FleetView:
        """As the balancers show it."""
        balancers = (
            BalancerTraffic(id, generation, 60.0 if id in self.silent else 0.0)
            for id, generation in self.balancers.items()
        )
        colours = {node.colour for node in self.nodes.values()}
        held = sorted(colour for colour in colours if self.generation and not self.weights.get(colour))
        return FleetView(
            tuple(
                NodeView(
                    name="" if node.foreign else node.name,
                    url=node.url,
                    colour=node.colour,
                    version=node.version,
                    state=node.state,
                    usable=node.usable,
                    connections=node.clients,
                    capacity=node.capacity,
                    accepts_per_s=node.accepts_per_s,
                    lag_ms=node.lag_ms,
                )
                for node in self.nodes.values()
            ),
            TrafficState(self.generation, dict(self.weights), tuple(held), tuple(balancers)),
        )

    def counts(self, node: PretendNode) -> MoveCounts:
        """What it has counted."""
        return MoveCounts(
            node=node.name, run=node.run, colour=node.colour, version=node.version, connections=node.clients,
            opened=node.opened, closed=node.closed, asked=node.asked, cut=0, resumed=dict(node.resumed),
            returned={"0.5": sum(node.resumed.values()), "+Inf": sum(node.resumed.values())}, recovered=0,
            not_recovered=0, gaps=0, refused={"full": node.refused}, failed=node.faults, loop_lag_ms=node.lag_ms,
        )  # fmt: skip

    def _answering(self) -> list[PretendNode]:
        return [node for node in self.nodes.values() if node.state != "down" and node.name not in self.uncounted]

    def processes(self, colour: str) -> tuple[RuntimeNode, ...]:
        """Its nodes as the runtime knows them."""
        return tuple(RuntimeNode(node.name, node.colour, node.state != "down") for node in self.colour(colour))

    def put_traffic(self, expect: int, weights: dict[str, float], force: bool) -> bool:
        """Write the table; raises FleetRefused as a balancer does."""
        if self.refuses_table:
            raise FleetRefused(self.refuses_table)
        if expect != self.generation:
            return False
        ready = {node.colour for node in self.nodes.values() if node.usable}
        if not force and not ready & {colour for colour, weight in weights.items() if weight > 0}:
            raise FleetRefused(f"no ready backend for {weights}")
        self.generation, self.weights = self.generation + 1, dict(weights)
        return True

    def ensure(self, colour: str, count: int, version: str) -> None:
        """Start what is missing; raises RuntimeFailed."""
        if self.breaks_start:
            raise RuntimeFailed(self.breaks_start)
        for number in range(1, count + 1):
            name = f"{colour}-{number}"
            if name not in self.nodes:
                fresh = self.new
                self.nodes[name] = PretendNode(
                    name, colour, version=version, capacity=fresh.capacity, state=fresh.state,
                    accepts_per_s=fresh.accepts_per_s, unready=fresh.unready, smokes=fresh.smokes,
                )  # fmt: skip

    def move(self, name: str, count: int, over_ms: int) -> int:
        """Ask some clients of a node, spread over the time."""
        node = self._node(name)
        moving = max(0, min(count, node.clients - len(node.leaving) - node.stays))
        node.leaving += [self.now + over_ms / 1000 * (each + 1) / moving for each in range(moving)]
        node.asked += moving
        return moving

    def drain(self, name: str, over_ms: int) -> int:
        """Ask them all, and take no more."""
        node = self._node(name)
        node.state, node.leaving = "draining", []
        return self.move(name, node.clients, over_ms)

    def undrain(self, name: str) -> None:
        """Take connections again."""
        self._node(name).state = "up"

    def remove(self, colour: str) -> None:
        """End its nodes; clients that are still there come back somewhere else."""
        for node in self.colour(colour):
            del self.nodes[node.name]
            for _ in range(node.clients):
                self._arrive()

    def _node(self, name: str) -> PretendNode:
        if name not in self.nodes or self.nodes[name].state == "down":
            raise FleetUnreachable(f"{name} is gone")
        if name in self.unheard:
            raise FleetUnreachable(f"{name} does not answer")
        return self.nodes[name]

    def seen(self, found: Seen, state: str) -> Seen:
        """What a driver shows the machine."""
        view = self.view() if self.reachable else None
        return Seen(
            at=self.now,
            fleet=view,
            processes=tuple(
                each for node in sorted({n.colour for n in self.nodes.values()}) for each in self.processes(node)
            )
            if self.starts
            else None,
            counts={node.url: self.counts(node) for node in self._answering()},
            refusals=found.refusals,
            unready=found.unready,
            smoked=found.smoked,
            asked=found.asked,
            failed=found.failed,
            witnesses=self.witnesses,
            away=self.away,
            order=found.order,
            entered=found.entered,
        )

    def carry_out(self, actions: Iterable[Action], version: str = "") -> Seen:
        """Carry actions out as a driver does, and return what came back."""
        found: dict[str, object] = {}
        for action in actions:
            self.orders.append(action)
            try:
                found.update(self._one(action, version, found))
            except TrunklineError as error:
                if not (isinstance(action, PutTraffic) and isinstance(error, FleetUnreachable)):
                    found["failed"] = str(error)
        return Seen(self.now, **found)  # type: ignore[arg-type]

    def _one(self, action: Action, version: str, found: dict[str, object]) -> dict[str, object]:
        match action:
            case Preflight():
                return {"refusals": ()}
            case PutTraffic(expect, weights, force):
                self.put_traffic(expect, weights, force)
            case Ensure(colour, count):
                if self.starts:
                    self.ensure(colour, count, version)
            case AskReady(nodes):
                whys = (self.nodes[node.name].unready for node in nodes if node.name in self.nodes)
                return {"unready": "; ".join(filter(None, whys))}
            case Smoke(nodes):
                there = [self.nodes[node.name] for node in nodes if node.name in self.nodes]
                why = "; ".join(filter(None, (node.smokes for node in there)))
                return {"smoked": SmokeSeen(why, {node.url: node.accepts_per_s for node in there})}
            case StartWitnesses(count):
                self.witnesses = WitnessSeen(count, count)
            case Move(node, count, over_ms):
                asked = found.get("asked")
                return {"asked": (asked if isinstance(asked, int) else 0) + self.move(node.name, count, over_ms)}
            case Drain(node, over_ms):
                self.drain(node.name, over_ms)
            case Undrain(node):
                self.undrain(node.name)
            case Remove(colour):
                self.remove(colour)
        return {}


class PretendWorld:
    """The fleet as a `World`; its time passes with each look, `speed` times as fast as ours."""

    def __init__(self, fleet: PretendFleet, speed: float = 10.0) -> None:
        self.fleet = fleet
        self._speed = speed
        self._passed_at = time.monotonic()

    async def look(self) -> FleetView:
        now = time.monotonic()
        self.fleet.pass_time((now - self._passed_at) * self._speed)
        self._passed_at = now
        self._reach()
        return self.fleet.view()

    async def put_traffic(self, expect: int, weights: dict[str, float], *, force: bool = False) -> TrafficState | None:
        self._reach()
        return self.fleet.view().traffic if self.fleet.put_traffic(expect, weights, force) else None

    async def ready(self, node: NodeView) -> str:
        return self.fleet.nodes[node.name].unready if node.name in self.fleet.nodes else "it is gone"

    async def counts(self, node: NodeView) -> MoveCounts | None:
        self._reach()
        return self.fleet.counts(self.fleet.nodes[node.name]) if node.name in self.fleet.nodes else None

    async def move(self, node: NodeView, count: int, over_ms: int) -> int:
        self._reach()
        return self.fleet.move(node.name, count, over_ms)

    async def drain(self, node: NodeView, over_ms: int) -> int:
        self._reach()
        return self.fleet.drain(node.name, over_ms)

    async def undrain(self, node: NodeView) -> None:
        self._reach()
        self.fleet.undrain(node.name)

    def _reach(self) -> None:
        if not self.fleet.reachable:
            raise FleetUnreachable("no balancer can be reached")


class PretendRuntime:
    """The fleet's processes as a `Runtime`."""

    name = "pretend"

    def __init__(self, fleet: PretendFleet) -> None:
        self.fleet = fleet
        self.why = ""

    @property
    def starts(self) -> bool:
        return self.fleet.starts

    async def check(self, colour: str, what: What) -> str:
        return self.why

    async def list(self, colour: str) -> tuple[RuntimeNode, ...]:
        return self.fleet.processes(colour)

    async def ensure(self, colour: str, count: int, what: What) -> None:
        self.fleet.ensure(colour, count, what.version)

    async def remove(self, colour: str) -> None:
        self.fleet.remove(colour)

    async def logs(self, node: str, lines: int = 20) -> tuple[str, ...]:
        return ()

    async def close(self) -> None:
        return
