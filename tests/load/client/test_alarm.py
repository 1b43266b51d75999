"""The alarm goes off at its moment, as often as it is set."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest
import uvloop

from tests.support.patience import patient
from trunkline.load.client import alarm


@pytest.mark.parametrize("exact", [True, False])
async def test_it_goes_off_once_and_not_before(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds call back once for each moment, never early, and at once for a moment in the past."""
    if not exact:
        monkeypatch.setattr(alarm.sys, "platform", "elsewhere")
    rang = asyncio.Event()
    times: list[float] = []

    def ring() -> None:
        times.append(time.monotonic())
        rang.set()

    one = alarm.make_alarm(asyncio.get_running_loop(), ring)
    for ahead in (0.02, -5.0, 0.0):
        at = time.monotonic() + ahead
        rang.clear()
        one.set(at)
        await asyncio.wait_for(rang.wait(), patient(2))
        assert times[-1] >= at - 0.001
    assert len(times) == 3
    one.close()


async def test_a_later_moment_replaces_an_earlier_one() -> None:
    """Set anew before it went off, only the new moment counts; closed, none does."""
    times: list[float] = []
    one = alarm.make_alarm(asyncio.get_running_loop(), lambda: times.append(time.monotonic()))
    began = time.monotonic()
    one.set(began + 0.01)
    one.set(began + 0.05)
    await asyncio.sleep(0.1)
    assert len(times) == 1
    assert times[0] >= began + 0.05
    one.set(time.monotonic() + 0.01)
    one.close()
    await asyncio.sleep(0.03)
    assert len(times) == 1


async def test_moments_are_kept_in_order_and_end_with_the_last_session() -> None:
    """Each is called once, not before its moment, with the one it was meant for; after `leave` none is."""
    moments = alarm.Moments()
    moments.join()
    called: list[float] = []
    done = asyncio.Event()

    def call(moment: float) -> None:
        assert time.monotonic() >= moment
        called.append(moment)
        if len(called) == 3:
            done.set()

    start = time.monotonic()
    for wait in (0.03, 0.01, 0.02, 30.0):
        moments.call_at(start + wait, call)
    await asyncio.wait_for(done.wait(), patient(5))
    assert called == [start + 0.01, start + 0.02, start + 0.03]
    moments.call_at(start, call)
    moments.leave()
    await asyncio.sleep(0.01)
    assert len(called) == 3


def test_it_is_more_exact_than_a_timer_of_the_loop() -> None:
    """On uvloop, whose timers count whole milliseconds, the median of lateness is far below one."""

    async def lateness() -> float:
        rang = asyncio.Event()
        one = alarm.make_alarm(asyncio.get_running_loop(), rang.set)
        late = []
        for _ in range(51):
            rang.clear()
            at = time.monotonic() + 0.0043
            one.set(at)
            await rang.wait()
            late.append(time.monotonic() - at)
        one.close()
        return statistics.median(late)

    if alarm.sys.platform != "linux":
        pytest.skip("timers that are files are Linux's")
    assert uvloop.run(lateness()) < 0.0005
