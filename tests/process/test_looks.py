"""Looks at real processes, and starts that take longer than their limit."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable

import pytest

from tests.support.patience import patient
from trunkline.process import looks, progress

Started = Callable[[str], "asyncio.Future[asyncio.subprocess.Process]"]
BURN = "while True: pass"
SLEEP = "import time; time.sleep(600)"


@pytest.fixture
async def started() -> AsyncIterator[Started]:
    """Starts Python processes that are ended after the test."""
    processes: list[asyncio.subprocess.Process] = []

    async def start(code: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", code)
        processes.append(process)
        return process

    yield lambda code: asyncio.ensure_future(start(code))
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count is Linux's")
async def test_a_process_that_runs_and_waits(started: Started) -> None:
    """What it ran and what it waited add up to the time that passed; one that sleeps does neither."""
    busy, idle = await started(BURN), await started(SLEEP)
    began = time.monotonic()
    while looks.ran_s(busy.pid) < 0.3:
        assert time.monotonic() - began < patient(10)
        await asyncio.sleep(0.02)
    now = looks.look(busy.pid, 7.0)
    assert now.at == 7.0
    assert now.waited_s is not None
    assert now.ran_s >= 0.2
    assert now.ran_s + now.waited_s == pytest.approx(time.monotonic() - began, abs=0.25)
    assert looks.look(idle.pid, 0.0).ran_s < 0.2


async def test_without_the_kernels_count(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the processor time is known all the same."""
    monkeypatch.setattr(looks, "_SCHEDSTAT", "/proc/nowhere/{pid}")
    busy = await started(BURN)
    while looks.look(busy.pid, 0.0).ran_s < 0.1:
        await asyncio.sleep(0.02)
    assert looks.look(busy.pid, 0.0).waited_s is None


async def test_a_process_that_has_ended(started: Started) -> None:
    """Nobody's numbers are zeros."""
    process = await started("")
    await process.wait()
    assert looks.look(process.pid, 1.0)[:3] == (1.0, 0.0, None)


async def test_a_late_start_that_goes_on_is_waited_for(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that uses its processor gets ready after the limit and a time of quiet; one that sleeps is given up."""
    monkeypatch.setattr(progress, "QUIET_S", 0.6)
    monkeypatch.setattr(looks, "LOOK_EVERY_S", 0.1)
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    busy = await started(BURN)
    asyncio.get_running_loop().call_later(1.5, ready.set_result, None)
    await looks.started(ready, lambda: [busy.pid], lambda: 0, 0.3)
    idle = await started(SLEEP)
    with pytest.raises(TimeoutError):
        await looks.started(asyncio.Event().wait(), lambda: [idle.pid], lambda: 0, 0.3)


async def test_what_a_start_raises_is_passed_on() -> None:
    """A part that cannot start ends the wait."""

    async def refuse() -> None:
        raise ValueError("port taken")

    with pytest.raises(ValueError, match="port taken"):
        await looks.started(refuse(), list, lambda: 0, 10.0)
