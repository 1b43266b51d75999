"""How many connections the load generator holds, and how many it opens a second, against a bare echo server.

Each connection has to echo: while all are open, each is sent a message, and none is lost or unanswered.
"""

from __future__ import annotations

import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

from bench.bare_echo import bare_echo
from bench.generators import trunkline_load
from bench.rows import Options, Result, Row
from bench.spent import Spent
from trunkline.load.model.report import Report

SIZES = {1: 15_000, 4: 50_000}
"""Connections by generator processes."""

QUICK_SIZES = {2: 600}
FEW = 50
"""Connections of the run whose memory is subtracted."""

OPENED_PER_S = 1_200
"""Over all processes, for they share two cores with the server's."""

HOLD_S, FEW_S, SUDDEN_S = 30.0, 3.0, 5.0
QUICK_HOLD_S, QUICK_S = 3.0, 1.0
SUDDEN = 5_000
CONNECTS_PER_S = 3_000


def run(options: Options) -> Result:
    """Measure it."""
    rows: list[Row] = []
    for processes, count in (QUICK_SIZES if options.quick else SIZES).items():
        rows += _hold(processes, count, *((QUICK_HOLD_S, QUICK_S) if options.quick else (HOLD_S, FEW_S)))
    rows += _sudden(*((300, QUICK_S) if options.quick else (SUDDEN, SUDDEN_S)), options.runs)
    return Result(
        rows,
        [
            "The server has one process for each of the generator's, on one port. Connections come at "
            f"{OPENED_PER_S:,} a second, but all in one moment for the lines on connecting; there, time counts from "
            "that moment until the last connection has its 101.",
            "Memory is private memory of the generator's processes, coordinator included, at its greatest, minus that "
            f"of a run with {FEW} connections; what the kernel keeps for sockets is not in it.",
        ],
    )


def _load(
    port: int, processes: int, stages: list[tuple[float, int]], rate: float, *, memory: bool = False
) -> tuple[Report, Spent]:
    """Run ours through these stages (seconds, connections)."""
    lines = ['name = "bench"', 'protocol = "echo"', "reconnect = false"]
    for seconds, connections in stages:
        lines += ["[[stages]]", f"duration = {seconds}", f"connections = {connections}"]
    lines += ["[traffic]", f"rate = {rate}"]
    with tempfile.TemporaryDirectory() as directory:
        scenario = Path(directory) / "bench.toml"
        scenario.write_text("\n".join(lines) + "\n")
        return trunkline_load(
            f"ws://127.0.0.1:{port}/", sum(seconds for seconds, _ in stages), "--scenario", str(scenario),
            "--processes", str(processes), memory=memory,
        )  # fmt: skip


def _hold(processes: int, count: int, hold_s: float, few_s: float) -> list[Row]:
    with bare_echo(processes=processes) as server:
        # More messages than connections while all are open: they go to connections in turn.
        rate = 1.5 * count / hold_s
        stages = [(count / OPENED_PER_S, count), (hold_s, count)]
        report, spent = _load(server.port, processes, stages, rate, memory=True)
        _, small = _load(server.port, processes, [(0.0, FEW), (few_s, FEW)], FEW, memory=True)
    totals = report.totals
    greatest = max(second.open for second in report.seconds)
    wrong = totals.failed + totals.closed + totals.lost + totals.unanswered + totals.abandoned + totals.errors
    # Messages go to the open connections in turn: of as many as there are, in a row, each has had one.
    all_open = [now.totals.sent for before, now in pairwise(report.seconds) if before.open == now.open == count]
    silent = max(0, count - sum(all_open))
    what = f"{count:,} connections, {processes} generator process" + ("es" if processes > 1 else "")
    return [
        Row(f"{what}: not open at once", count - greatest, f"of {count:,}", target=0),
        Row(f"{what}: not sent a message", silent, f"of {count:,}", target=0),
        Row(
            f"{what}: failed, closed, lost or unanswered", wrong, f"of {totals.sent:,} messages", target=0,
            note="; ".join(f"{reason} {times:,}" for reason, times in report.reasons.items()),
        ),
        Row(f"{what}: memory", (spent.private - small.private) / (count - FEW) / 1024, "KB/connection"),
        Row(f"{what}: message p99", report.message.p99, "ms"),
        Row(f"{what}: the generator's own lag p99", report.latencies["lag"].quantiles.p99, "ms"),
    ]  # fmt: skip


def _sudden(count: int, hold_s: float, runs: int) -> list[Row]:
    rates, costs, failures = [], [], 0
    with bare_echo() as server:
        silent = _load(server.port, 1, [(0.0, FEW), (hold_s, FEW)], 0)[1].cpu_s
        for _ in range(runs):
            report, spent = _load(server.port, 1, [(0.0, count), (hold_s, count)], 0)
            connect = report.latencies["connect"].quantiles
            rates.append(connect.count / connect.max * 1000)
            costs.append((spent.cpu_s - silent) / (count - FEW) * 1e6)
            failures += count - report.totals.opened + report.totals.failed
    median = statistics.median(rates)
    what = f"{count:,} connects at once, one generator process"
    return [
        # As milliseconds for a connection, for targets are upper bounds.
        Row(
            f"{what}: time for each", 1000 / median, "ms", target=round(1000 / CONNECTS_PER_S, 2),
            note=f"{median:,.0f} a second, {min(rates):,.0f} to {max(rates):,.0f}",
        ),
        Row(f"{what}: failed", failures, f"of {count * runs:,}", target=0),
        Row(f"{what}: the generator's CPU for opening and closing one", statistics.median(costs), "us CPU"),
    ]  # fmt: skip
