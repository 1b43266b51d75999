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

from bench.followers import Followers, Scene
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
        followers = clients.enter_context(Followers(edge, CHANNEL, plan.clients, of=nodes[0]))
        publisher = clients.enter_context(Publisher(nodes[0]))
        scene = Scene(followers, lambda number: publisher.send(_publication(number)), plan.publications_per_s)
        scene.go_on(plan.before_s)
        before = _counts(nodes)
        nodes += [stack.enter_context(_node(nats.url, number)) for number in (2, 3)]
        mean = plan.clients / len(nodes)
        to_move = sum(max(0.0, count - EVEN * mean) for count in before)
        allowed_s = plan.delay_s + to_move / plan.per_s
        most = EVEN * mean
        took_s = scene.until(
            lambda: max(_counts(nodes)) <= most, "the nodes to be even", 2 * allowed_s + PATIENCE_S, look_s=LOOK_S
        )
        scene.go_on(plan.after_s)
        counts = _counts(nodes)
        publisher.wait_acknowledged(scene.published)
        scene.read_out()
    return Result(_rows(plan, scene, took_s, allowed_s, counts), _notes(plan, followers, before, counts, to_move))


def _rows(plan: Plan, scene: Scene, took_s: float, allowed_s: float, counts: list[int]) -> list[Row]:
    followers, clients = scene.followers, plan.clients
    deliveries = f"of {clients * scene.published:,}"
    what = f"2 to 4 nodes, {clients:,} clients"
    ratio = max(counts) / (clients / len(counts))
    return [
        Row(f"{what}: until even within 5 %", took_s, "s", "what the rate allows", allowed_s, IN_TIME),
        Row(f"{what}: publications lost by recovering clients", scene.lost, deliveries, target=0),
        Row(f"{what}: publications twice or out of order", followers.repeated, deliveries, target=0),
        Row(f"{what}: told that something is gone", followers.gaps, "times", target=0),
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


def _publication(number: int) -> bytes:
    data = b'{"n":%d,"text":"%b"}' % (number, b"x" * 40)
    return frame(b'{"type":"publish","channel":"%b","data":%b}' % (CHANNEL.encode(), data))


def _counts(nodes: list[Server]) -> list[int]:
    """Connections of each node, by its own count."""
    return [_connections(node) for node in nodes]


def _connections(node: Server) -> int:
    connection = http.client.HTTPConnection(*node.address, timeout=10)
    try:
        connection.request("GET", "/metric")
        count: int = json.loads(connection.getresponse().read())["agentsConnections"]
        return count
    finally:
        connection.close()
