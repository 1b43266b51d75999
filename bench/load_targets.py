"""The load targets of a production server: ramp to 1,000, 2,000 held for 10 minutes, a spike to 5,000, at full size.

Each is a built-in scenario of `trunkline load` against `trunkline up`: two nodes, NATS and our relay, which share the
machine with the generator. It takes a quarter of an hour; with --quick a few connections for some seconds.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from bench.errors import BenchError
from bench.generators import trunkline_load
from bench.rows import Options, Result, Row
from trunkline.load.model.report import Report

SCENARIOS = {"ramp": 180.0, "spike": 120.0, "stress": 660.0}
"""How long each takes."""

QUICK = ("--connections", "20", "--duration", "2s")
QUICK_S = 2.0
STOP_S = 30.0


def run(options: Options) -> Result:
    """Measure them, once each."""
    reports = {}
    with fleet() as url:
        for scenario, lasts_s in SCENARIOS.items():
            sizes = QUICK if options.quick else ()
            report, _ = trunkline_load(url, QUICK_S if options.quick else lasts_s, "--scenario", scenario, *sizes)
            reports[scenario] = report
    return result(reports)


def result(reports: dict[str, Report]) -> Result:
    """The rows of some runs, by scenario."""
    rows: list[Row] = []
    notes: list[str] = []
    for name, report in reports.items():
        connect, totals = report.latencies["connect"].quantiles, report.totals
        what = f"{name}, {report.peak:,} connections"
        rows += [
            Row(f"{what}: p95 of connecting", connect.p95, "ms", target=2000),
            Row(f"{what}: p95 of messages", report.message.p95, "ms", target=1000),
            Row(f"{what}: connections that failed", 100 * (1 - report.success), "%", target=5),
            Row(f"{what}: errors", 100 * report.error_rate, "%", target=1),
            Row(f"{what}: lost or double", totals.lost + totals.duplicates + totals.reordered, "messages", target=0),
        ]  # fmt: skip
        missing = [line.what for line in report.balances if not line.holds]
        notes.append(
            f"{name}: {report.verdict}; {report.lasted_s:g} s, {totals.sent:,} sent, {totals.received:,} received; p99 "
            f"of connecting {connect.p99:g} ms, of messages {report.message.p99:g} ms; the servers' counts "
            + (f"do not meet ours: {', '.join(missing)}." if missing else "meet ours in every line.")
        )
        notes += [f"{name}: {warning}." for warning in report.warnings]
    return Result(rows, notes)


@contextlib.contextmanager
def fleet() -> Iterator[str]:
    """`trunkline up` on free ports; the address of its edge."""
    with tempfile.TemporaryDirectory() as directory:
        # The data stays within the directory, which is the command's own.
        command = [sys.executable, "-m", "trunkline", "up", "--port", "0", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=directory)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said = json.loads(line)
                if said["type"] == "addresses":
                    yield said["edge"]["websocket"]
                    return
            raise BenchError("the fleet did not start")
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
