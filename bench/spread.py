"""How even connections are over the backends, as these count them, with each balancer: fresh, and after disturbances.

1. fresh: a burst.
2. restart: one backend is killed and started again; when it is up, its clients come back at once, and some more.
3. restart and reload: another backend is killed and started again, then the balancer reads a configuration that means
   the same (as it does when any container comes or goes); then as in 2. The balancer has to have kept its counts.

Everybody could know the truth when clients come back: backends are up for seconds, and reports have been asked for.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

from bench.backend import Backends
from bench.errors import BenchError
from bench.proxies import (
    LEAST_CONN,
    LEASTCONN,
    LEASTTIME,
    P2C,
    RELAY,
    STEERED,
    WRR,
    Proxy,
    Steered,
    installed,
    proxy,
)
from bench.rows import Options, Result, Row
from bench.swarm import PATIENCE_S, Swarm

SITUATIONS = ("fresh", "after a backend's restart", "after a backend's restart and a reload")
OURS = (STEERED, RELAY)
OTHERS = (WRR, P2C, LEASTTIME, LEASTCONN, LEAST_CONN)
TARGET = 1.0
BACKENDS = 5
RECOVER_S = 2.5
"""After a restart: four health checks."""


def run(options: Options) -> Result:
    """Measure all that are installed, in turn."""
    names, missing = installed(*OURS, *OTHERS)
    runs = min(options.runs, 3)
    spreads: dict[str, list[list[tuple[int, float]]]] = {name: [] for name in names}
    with Backends(BACKENDS, apart=True) as backends:
        for _ in range(runs):
            for name in names:
                spreads[name].append(_measure(name, backends, options.quick))
                backends.wait_empty()
    rows: list[Row] = []
    for ours in OURS:
        if ours not in spreads:
            continue
        for index, situation in enumerate(SITUATIONS):
            worst, note = _worst(spreads[ours], index)
            rows.append(Row(f"{ours}, {situation}", worst, "max - min", target=TARGET, note=note))
    best = OURS[0] if OURS[0] in spreads else OURS[1]
    for index, situation in enumerate(SITUATIONS):
        mine, _ = _worst(spreads[best], index)
        for name in OTHERS:
            if name in spreads:
                theirs, note = _worst(spreads[name], index)
                rows.append(Row(f"{situation}, {best}", mine, "max - min", name, theirs, note=f"theirs: {note}"))
    first, more = _sizes(options.quick)
    how = (
        f"{first} connections at once over {BACKENDS} backends; then those of the restarted backend and {more} more at "
        f"once; then again. The worst of {runs} rounds. Backends' health is checked twice a second by all; nginx has "
        "its own passive checks, its workers share their counts; HAProxy and Traefik have as many threads as they "
        "like. HAProxy's and nginx's reloads leave the old process with its connections and start a new one."
    )
    return Result(rows, [how, *missing])


def _worst(rounds: list[list[tuple[int, float]]], index: int) -> tuple[int, str]:
    ratio = statistics.median(each[index][1] for each in rounds)
    return max(each[index][0] for each in rounds), f"max/mean {ratio:.2f}"


def _sizes(quick: bool) -> tuple[int, int]:
    return (60, 30) if quick else (300, 150)


def _measure(name: str, backends: Backends, quick: bool) -> list[tuple[int, float]]:
    """Spread and max/mean in each situation."""
    first, more = _sizes(quick)
    options = {"cache_ttl": "1s" if quick else "10s"} if name == STEERED else {}
    found = []
    with ExitStack() as stack:
        running = stack.enter_context(proxy(name, backends.urls, **options))
        swarms = [stack.enter_context(Swarm(running, "/ws", first, wave=first))]
        found.append(_spread(backends, first))
        opened = first
        for index, reload in ((0, False), (1, True)):
            lost = _restart(backends, index, swarms, running)
            if name == STEERED:
                _next_reports(backends)
            time.sleep(0.6 if quick else RECOVER_S)
            if reload:
                running.reload()
            swarms.append(stack.enter_context(Swarm(running, "/ws", lost + more, wave=lost + more)))
            found.append(_spread(backends, sum(len(swarm.sockets) for swarm in swarms)))
            opened += lost + more
        if isinstance(running, Steered):
            running.check_picks(opened)
    return found


def _restart(backends: Backends, index: int, swarms: list[Swarm], running: Proxy) -> int:
    """Restart a backend; returns how many clients lost their connection, which is all that it had."""
    had = backends.counts()[index]
    backends.kill(index)
    lost = 0
    deadline = time.monotonic() + PATIENCE_S
    while lost < had:
        if time.monotonic() > deadline:
            raise BenchError(f"{running.name} ended {lost} of {had} connections whose backend was killed")
        lost += sum(swarm.forget_ended() for swarm in swarms)
        time.sleep(0.02)
    backends.start(index)
    return lost


def _next_reports(backends: Backends) -> None:
    """Wait until every backend has been asked for its load since now."""
    before = backends.asked()
    deadline = time.monotonic() + 2 * PATIENCE_S
    while any(now <= then for now, then in zip(backends.asked(), before, strict=True)):
        if time.monotonic() > deadline:
            raise BenchError("the steering balancer did not ask for load reports")
        time.sleep(0.05)


def _spread(backends: Backends, expected: int) -> tuple[int, float]:
    counts = backends.counts()
    if sum(counts) != expected:
        raise BenchError(f"of {expected} connections the backends count {counts}")
    return max(counts) - min(counts), max(counts) / statistics.mean(counts)
