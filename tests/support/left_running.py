"""Tests that never end, for `tests/test_interrupted_run.py`: they start processes, write down which, and wait."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.support.fleet_process import FleetProcess

PIDS_FILE = "TESTS_PIDS_FILE"
"""The variable that names the file for the process ids."""

_STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:]], start_new_session=True)
    print(child.pid, flush=True)
time.sleep(600)
"""


def _written(pids: list[int]) -> None:
    path = Path(os.environ[PIDS_FILE])
    path.with_suffix(".part").write_text(" ".join(map(str, pids)))
    path.with_suffix(".part").replace(path)


def test_with_a_grandchild_that_ignores_signals() -> None:
    """A child and a child of that, each with a session of its own."""
    child = subprocess.Popen(
        [sys.executable, "-c", _STUBBORN, _STUBBORN], stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None
    _written([child.pid, int(child.stdout.readline())])
    child.wait()


async def test_with_a_fleet(tmp_path: Path) -> None:
    """A fleet with its monitoring."""
    fleet = await (await FleetProcess.start(tmp_path, "--nodes", "1", "--monitor")).ready()
    _written([fleet.process.pid, *(child.pid for child in fleet.children())])
    await asyncio.Event().wait()
