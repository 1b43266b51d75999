"""A run of the tests that is interrupted leaves no process behind, whatever ended it and however deep it started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import ROOT, left_running
from tests.support.left_running import PIDS_FILE
from tests.support.patience import patient


@contextlib.contextmanager
def running(tmp_path: Path, name: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A run of pytest in the middle of a test, and the processes which that test has started."""
    pids = tmp_path / "pids"
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, f"{left_running.__file__}::{name}"],
        cwd=ROOT, env=os.environ | {PIDS_FILE: str(pids)}, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        until = time.monotonic() + patient(60)
        while not pids.exists():
            assert run.poll() is None, run.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)
        yield run, [psutil.Process(int(pid)) for pid in pids.read_text().split()]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all of them end."""
    return psutil.wait_procs(processes, patient(10))[1] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_run(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C (the whole group of the terminal gets it) and a killed run."""
    with running(tmp_path, "test_with_a_grandchild_that_ignores_signals", "-p", "no:xdist") as (run, started):
        assert len(started) == 2
        os.killpg(run.pid, number)
        assert gone(started)


def test_ctrl_c_on_a_run_with_workers(tmp_path: Path) -> None:
    """The processes are those of a worker."""
    with running(tmp_path, "test_with_a_grandchild_that_ignores_signals", "-n", "1") as (run, started):
        os.killpg(run.pid, signal.SIGINT)
        assert gone(started)


def test_a_killed_worker(tmp_path: Path) -> None:
    """What the worker had started goes, while the run goes on."""
    with running(tmp_path, "test_with_a_grandchild_that_ignores_signals", "-n", "1") as (run, started):
        worker = started[0].parent()
        assert worker is not None
        worker.kill()
        assert gone(started)
        assert "crashed" in run.communicate(timeout=patient(60))[0]


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Prometheus")
def test_a_fleet_with_its_monitoring(tmp_path: Path) -> None:
    """A whole fleet with Prometheus and its neighbours."""
    with running(tmp_path, "test_with_a_fleet", "-p", "no:xdist") as (run, started):
        assert {"prometheus", "nats-server"} <= {process.name() for process in started}
        run.kill()
        assert gone(started)
