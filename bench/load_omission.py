"""Coordinated omission: a server stands still for 1 s in every 10 s; does the p99 that a generator reports show it?

A tenth of all messages is due while the server stands still, and waits for what is left of that second: one in a
hundred waits longer than 0.9 of it, which is what p99 has to say. A closed loop sends one message a connection into
the stall and none of those that were due after it, so its p99 is that of the good times.
"""

from __future__ import annotations

import statistics
import time

from bench.bare_echo import bare_echo
from bench.generators import OURS, WEBSOCKETS, Load, trunkline_load, websockets_client
from bench.rows import Options, Result, Row

CONNECTIONS = 20
CLOSED_LOOP = f"{WEBSOCKETS}, closed loop"
OFF = 0.1
"""Share by which the p99 may differ from the true one."""


def run(options: Options) -> Result:
    """Measure it."""
    # Between stalls a connection sends so often that the one message it has in a stall is not one in a hundred.
    every_s, rate_each, stalls = (1.5, 140.0, 2) if options.quick else (10.0, 20.0, 3)
    stall_s, duration_s = every_s / 10, every_s * stalls
    true_ms = 0.9 * stall_s * 1000
    ours, closed, late = [], [], []
    with bare_echo(stall_s=stall_s, every_s=every_s) as server:
        load = Load(f"ws://127.0.0.1:{server.port}/", CONNECTIONS, rate_each * CONNECTIONS, duration_s)
        for _ in range(options.runs):
            _wait_over(every_s, stall_s)
            report, _ = trunkline_load(
                load.url, duration_s, "--connections", str(CONNECTIONS), "--duration", f"{duration_s:g}s",
                "--rate", f"{load.rate:g}", "--processes", "1", "--protocol", "echo",
            )  # fmt: skip
            ours.append(report.latencies["round_trip"].quantiles.p99)
            late.append(report.latencies["lag"].quantiles.p99)
            _wait_over(every_s, stall_s)
            closed.append(websockets_client(load, "closed").p99_ms or 0.0)
    what = f"stalls of {stall_s:g} s in every {every_s:g} s"
    off = statistics.median(abs(each - true_ms) / true_ms for each in ours)
    return Result(
        [
            Row(f"{what}: p99", statistics.median(ours), "ms", CLOSED_LOOP, statistics.median(closed)),
            Row(f"{what}: p99 off the true {true_ms:g} ms", off, "of 1", target=OFF),
            Row(f"{what}: the generator's own lag p99", statistics.median(late), "ms"),
        ],
        [
            f"Both mean to send {load.rate:,.0f} messages a second over {CONNECTIONS} connections for {duration_s:g} s."
            f" Here the greater figure is the better: {OURS} counts from the moment a message was due; the closed loop"
            " counts from when it was sent at last, and never sends what was due meanwhile."
        ],
    )


def _wait_over(every_s: float, stall_s: float) -> None:
    """Wait until a stall has just ended: a run then has whole ones only (they are on the grid of the shared clock)."""
    into_s = time.monotonic() % every_s
    if into_s > stall_s + 0.1 * every_s:
        time.sleep(every_s - into_s + stall_s)
