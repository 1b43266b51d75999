"""A start that is to stop: it is let go on for a moment, and no longer."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from tests.support.patience import patient
from trunkline.process import lifecycle


async def test_a_start_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was cancelled, so that what it had begun is freed."""
    monkeypatch.setattr(lifecycle, "START_LEFT_S", 0.2)
    ended = asyncio.Event()

    async def start() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    signals = lifecycle.Signals()
    asyncio.get_running_loop().call_later(0.05, signals.stop)
    assert not await lifecycle.started(signals, start())
    assert ended.is_set()


async def test_a_start_that_goes_on_is_let_end() -> None:
    """It is stopped in order then; one that must not end another process is not."""
    for heeds_first, ends in ((False, True), (True, False)):
        signals = lifecycle.Signals()
        signals.stop()
        assert await lifecycle.started(signals, asyncio.sleep(0.05), heeds_first=heeds_first) is ends


async def test_only_a_program_that_handles_it_gets_a_hang_up() -> None:
    """It would end others: a node of a release that knows no reload."""
    said = asyncio.Event()
    for program, sent in ((_HANDLES, True), ("import time\nprint('up', flush=True)\ntime.sleep(60)", False)):
        said.clear()
        child = await lifecycle.Child.start([sys.executable, "-c", program], os.environ, lambda chunk, _: said.set())
        await asyncio.wait_for(said.wait(), patient(10))
        assert child.reload() is sent
        if not sent:
            child.terminate()
        assert await asyncio.wait_for(child.wait(), patient(10)) == (0 if sent else -15)
        assert not child.reload()


_HANDLES = """
import signal, sys, time
signal.signal(signal.SIGHUP, lambda *_: sys.exit(0))
print("up", flush=True)
time.sleep(60)
"""
