"""300 connections at once over 3, 5 and 8 foreign backends, through one relay process and through two.

The backends say how many connections they have once, before the burst, and not again while it lasts: the reports that
the relays go by are 30 s old when it comes. The figure is what the backends themselves count.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

from bench.backend import Backends
from bench.errors import BenchError
from bench.nats_child import NatsChild
from bench.proxies import Proxy, relay
from bench.rows import Options, Result, Row
from bench.swarm import Swarm

BURST = 300
REPORT_AGE_S = 30.0
SETTLE_S = 2.0
"""Between two bursts: until each relay has heard of the ends of the other's connections."""

TARGETS = {1: 1.0, 2: 2.0}
"""Fullest minus emptiest, by relays."""

_NOTE = (
    "Two relays share their picks over NATS; connections go to them in turn. No backend was asked for its load again "
    "between the first report and the last burst."
)


def run(options: Options) -> Result:
    """Measure it: all fleets are started, get old together, and take their bursts one after the other."""
    sizes = (3,) if options.quick else (3, 5, 8)
    age_s = 0.5 if options.quick else REPORT_AGE_S
    burst = 60 if options.quick else BURST
    rows: list[Row] = []
    with ExitStack() as stack:
        fleets = [_fleet(stack, size, relays) for relays in TARGETS for size in sizes]
        began = time.monotonic()
        time.sleep(age_s)
        for backends, relays in fleets:
            aged_s = time.monotonic() - began
            asked = backends.asked()
            spreads = []
            for number in range(options.runs):
                if number:
                    time.sleep(SETTLE_S)
                spreads.append(_burst(backends, relays, burst))
            if backends.asked() != asked:
                raise BenchError("a relay asked for reports between the bursts; they were not old")
            processes = "one relay" if len(relays) == 1 else f"{len(relays)} relays"
            what = f"burst of {burst} over {len(backends.ports)} backends, {processes}"
            mean = f"worst of {len(spreads)} bursts, mean {statistics.mean(spreads):.2f}; reports {aged_s:.0f} s old"
            rows.append(Row(what, max(spreads), "max - min", target=TARGETS[len(relays)], note=mean))
    return Result(rows, [_NOTE])


def _fleet(stack: ExitStack, size: int, relays: int) -> tuple[Backends, list[Proxy]]:
    backends = stack.enter_context(Backends(size))
    more = {}
    if relays > 1:
        more["TRUNKLINE_BUS_URL"] = stack.enter_context(NatsChild()).url
    arguments = ("--cache-ttl", "3600s")
    running = [
        stack.enter_context(Proxy(relay(backends.urls, arguments=arguments, name=f"relay {number + 1}", **more)))
        for number in range(relays)
    ]
    return backends, running


def _burst(backends: Backends, relays: list[Proxy], burst: int) -> int:
    with Swarm(relays[0], "/ws", burst, wave=burst, also=relays[1:]) as swarm:
        counts = backends.counts()
        if sum(counts) != burst or swarm.forget_ended():
            raise BenchError(f"of {burst} connections the backends count {counts}")
    backends.wait_empty()
    return max(counts) - min(counts)
