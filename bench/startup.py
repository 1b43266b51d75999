"""What a start costs: CPU of a small command and of the import, resident memory of what idles.

With `--base DIR` an earlier version is measured in the same rounds, in rows of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import psutil

from bench.errors import BenchError
from bench.regression import BEFORE, NOW, earlier_python
from bench.rows import Options, Result, Row, compare, in_turn
from bench.servers import HERE, Server, ours

CONFIG_SHOW_LIMIT = 2.0
IMPORT_LIMIT = 4.0
NODE_LIMIT_MB = 46.0
FLEET_LIMIT_MB = 280.0

STARTS_A_ROUND = 3
"""A start takes so little CPU that one alone says not much."""

SETTLE_S = 2.0
STOP_S = 60.0
_BARE_APP, _BARE_IMPORT = "a bare typer app", "import msgspec"
_IMPORT = "from trunkline import App, Client, Endpoint"


def run(options: Options) -> Result:
    """Measure the command, the import, an idle node and an idle fleet."""
    pythons = {NOW: sys.executable}
    if options.base is not None:
        pythons[BEFORE] = earlier_python(options.base)
    rows = [
        *_starts(
            "user CPU of `trunkline config show`", options, _BARE_APP, CONFIG_SHOW_LIMIT,
            {name: [python, "-m", "trunkline", "config", "show"] for name, python in pythons.items()},
            [sys.executable, str(HERE / "peers" / "bare_typer.py"), "one"],
        ),
        *_starts(
            f"user CPU of `{_IMPORT}`", options, _BARE_IMPORT, IMPORT_LIMIT,
            {name: [python, "-c", _IMPORT] for name, python in pythons.items()},
            [sys.executable, "-c", _BARE_IMPORT],
        ),
        *_memory("idle `trunkline serve` on the memory bus", options, NODE_LIMIT_MB, pythons, _node_mb),
        *_memory("idle `trunkline up`, all its processes", options, FLEET_LIMIT_MB, pythons, _fleet_mb),
    ]  # fmt: skip
    return Result(rows, ["Memory is resident memory; what processes share counts in each of them."])


def _starts(
    what: str, options: Options, peer: str, limit: float, commands: dict[str, list[str]], bare: list[str]
) -> list[Row]:
    """Rows of each version beside the bare program, and of one version beside the other."""
    figures = in_turn([*commands, peer], options.runs, lambda name: _user_ms(commands.get(name, bare)))
    rows = compare(what, figures, "ms", {peer: limit})
    if BEFORE in figures:
        rows += compare(f"{what}, {BEFORE}", figures, "ms", {peer: None}, ours=BEFORE)
        rows += compare(what, figures, "ms", {BEFORE: None})
    return rows


def _memory(
    what: str, options: Options, limit: float, pythons: dict[str, str], measure: Callable[[str], float]
) -> list[Row]:
    figures = in_turn(list(pythons), options.runs, lambda name: measure(pythons[name]))
    rows = [Row(what, statistics.median(figures[NOW]), "MB", target=limit)]
    if BEFORE in figures:
        rows += compare(what, figures, "MB", {BEFORE: None})
    return rows


def _user_ms(command: list[str]) -> float:
    """User CPU of a run of the command; the median of a few."""
    with tempfile.TemporaryDirectory() as directory:
        return statistics.median(_user_ms_once(command, directory) for _ in range(STARTS_A_ROUND))


def _user_ms_once(command: list[str], directory: str) -> float:
    with tempfile.TemporaryFile() as complaint:
        process = subprocess.Popen(
            command, cwd=directory, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=complaint,
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            complaint.seek(0)
            raise BenchError(f"{' '.join(command)} ended with {process.returncode}: {complaint.read().decode()[-500:]}")
    return used.ru_utime * 1000


def _node_mb(python: str) -> float:
    with Server(ours(python=python, TRUNKLINE_BUS_URL="memory")) as server:
        time.sleep(SETTLE_S)
        return server.memory()["rss"] / 1e6


def _fleet_mb(python: str) -> float:
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as complaint:
        process = subprocess.Popen(
            [python, "-m", "trunkline", "up", "--json", "--port", "0"], cwd=directory, env=_environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaint,
        )  # fmt: skip
        try:
            for line in process.stdout or ():
                if json.loads(line)["type"] == "addresses":
                    break
            else:
                complaint.seek(0)
                raise BenchError(f"the fleet did not start: {complaint.read().decode()[-500:]}")
            time.sleep(SETTLE_S)
            top = psutil.Process(process.pid)
            return sum(each.memory_info().rss for each in (top, *top.children(recursive=True))) / 1e6
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=STOP_S)
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("TRUNKLINE_", "PYTHON"))}
