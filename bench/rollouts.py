"""A rolling update that others drive, through our relay: six new nodes come, then six old ones get SIGTERM.

No tool of ours takes part. The old nodes end one after another, and in another run all at the same moment. Clients
follow a channel with publications all the time; each should move once, to a node of the new version, and nothing may
be lost. What the new nodes accept is limited, so that the peak of reconnects can be held against it.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from bench.deploys import END_S, LAST_S
from bench.followers import Followers, Scene
from bench.nats_child import NatsChild
from bench.proxies import Proxy, relay
from bench.rows import Options, Result, Row
from bench.servers import Server, ours
from bench.swarm import Publisher, frame

CHANNEL = "public.bench"
NODES = 6
KNOWN_S = 7.0
"""A balancer that finds no order of versions listens for five seconds before it begins one."""

PEAK = 0.8
"""Most of what the new nodes accept that may come within a second."""


class Plan:
    """Sizes of a run."""

    def __init__(self, *, quick: bool) -> None:
        self.clients = 120 if quick else 3_000
        self.publications_per_s = 10.0 if quick else 2.0
        self.around_s = 0.3 if quick else 2.0
        self.drain_ms = 500 if quick else 5_000
        self.accept_per_s = 20.0 if quick else 100.0

    @property
    def limit_per_s(self) -> float:
        """Handshakes that the new nodes take, all together."""
        return NODES * self.accept_per_s


def run(options: Options) -> Result:
    """Measure both orders once; a quick run has the second one alone."""
    plan = Plan(quick=options.quick)
    rows: list[Row] = []
    if not options.quick:
        rows += _update(plan, "one after another", together=False)
    rows += _update(plan, "all at once", together=True)
    how = (
        f"{NODES} old and {NODES} new nodes with drain_ms {plan.drain_ms:,}; the new ones accept {plan.accept_per_s:g} "
        f"handshakes/s each; {plan.clients:,} clients, {plan.publications_per_s:g} publications a second to each. "
        "Peak: handshakes begun by clients within one second."
    )
    return Result(rows, [how])


def _update(plan: Plan, name: str, *, together: bool) -> list[Row]:
    # Clients go first in the end: nodes and relay would wait for them.
    with ThreadPoolExecutor(max_workers=NODES) as ends, ExitStack() as stack, ExitStack() as clients:
        nats = stack.enter_context(NatsChild())
        old = [stack.enter_context(_node(plan, nats.url, f"old-{number}", "1")) for number in range(NODES)]
        edge = stack.enter_context(Proxy(relay(TRUNKLINE_BUS_URL=nats.url)))
        time.sleep(KNOWN_S)
        followers = clients.enter_context(Followers(edge, CHANNEL, plan.clients, of=old[0]))
        limit = {"TRUNKLINE_LIMITS_ACCEPT_PER_S": str(plan.accept_per_s)}
        new = [stack.enter_context(_node(plan, nats.url, f"new-{number}", "2", **limit)) for number in range(NODES)]
        publisher = clients.enter_context(Publisher(new[0]))
        scene = Scene(followers, lambda number: publisher.send(_publication(number)), plan.publications_per_s)
        # A node reports every two seconds, and the balancer looks for versions every second.
        scene.go_on(3.0 + plan.around_s)
        began = time.monotonic()
        ending: list[Future[None]] = []
        for node in old:
            ending.append(ends.submit(node.end, END_S))
            if not together:
                scene.until(ending[-1].done, "a node to end", 2 * END_S)
        scene.until(lambda: all(each.done() for each in ending), "all old nodes to end", 2 * END_S)
        for each in ending:
            each.result()
        scene.until(lambda: followers.subscribed == plan.clients, "all clients to be back", 2 * END_S)
        took_s = time.monotonic() - began
        scene.go_on(plan.around_s)
        publisher.wait_acknowledged(scene.published)
        scene.read_out(LAST_S)
    return _rows(plan, name, scene, took_s)


def _rows(plan: Plan, name: str, scene: Scene, took_s: float) -> list[Row]:
    followers, of = scene.followers, f"of {plan.clients:,}"
    peak = followers.peak_per_s()
    away = sorted(followers.away_s) or [0.0]
    deliveries = f"of {plan.clients * scene.published:,}"
    return [
        Row(f"{name}: clients that did not move once", sum(n != 1 for n in followers.moves), of, target=0),
        Row(f"{name}: connections cut without a goodbye", followers.cut, of, target=0),
        Row(f"{name}: publications lost", scene.lost, deliveries, target=0, note=f"{followers.repeated} twice"),
        Row(f"{name}: told that something is gone", followers.gaps, "times", target=0),
        Row(f"{name}: handshakes refused", followers.refused, f"of {len(followers.attempts):,}"),
        Row(f"{name}: peak reconnects", peak, "/s", "what is accepted", plan.limit_per_s, PEAK),
        Row(f"{name}: away p50", away[len(away) // 2], "s"),
        Row(f"{name}: away p99", away[len(away) * 99 // 100], "s", note=f"all done after {took_s:.1f} s"),
    ]


def _node(plan: Plan, bus: str, name: str, version: str, **more: str) -> Server:
    return Server(
        ours(
            TRUNKLINE_BUS_URL=bus,
            TRUNKLINE_SERVER_NAME=name,
            TRUNKLINE_SERVER_VERSION=version,
            TRUNKLINE_SERVER_DRAIN_MS=str(plan.drain_ms),
            **more,
        )
    )


def _publication(number: int) -> bytes:
    return frame(b'{"type":"publish","channel":"%b","data":{"n":%d}}' % (CHANNEL.encode(), number))
