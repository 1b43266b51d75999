"""Every node replaced under clients that follow a channel: what they notice of it.

Publications flow all the time. Each client counts what it gets; a connection counts as cut when it ended without the
client having been asked to move. Beside it, nodes are restarted plainly, one after the other, behind a stock proxy
that checks their health twice a second: a node gets SIGTERM, is started again once it has ended, and the next one
follows when all clients are back. Two kinds of nodes are restarted so: a feed on `websockets`, as many run it, and
ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

from bench.followers import Followers, Scene
from bench.nats_child import NatsChild
from bench.proxies import LEASTCONN, WRR, installed, proxy
from bench.rows import Options, Result, Row
from bench.servers import Contender, Server, feed_on_websockets, free_port, ours
from bench.swarm import Publisher, frame

CHANNEL = "public.bench"
NODES = 2
END_S = 60.0
"""A node that was asked to end has at most so long."""

LAST_S = 3.0
"""What has not come so long after the last publication is lost."""


class Plan:
    """Sizes of a run."""

    def __init__(self, *, quick: bool) -> None:
        self.clients = 200 if quick else 4_000
        self.publications_per_s = 20.0 if quick else 5.0
        self.around_s = 0.3 if quick else 2.0
        self.drain_ms = 1_000 if quick else 10_000


class Found(NamedTuple):
    """What the clients noticed.

    Attributes:
        deliveries: publications, times clients.
        away_s: half of the times without the subscription were at most so long, and 99 of 100.
        took_s: from the first order to the last client's return.
    """

    clients: int
    cut: int
    moves: int
    deliveries: int
    lost: int
    told: int
    repeated: int
    refused: int
    peak_per_s: int
    away_s: tuple[float, float]
    took_s: float


def run(options: Options) -> Result:
    """Measure each once: a run of thousands of clients is a mean of its own. A quick run has one proxy."""
    plan = Plan(quick=options.quick)
    proxies, missing = installed(*((LEASTCONN,) if options.quick else (WRR, LEASTCONN)))
    found = {f"{name}, {kind} nodes restarted": restarted(plan, name, kind) for kind in KINDS for name in proxies}
    rows = [row for name, each in found.items() for row in _rows(name, each)]
    how = (
        f"{NODES} nodes, {plan.clients:,} clients, {plan.publications_per_s:g} publications a second to each. A client "
        "that lost its connection comes back after a random part of 0.5 s, one that was asked to move after the time "
        "that it was given. Peak: handshakes begun by clients within one second."
    )
    return Result(rows, [how, *missing])


def _rows(name: str, found: Found) -> list[Row]:
    of = f"{found.clients:,} clients"
    return [
        Row(f"{name}: connections cut", found.cut, of, note=f"{found.moves:,} asked to move"),
        Row(f"{name}: publications lost", found.lost, f"of {found.deliveries:,}", note=f"{found.repeated} twice"),
        Row(f"{name}: peak reconnects", found.peak_per_s, "/s", note=f"{found.refused:,} refused"),
        Row(f"{name}: away p50", found.away_s[0], "s"),
        Row(f"{name}: away p99", found.away_s[1], "s", note=f"all done after {found.took_s:.1f} s"),
    ]


# --- plain restarts ---------------------------------------------------------------------------------------------------


class Nodes:
    """Nodes that are restarted one by one, each on its own port.

    Args:
        make: what to start, by number.

    Attributes:
        servers: by number.
        health: path by which a proxy learns whether a node takes clients.
    """

    health = "/health"

    def __init__(self, make: Callable[[int], Contender]) -> None:
        self._make = make
        self.servers = [Server(make(number), port=free_port()) for number in range(NODES)]

    def publish(self, number: int) -> None:
        """Publish one that all clients should get."""
        raise NotImplementedError

    def leaves(self, number: int) -> None:
        """A node is about to be restarted."""

    def is_back(self, number: int) -> None:
        """It serves again."""

    def restart(self, number: int) -> None:
        """Ask a node to end, and start it again once it has."""
        self.servers[number].end(END_S)
        self.servers[number] = Server(self._make(number), port=self.servers[number].port)

    def stop(self) -> None:
        """End all."""
        for server in self.servers:
            server.stop()


class Feeds(Nodes):
    """Nodes on `websockets`: each is told every publication, as by a Redis channel."""

    def __init__(self, plan: Plan, stack: ExitStack) -> None:
        super().__init__(lambda number: feed_on_websockets())
        stack.callback(self.stop)
        self._told = {number: Publisher(server) for number, server in enumerate(self.servers)}

    def publish(self, number: int) -> None:
        for publisher in self._told.values():
            publisher.send(frame(_publication(number)))

    def leaves(self, number: int) -> None:
        self._told.pop(number).close()

    def is_back(self, number: int) -> None:
        self._told[number] = Publisher(self.servers[number])


class OurNodes(Nodes):
    """Ours over NATS; another node, which no client reaches, publishes."""

    health = "/ready"

    def __init__(self, plan: Plan, stack: ExitStack) -> None:
        self._drain_ms = plan.drain_ms
        self._bus = stack.enter_context(NatsChild()).url
        super().__init__(lambda number: self._node(f"node-{number + 1}"))
        stack.callback(self.stop)
        self._publisher = stack.enter_context(Publisher(stack.enter_context(Server(self._node("publisher")))))

    def publish(self, number: int) -> None:
        message = b'{"type":"publish","channel":"%b","data":%b}' % (CHANNEL.encode(), _publication(number))
        self._publisher.send(frame(message))

    def _node(self, name: str) -> Contender:
        return ours(
            TRUNKLINE_BUS_URL=self._bus,
            TRUNKLINE_SERVER_NAME=name,
            TRUNKLINE_SERVER_DRAIN_MS=str(self._drain_ms),
        )


KINDS: dict[str, Callable[[Plan, ExitStack], Nodes]] = {"websockets": Feeds, "our": OurNodes}


def restarted(plan: Plan, edge: str, kind: str) -> Found:
    """Restart all nodes behind a stock proxy."""
    # A child dies with the thread that started it, so the one that restarts has to stay until the end.
    with ThreadPoolExecutor(max_workers=1) as restarts, ExitStack() as stack, ExitStack() as clients:
        nodes = restarts.submit(KINDS[kind], plan, stack).result()
        before = stack.enter_context(proxy(edge, [_url(server) for server in nodes.servers], health=nodes.health))
        followers = clients.enter_context(Followers(before, CHANNEL, plan.clients, of=nodes.servers[0]))
        scene = Scene(followers, nodes.publish, plan.publications_per_s)
        scene.go_on(plan.around_s)
        began = time.monotonic()
        for number in range(NODES):
            nodes.leaves(number)
            restarting = restarts.submit(nodes.restart, number)
            scene.until(restarting.done, "a node to restart", 2 * END_S)
            restarting.result()
            nodes.is_back(number)
            scene.until(lambda: followers.subscribed == plan.clients, "all clients to be back", 2 * END_S)
            took_s = time.monotonic() - began
            scene.go_on(plan.around_s)
        scene.read_out(LAST_S)
        return noticed(scene, plan, took_s)


def noticed(scene: Scene, plan: Plan, took_s: float) -> Found:
    """What the clients have to tell in the end."""
    followers = scene.followers
    away = sorted(followers.away_s) or [0.0]
    return Found(
        clients=plan.clients,
        cut=followers.cut,
        moves=sum(followers.moves),
        deliveries=plan.clients * scene.published,
        lost=scene.lost,
        told=followers.gaps,
        repeated=followers.repeated,
        refused=followers.refused,
        peak_per_s=followers.peak_per_s(),
        away_s=(away[len(away) // 2], away[len(away) * 99 // 100]),
        took_s=took_s,
    )


def _url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def _publication(number: int) -> bytes:
    return b'{"n":%d,"text":"%b"}' % (number, b"x" * 40)
