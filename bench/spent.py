"""Runs a child process to its end and says what it used: processor time of its whole tree, and memory.

CPU is that of the whole tree of processes, from its start to its end, as the kernel adds it up (wait4): a process that
was started by it and awaited is in it. What the first process used itself is told apart.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.errors import BenchError
from bench.servers import HERE

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
