"""Two nodes become four under clients that follow a channel through our relay: how soon it is even, and what is lost.

Nodes announce themselves over NATS, and the relay asks as many clients a second to move as `balancer.rebalance_per_s`
allows. Publications flow all the time. A client that is told to go comes back with its position; at the end everybody
must have had every publication, once and in order.
"""

from __future__ import annotations

import http.client
import json
import time
from contextlib import ExitStack

from bench.errors import BenchError
from bench.followers import Followers
from bench.nats_child import NatsChild
from bench.proxies import Proxy, relay
from bench.rows import Options, Result, Row
from bench.servers import Server, ours
from bench.swarm import PATIENCE_S, Publisher, frame

CHANNEL = "public.bench"
EVEN = 1.05
"""Fullest node beside the mean."""

IN_TIME = 1.1
"""Noticing that it is uneven, and a client's way back, take time beside that of the rate."""

LOOK_S = 0.25


class Plan:
    """Sizes of a run."""

    def __init__(self, *, quick: bool) -> None:
        self.clients = 200 if quick else 4_000
        self.per_s = 100.0 if quick else 50.0
        self.delay_s = 0.5 if quick else 5.0
        self.slow_start_s = 0.0 if quick else 10.0
        self.publications_per_s = 5.0 if quick else 2.0
        self.before_s = 0.4 if quick else 2.0
        self.after_s = 0.5 if quick else 8.0


def run(options: Options) -> Result:
    """Measure it, once: it takes as long as the rate says."""
    plan = Plan(quick=options.quick)
    # Clients go first in the end: nodes and relay would wait for them.
    with ExitStack() as stack, ExitStack() as clients:
        nats = stack.enter_context(NatsChild())
        nodes = [stack.enter_context(_node(nats.url, number)) for number in range(2)]
        edge = stack.enter_context(
            Proxy(
                relay(
                    TRUNKLINE_BUS_URL=nats.url,
                    TRUNKLINE_BALANCER_REBALANCE_PER_S=str(plan.per_s),
                    TRUNKLINE_BALANCER_REBALANCE_DELAY_MS=str(int(plan.delay_s * 1000)),
                    TRUNKLINE_BALANCER_SLOW_START_MS=str(int(plan.slow_start_s * 1000)),
                )
            )
        )
        # Until it has heard of both (they speak every 2 s), and the one it heard of later has its whole share.
        time.sleep(2.2 + plan.slow_start_s)
        followers = clients.enter_context(Followers(edge, CHANNEL, plan.clients))
        publisher = clients.enter_context(Publisher(nodes[0]))
        scene = _Scene(plan, nodes, followers, publisher)
        scene.go_on(plan.before_s)
        before = scene.counts()
        nodes += [stack.enter_context(_node(nats.url, number)) for number in (2, 3)]
        mean = plan.clients / len(nodes)
        to_move = sum(max(0.0, count - EVEN * mean) for count in before)
        allowed_s = plan.delay_s + to_move / plan.per_s
        took_s = scene.until_even(2 * allowed_s + PATIENCE_S)
        scene.go_on(plan.after_s)
        counts = scene.counts()
        scene.until_all_have_all()
    return Result(_rows(scene, took_s, allowed_s, counts), _notes(plan, followers, before, counts, to_move))


class _Scene:
    """Keeps clients and publisher going while something is waited for."""

    def __init__(self, plan: Plan, nodes: list[Server], followers: Followers, publisher: Publisher) -> None:
        self.plan = plan
        self.nodes = nodes
        self.followers = followers
        self.published = 0
        self._publisher = publisher
        self._due = time.monotonic()

    def counts(self) -> list[int]:
        """Connections of each node, by its own count."""
        return [_connections(node) for node in self.nodes]

    def go_on(self, seconds: float) -> None:
        """Publish and follow for so long."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            if now >= self._due:
                data = b'{"n":%d,"text":"%b"}' % (self.published, b"x" * 40)
                self._publisher.send(frame(b'{"type":"publish","channel":"%b","data":%b}' % (CHANNEL.encode(), data)))
                self.published += 1
                self._due = max(self._due + 1 / self.plan.publications_per_s, now)
            self.followers.step(min(end, self._due) - now)

    def until_even(self, limit_s: float) -> float:
        """Go on until no node has more than `EVEN` times the mean; returns how long that took."""
        began = time.monotonic()
        while True:
            counts = self.counts()
            if max(counts) <= EVEN * self.plan.clients / len(counts):
                return time.monotonic() - began
            if time.monotonic() - began > limit_s:
                raise BenchError(f"the nodes still have {counts} connections after {limit_s:.0f} s")
            self.go_on(LOOK_S)

    def until_all_have_all(self) -> None:
        """Publish no more, and read until nothing is missing; what does not come counts as lost."""
        self._publisher.wait_acknowledged(self.published)
        deadline = time.monotonic() + PATIENCE_S
        while self.followers.behind(self.published) and time.monotonic() < deadline:
            self.followers.step(0.1)


def _rows(scene: _Scene, took_s: float, allowed_s: float, counts: list[int]) -> list[Row]:
    followers, clients = scene.followers, scene.plan.clients
    deliveries = f"of {clients * scene.published:,}"
    what = f"2 to 4 nodes, {clients:,} clients"
    # What was skipped never comes; what broke a chain is among it, unless the client was told that it cannot recover.
    lost = max(followers.behind(scene.published), followers.lost)
    ratio = max(counts) / (clients / len(counts))
    return [
        Row(f"{what}: until even within 5 %", took_s, "s", "what the rate allows", allowed_s, IN_TIME),
        Row(f"{what}: publications lost by recovering clients", lost, deliveries, target=0),
        Row(f"{what}: publications twice or out of order", followers.repeated, deliveries, target=0),
        Row(f"{what}: fullest beside the mean at the end", ratio, "max/mean", target=EVEN),
        Row(f"{what}: connections cut without a goodbye", followers.cut, f"of {clients:,}", target=0),
        Row(f"{what}: clients moved more than once", sum(n > 1 for n in followers.moves), f"of {clients:,}"),
    ]


def _notes(plan: Plan, followers: Followers, before: list[int], counts: list[int], to_move: float) -> list[str]:
    return [
        f"Before {before}, at the end {counts} connections (the publisher is one of them); {sum(followers.moves):,} "
        f"moves, {to_move:,.0f} were needed to be within 5 %; {plan.per_s:g} a second are allowed, after "
        f"{plan.delay_s:g} s in which it must have been uneven; slow start {plan.slow_start_s:g} s; "
        f"{followers.refused} handshakes refused; {plan.publications_per_s:g} publications a second.",
    ]


def _node(bus: str, number: int) -> Server:
    return Server(ours(TRUNKLINE_BUS_URL=bus, TRUNKLINE_SERVER_NAME=f"node-{number + 1}"))


def _connections(node: Server) -> int:
    connection = http.client.HTTPConnection(*node.address, timeout=10)
    try:
        connection.request("GET", "/metric")
        count: int = json.loads(connection.getresponse().read())["agentsConnections"]
        return count
    finally:
        connection.close()
