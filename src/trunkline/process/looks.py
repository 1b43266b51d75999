"""Looks at processes of this machine: what they ran and waited, and whether a start of theirs goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from trunkline.process.progress import START_MOST, Look, Start

LOOK_EVERY_S: Final = 0.5
_PRESSURE: Final = Path("/proc/pressure/cpu")
_SCHEDSTAT: Final = "/proc/{pid}/schedstat"


def look(pid: int, at: float) -> Look:
    """The process now, at `at` of the caller's clock; all zeros for one that has ended."""
    with contextlib.suppress(OSError, ValueError):
        # Of its first thread, which is the one that runs the loop.
        ran, waited, _ = Path(_SCHEDSTAT.format(pid=pid)).read_text().split()
        return Look(at, int(ran) / 1e9, int(waited) / 1e9, 0.0)
    return Look(at, ran_s(pid), None, _stalled_s())


def ran_s(pid: int) -> float:
    """Processor time of all threads of a process, 0 for one that has ended."""
    # A start that is on time never gets here.
    import psutil  # type: ignore[import-untyped,unused-ignore]

    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


async def started(
    ready: Awaitable[object], pids: Callable[[], Iterable[int]], logged: Callable[[], int], limit_s: float
) -> None:
    """Wait until `ready` is done, beyond the limit as long as the start makes progress.

    Args:
        ready: done when everything has started; cancelled when that is not waited for.
        pids: the processes that are still starting.
        logged: bytes that they have logged.
        limit_s: how long a start may take.

    Raises:
        TimeoutError: it was not ready in time.
    """
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(ready)
    try:
        await asyncio.wait({waiting}, timeout=limit_s)
        start = Start(loop.time(), limit_s * (START_MOST - 1))
        while not waiting.done():
            if start.gives_up(loop.time(), sum(ran_s(pid) for pid in pids() if pid), logged()):
                raise TimeoutError
            await asyncio.wait({waiting}, timeout=LOOK_EVERY_S)
        await waiting
    finally:
        waiting.cancel()


def _stalled_s() -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        # some avg10=0.00 avg60=0.00 avg300=0.00 total=424209684
        return int(_PRESSURE.read_text().split("total=")[1].split()[0]) / 1e6
    return 0.0
