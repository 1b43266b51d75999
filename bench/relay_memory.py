"""Memory that an idle relayed connection takes in a proxy: what it has written to, with them minus before them."""

from __future__ import annotations

import time

from bench.backend import Backends
from bench.errors import BenchError
from bench.proxies import HAPROXY, NGINX, RELAY, TRAEFIK, installed, proxy
from bench.relay import OPTIONS
from bench.rows import Options, Result, Row, compare, in_turn
from bench.swarm import Swarm

TARGETS = {HAPROXY: 0.6, NGINX: 0.2, TRAEFIK: 0.04}
SETTLE_S = 2.0
"""Proxies give back what a handshake needed some time after it."""


def run(options: Options) -> Result:
    """Measure it, with a fresh process each time."""
    names, missing = installed(RELAY, *TARGETS)
    rows: list[Row] = []
    with Backends(1) as backends:
        for count in (300,) if options.quick else (2_000, 5_000):
            figures = in_turn(
                names,
                options.runs,
                lambda name, count=count: _measure(name, backends, count, options.quick),  # type: ignore[misc]
            )
            rows += compare(f"idle relayed connection, of {count:,}", figures, "KB", TARGETS, RELAY)
    how = (
        "Private dirty pages of all processes of the proxy, with the connections minus before them, after 50 others "
        "have come and gone. Memory of the kernel's socket buffers is not in these figures."
    )
    return Result(rows, [how, *missing])


def _measure(name: str, backends: Backends, count: int, quick: bool) -> float:
    settle_s = 0.3 if quick else SETTLE_S
    with proxy(name, backends.urls, **OPTIONS.get(name, {})) as running:
        with Swarm(running, "/ws", 50):
            # What is loaded or compiled at the first connections is no cost of a connection.
            time.sleep(0.2)
        time.sleep(settle_s)
        before = running.private_dirty()
        with Swarm(running, "/ws", count):
            time.sleep(settle_s)
            after = running.private_dirty()
            if backends.counts() != [count]:
                raise BenchError(f"of {count} connections the backend counts {backends.counts()}")
        return (after - before) / count / 1024
