"""Load generators: who there is, how each is started, and what each says it received.

Each does the work as its kind is used: it takes what its users would, and keeps what its reports are made of.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.errors import BenchError
from bench.servers import HERE
from bench.spent import Spent, spend
from trunkline.load.model.report import Report, decode


@dataclass(frozen=True)
class Outcome:
    """A run.

    Attributes:
        received: messages received, as far as the generator counts them.
        spent: what it used.
        p99_ms: 99th percentile of a message's latency; None when the generator keeps none.
    """

    received: int
    spent: Spent
    p99_ms: float | None = None


@dataclass(frozen=True)
class Load:
    """What a generator is to do.

    Attributes:
        url: where to.
        connections: how many.
        rate: messages a second that it receives, over all connections.
        duration_s: for how long.
        fan_out: all connections subscribe to one channel of our node; else they send 64 bytes and get an echo.
    """

    url: str
    connections: int
    rate: float
    duration_s: float
    fan_out: bool = False

    @property
    def rate_each(self) -> float:
        """Messages a second of one connection."""
        return self.rate / self.connections


@dataclass(frozen=True)
class Generator:
    """A load generator that can be run.

    Attributes:
        name: what tables call it.
        run: runs it once.
        version: its version.
        counts: whether it looks at the messages that it receives.
    """

    name: str
    run: Callable[[Load], Outcome]
    version: str = ""
    counts: bool = True


OURS = "trunkline load"
WEBSOCKETS, WEBSOCKETS_UVLOOP, ARTILLERY, LOCUST = "websockets", "websockets on uvloop", "artillery", "locust"
PEERS = (WEBSOCKETS, WEBSOCKETS_UVLOOP, ARTILLERY, LOCUST)
ARTILLERY_DEAF = "artillery, not looking"
"""Artillery as it comes: its steps see the answer to a message they sent, and of what is pushed they see nothing."""

_QUIET = {"ARTILLERY_DISABLE_TELEMETRY": "true", "NO_UPDATE_NOTIFIER": "1"}
"""Artillery is to send nothing to anybody else."""


def trunkline_load(url: str, planned_s: float, *options: str, memory: bool = False) -> tuple[Report, Spent]:
    """Run ours.

    Args:
        url: where to.
        planned_s: how long it is to take.
        options: further options of the command.
        memory: look at its memory.

    Returns:
        Its report, whatever the verdict, and what it used.
    """
    command = [sys.executable, "-m", "trunkline", "load", url, *options, "--json"]
    # 1: a threshold did not hold. The benchmarks judge the figures themselves.
    spent = spend(command, planned_s, ends=(0, 1), memory=memory)
    try:
        return decode(spent.output), spent
    except msgspec.DecodeError as error:
        raise BenchError(f"{OURS} printed no report ({error}):\n{spent.complaint}") from error


def find_artillery() -> str | None:
    """The artillery program: on the PATH, or in node_modules of the directory BENCH_NPM or of one above this."""
    found = shutil.which("artillery")
    named = os.environ.get("BENCH_NPM")
    for directory in (*([Path(named)] if named else []), Path.cwd(), *HERE.parents):
        local = directory / "node_modules" / ".bin" / "artillery"
        if found is None and local.exists():
            found = str(local)
    return found


def find_locust() -> str | None:
    """The Python that has locust and websocket-client: BENCH_LOCUST, or this one."""
    python = os.environ.get("BENCH_LOCUST") or sys.executable
    look = "import importlib.util as u, sys; sys.exit(not (u.find_spec('locust') and u.find_spec('websocket')))"
    return python if subprocess.run([python, "-c", look], timeout=20, check=False).returncode == 0 else None


def generators(*names: str) -> tuple[dict[str, Generator], list[str]]:
    """Ours and those of the named peers that are installed; and a sentence about each that is not."""
    found = {OURS: Generator(OURS, _ours)}
    missing = []
    for name in names:
        generator = _peer(name)
        if generator is None:
            missing.append(f"{name} is not installed: left out.")
        else:
            found[name] = generator
    return found, missing


def _peer(name: str) -> Generator | None:
    if name in (WEBSOCKETS, WEBSOCKETS_UVLOOP):
        if importlib.util.find_spec("websockets") is None:
            return None
        more = ["uvloop"] if name == WEBSOCKETS_UVLOOP else []
        return Generator(
            name,
            lambda load: websockets_client(load, "subscribed" if load.fan_out else "paced", *more),
            importlib.metadata.version("websockets"),
        )
    if name in (ARTILLERY, ARTILLERY_DEAF):
        program = find_artillery()
        if program is None:
            return None
        said = _says(program, "--version")
        version = next((line.split()[1] for line in said.splitlines() if line.startswith("Artillery: ")), "")
        return Generator(
            name, lambda load: _artillery(program, load, looks=name == ARTILLERY), version, name == ARTILLERY
        )
    if name == LOCUST:
        python = find_locust()
        if python is None:
            return None
        words = _says(python, "-m", "locust", "--version").split()
        return Generator(name, lambda load: _locust(python, load), words[1] if len(words) > 1 else "")
    raise ValueError(name)


def _says(*command: str) -> str:
    environment = {**os.environ, **_QUIET}
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    return asked.stdout


def _ours(load: Load) -> Outcome:
    # In a fan-out it publishes by itself: as many times fewer as there are subscribers.
    kind, rate = (("feed", "--channels", "1"), load.rate_each) if load.fan_out else (("echo",), load.rate)
    report, spent = trunkline_load(
        load.url, load.duration_s, "--connections", str(load.connections), "--duration", f"{load.duration_s:g}s",
        "--rate", f"{rate:g}", "--processes", "1", "--protocol", *kind,
    )  # fmt: skip
    if wrong := report.totals.failed + report.totals.lost + report.totals.reordered:
        raise BenchError(f"{OURS}: {wrong} connections failed or messages were lost or reordered: {report.reasons}")
    latency = report.latencies.get("delivery" if load.fan_out else "round_trip")
    return Outcome(report.totals.received, spent, latency.quantiles.p99 if latency else None)


def websockets_client(load: Load, *how: str) -> Outcome:
    """Run the `websockets` client; `how` are its last arguments."""
    script = str(HERE / "peers" / "websockets_client.py")
    numbers = (str(load.connections), str(load.rate_each), str(load.duration_s))
    spent = spend([sys.executable, script, load.url, *numbers, *how], load.duration_s)
    told: dict[str, Any] = json.loads(spent.output)
    if told["disordered"]:
        raise BenchError(f"{WEBSOCKETS}: {told['disordered']} messages out of order")
    return Outcome(told["received"], spent, told.get("p99_ms"))


def _artillery(program: str, load: Load, *, looks: bool) -> Outcome:
    # With the unit: a number that is not whole would be taken for milliseconds.
    pause: dict[str, Any] = {"think": f"{1000 * load.duration_s:.0f}ms"}
    flow: list[dict[str, Any]] = [pause]
    if load.fan_out:
        subscribe = {"send": '{"type":"subscribe","channels":["public.bench"]}'}
        flow = [*([{"function": "listen"}] if looks else []), subscribe, pause]
    elif load.rate:
        # An answer is only looked at, and only counted, by a step that expects something of it.
        message = '{"type":"echo","pad":"%s"}' % ("m" * 40)
        echo = {"send": {"payload": message, "match": {"json": "$.type", "value": "echo"}}}
        pause = {"think": f"{1000 / load.rate_each:.3f}ms"}
        flow = [{"loop": [echo, pause], "count": max(1, round(load.rate_each * load.duration_s))}]
    script = {
        "config": {
            "target": load.url,
            "phases": [{"duration": 1, "arrivalCount": load.connections}],
            "processor": str(HERE / "peers" / "artillery_feed.js"),
        },
        "scenarios": [{"engine": "ws", "flow": flow}],
    }
    with tempfile.TemporaryDirectory() as directory:
        written, result = Path(directory) / "load.json", Path(directory) / "report.json"
        written.write_text(json.dumps(script))
        spent = spend([program, "run", "--quiet", "--output", str(result), str(written)], load.duration_s, _QUIET)
        counters: dict[str, int] = json.loads(result.read_text())["aggregate"]["counters"]
    wrong = {name: count for name, count in counters.items() if name == "vusers.failed" or name.startswith("errors.")}
    if any(wrong.values()):
        raise BenchError(f"artillery: {wrong}")
    counted = counters.get("received" if load.fan_out else "websocket.messages_received", 0)
    return Outcome(counted, spent)


def _locust(python: str, load: Load) -> Outcome:
    count = str(load.connections)
    options = ("--headless", "--json", "-u", count, "-r", count, "-t", f"{load.duration_s:g}s", "--host", load.url)
    script = HERE / "peers" / ("locust_feed.py" if load.fan_out else "locust_echo.py")
    spent = spend(
        [python, "-m", "locust", "-f", str(script), *options],
        load.duration_s, {"BENCH_RATE_EACH": str(load.rate_each)},
    )  # fmt: skip
    rows: list[dict[str, Any]] = json.loads(spent.output)
    if failed := sum(row["num_failures"] for row in rows):
        raise BenchError(f"locust: {failed} messages failed")
    return Outcome(sum(row["num_requests"] for row in rows), spent)
