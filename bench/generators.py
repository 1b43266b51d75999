"""Load generators as child processes: how each is started, what it received, and what it used of the CPU.

CPU is that of the whole tree of processes, from its start to its end, as the kernel adds it up (wait4): a process that
a generator started and awaited is in it. What the first process used itself is told apart.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench.errors import BenchError
from bench.servers import HERE
from trunkline.load.report import Report, decode

GRACE_S = 60.0
"""How much longer than planned a generator may take."""

_SAMPLE_S = 0.5
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Spent:
    """What a run used.

    Attributes:
        cpu_s: user and system time of all its processes.
        first_s: of that, the process that was started; exact to a hundredth of a second.
        lasted_s: from start to end.
        private: greatest sum of its processes' private memory, in bytes; 0 unless asked for.
        output: what it wrote on standard output.
        complaint: the end of what it wrote on standard error.
    """

    cpu_s: float
    first_s: float
    lasted_s: float
    private: int
    output: bytes
    complaint: str


def spend(
    command: list[str],
    planned_s: float,
    environment: Mapping[str, str] | None = None,
    *,
    ends: tuple[int, ...] = (0,),
    memory: bool = False,
) -> Spent:
    """Run a generator to its end.

    Args:
        command: its command line.
        planned_s: how long it means to take.
        environment: added to this process' own, without settings of ours.
        ends: exit codes that are no failure.
        memory: look at its memory twice a second; that costs other processes than its own.

    Raises:
        BenchError: it failed, or took far longer.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        began = time.monotonic()
        process = subprocess.Popen(
            command, env={**kept, **(environment or {})}, stdin=subprocess.DEVNULL, stdout=said, stderr=complained,
            cwd=HERE.parent,
        )  # fmt: skip
        try:
            private = _watch(process.pid, began + planned_s + GRACE_S, memory)
        except BaseException:
            _end(process)
            raise
        lasted_s = time.monotonic() - began
        # It has ended and is not yet reaped, so the kernel still tells its own times from those of its children.
        first_s = _own_cpu_s(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        said.seek(0)
        output = said.read()
        complained.seek(0)
        complaint = complained.read()[-600:].decode(errors="replace")
    if code not in ends:
        words = complaint or output[-600:].decode(errors="replace")
        raise BenchError(f"{Path(command[0]).name} {' '.join(command[1:4])} ended with {code}:\n{words}")
    return Spent(usage.ru_utime + usage.ru_stime, first_s, lasted_s, private, output, complaint)


def _watch(pid: int, deadline: float, memory: bool) -> int:
    private = 0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            raise BenchError(f"a generator had not ended {GRACE_S:g} s after it should have")
        if memory:
            private = max(private, _private(pid))
        time.sleep(_SAMPLE_S if memory else 0.05)
    return private


def _tree(pid: int) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        yield first
        yield from first.children(recursive=True)


def _private(pid: int) -> int:
    found = 0
    for process in _tree(pid):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Private_"):
                    found += int(line.split()[1]) * 1024
    return found


def _own_cpu_s(pid: int) -> float:
    # Behind the name in brackets, which may hold anything: utime and stime are fields 14 and 15 of all.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _end(process: subprocess.Popen[bytes]) -> None:
    for each in list(_tree(process.pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


# --- who there is -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Echoed:
    """A run of echoes.

    Attributes:
        received: messages received.
        spent: what it used.
        p99_ms: 99th percentile of a message's latency; None when the generator keeps none.
    """

    received: int
    spent: Spent
    p99_ms: float | None = None


@dataclass(frozen=True)
class Load:
    """What a generator is to do: 64-byte echoes.

    Attributes:
        url: where to.
        connections: how many.
        rate: messages a second over all of them.
        duration_s: for how long.
    """

    url: str
    connections: int
    rate: float
    duration_s: float

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
        notes: what a reader should know about how it does the work.
    """

    name: str
    run: Callable[[Load], Echoed]
    version: str = ""
    notes: list[str] = field(default_factory=list)


OURS = "trunkline load"
WEBSOCKETS, WEBSOCKETS_UVLOOP, ARTILLERY, LOCUST = "websockets", "websockets on uvloop", "artillery", "locust"
PEERS = (WEBSOCKETS, WEBSOCKETS_UVLOOP, ARTILLERY, LOCUST)

_QUIET = {"ARTILLERY_DISABLE_TELEMETRY": "true", "NO_UPDATE_NOTIFIER": "1"}
"""Artillery is to send nothing to anybody else."""


def trunkline_load(url: str, planned_s: float, *options: str, memory: bool = False) -> tuple[Report, Spent]:
    """Run ours against an echo server.

    Args:
        url: where to.
        planned_s: how long it is to take.
        options: further options of the command.
        memory: look at its memory.

    Returns:
        Its report, whatever the verdict, and what it used.
    """
    command = [sys.executable, "-m", "trunkline", "load", url, "--protocol", "echo", *options, "--json"]
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
            name, lambda load: websockets_client(load, "paced", *more), importlib.metadata.version("websockets")
        )
    if name == ARTILLERY:
        program = find_artillery()
        if program is None:
            return None
        said = _says(program, "--version")
        version = next((line.split()[1] for line in said.splitlines() if line.startswith("Artillery: ")), "")
        return Generator(
            name, lambda load: _artillery(program, load), version, ["artillery keeps no latency of a message."]
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


def _ours(load: Load) -> Echoed:
    report, spent = trunkline_load(
        load.url, load.duration_s, "--connections", str(load.connections), "--duration", f"{load.duration_s:g}s",
        "--rate", f"{load.rate:g}", "--processes", "1",
    )  # fmt: skip
    return Echoed(report.totals.received, spent, report.latencies["round_trip"].quantiles.p99 if load.rate else None)


def websockets_client(load: Load, *how: str) -> Echoed:
    """Run the `websockets` client; `how` are its last arguments."""
    script = str(HERE / "peers" / "websockets_client.py")
    numbers = (str(load.connections), str(load.rate_each), str(load.duration_s))
    spent = spend([sys.executable, script, load.url, *numbers, *how], load.duration_s)
    told: dict[str, Any] = json.loads(spent.output)
    return Echoed(told["received"], spent, told.get("p99_ms"))


def _artillery(program: str, load: Load) -> Echoed:
    # An answer is only looked at, and only counted, by a step that expects something of it.
    message = '{"type":"echo","pad":"%s"}' % ("m" * 40)
    echo = {"send": {"payload": message, "match": {"json": "$.type", "value": "echo"}}}
    # With the unit: a number that is not whole would be taken for milliseconds.
    pause = {"think": f"{1000 / load.rate_each if load.rate else 1000 * load.duration_s:.3f}ms"}
    rounds = max(1, round(load.rate_each * load.duration_s))
    flow = [{"loop": [echo, pause], "count": rounds}] if load.rate else [pause]
    script = {
        "config": {"target": load.url, "phases": [{"duration": 1, "arrivalCount": load.connections}]},
        "scenarios": [{"engine": "ws", "flow": flow}],
    }
    with tempfile.TemporaryDirectory() as directory:
        written, result = Path(directory) / "echo.json", Path(directory) / "report.json"
        written.write_text(json.dumps(script))
        spent = spend([program, "run", "--quiet", "--output", str(result), str(written)], load.duration_s, _QUIET)
        counters = json.loads(result.read_text())["aggregate"]["counters"]
    if failed := counters.get("vusers.failed"):
        raise BenchError(f"artillery: {failed} connections failed")
    return Echoed(counters.get("websocket.messages_received", 0), spent)


def _locust(python: str, load: Load) -> Echoed:
    count = str(load.connections)
    options = ("--headless", "--json", "-u", count, "-r", count, "-t", f"{load.duration_s:g}s", "--host", load.url)
    spent = spend(
        [python, "-m", "locust", "-f", str(HERE / "peers" / "locust_echo.py"), *options],
        load.duration_s, {"BENCH_RATE_EACH": str(load.rate_each)},
    )  # fmt: skip
    rows: list[dict[str, Any]] = json.loads(spent.output)
    if failed := sum(row["num_failures"] for row in rows):
        raise BenchError(f"locust: {failed} messages failed")
    return Echoed(sum(row["num_requests"] for row in rows), spent)
