"""A start that is to stop: it is let go on for a moment, and no longer."""

from __future__ import annotations

import asyncio

import pytest

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
