"""Nothing outlives a run of the tests: a process beside pytest ends what the tests started when pytest is gone.

Rules:

- Every process that a test starts, however far down, inherits a mark in its environment. When pytest ends in whatever
  way, SIGKILL included, a pipe closes, and the reaper kills all that carry the mark, with their children.
- Each worker of pytest has a mark below that of the process that started it, so the reaper of one worker ends what is
  that worker's alone, and the reaper of the first process everything.
- The reaper has a session of its own, for Ctrl-C reaches all of the terminal's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from typing import Final

import psutil

VARIABLE: Final = "TESTS_STARTED_BY"
_PAUSE_S: Final = 0.1
_ROUNDS: Final = 100


def watch() -> subprocess.Popen[bytes]:
    """Mark what this process starts from now on, and start its reaper, which acts when standard input closes."""
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    mark = f"{os.environ.get(VARIABLE, '')}/{os.getpid()}-{secrets.token_hex(4)}"
    os.environ[VARIABLE] = mark
    return subprocess.Popen(
        [sys.executable, __file__, mark],
        env=environ, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def marked(mark: str) -> list[psutil.Process]:
    """Processes that carry the mark or one below it, and their descendants."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            carried = process.environ().get(VARIABLE, "")
            if (carried == mark or carried.startswith(f"{mark}/")) and process.status() != psutil.STATUS_ZOMBIE:
                # A container's processes have an environment of their own.
                for each in (process, *process.children(recursive=True)):
                    found[each.pid] = each
    return list(found.values())


def reap(mark: str) -> None:
    """Kill all that carry the mark until none is left."""
    for _ in range(_ROUNDS):
        left = marked(mark)
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    with contextlib.suppress(OSError):
        sys.stdin.buffer.read()
    reap(sys.argv[1])
