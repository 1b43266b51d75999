"""Turns of many members: at once, then spread, never too many together."""

from __future__ import annotations

import asyncio
import random
import time

import structlog

from tests.support.patience import patient
from trunkline.balancer.health.rota import Rota


class Log:
    """Members asked, with times."""

    def __init__(self, work_s: float = 0.0) -> None:
        self.times: dict[str, list[float]] = {}
        self.under_way = self.most = 0
        self._work_s = work_s
        self._news = asyncio.Event()

    async def ask(self, member: str) -> None:
        self.times.setdefault(member, []).append(time.monotonic())
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self._news.set()
        await asyncio.sleep(self._work_s)
        self.under_way -= 1

    async def until_asked(self, member: str, times: int) -> None:
        async with asyncio.timeout(patient(10)):
            while len(self.times.get(member, ())) < times:
                self._news.clear()
                await self._news.wait()


async def test_at_once_then_spread_over_the_interval() -> None:
    """A hundred members that join together are asked at once, and then at times that lie evenly apart."""
    log = Log()
    begin = time.monotonic()
    rota = Rota(log.ask, 1.0, 1000, random.Random(1))
    rota.start()
    rota.set_members(map(str, range(100)))
    await asyncio.gather(*(log.until_asked(str(number), 2) for number in range(100)))
    await rota.close()
    assert max(times[0] for times in log.times.values()) - begin < 0.3
    seconds = sorted(times[1] - begin for times in log.times.values())
    for tenth in range(1, 9):
        within = sum(tenth / 10 <= at < tenth / 10 + 0.2 for at in seconds)
        assert 10 <= within <= 30, f"{within} of 100 in a fifth of the interval"


async def test_no_more_at_once_than_allowed() -> None:
    """However many members there are, only so many are being asked."""
    log = Log(work_s=0.005)
    rota = Rota(log.ask, 60.0, 7, random.Random(1))
    rota.start()
    rota.set_members(map(str, range(50)))
    await asyncio.gather(*(log.until_asked(str(number), 1) for number in range(50)))
    await rota.close()
    assert log.most == 7


async def test_a_fault_ends_no_turns() -> None:
    """A question that raises is logged, and its member asked again."""
    asked = 0
    thrice = asyncio.Event()

    async def ask(member: str) -> None:
        nonlocal asked
        asked += 1
        if asked > 2:
            thrice.set()
        raise RuntimeError("a fault")

    rota = Rota(ask, 0.01, 1, random.Random(1))
    rota.start()
    with structlog.testing.capture_logs() as logs:
        rota.set_members(["a"])
        await asyncio.wait_for(thrice.wait(), patient(10))
        await rota.close()
    assert logs[0]["event"] == "backend_not_asked"


async def test_postponed_turns_wait_a_whole_interval() -> None:
    """A member that is postponed again and again is never asked, while the others are."""
    log = Log()
    rota = Rota(log.ask, 0.2, 10, random.Random(1))
    rota.start()
    rota.set_members(["a", "b"])
    await log.until_asked("a", 1)
    rota.postpone("nobody")
    async with asyncio.timeout(patient(10)):
        while len(log.times["b"]) < 5:
            rota.postpone("a")
            await asyncio.sleep(0.01)
    assert len(log.times["a"]) == 1
    last = time.monotonic()
    rota.postpone("a")
    count = len(log.times["a"])
    await log.until_asked("a", count + 1)
    assert log.times["a"][-1] - last >= 0.2 * 0.9
    await rota.close()


async def test_members_that_left_are_asked_no_more() -> None:
    """Who leaves is not asked again, and who comes back is asked at once."""
    log = Log()
    rota = Rota(log.ask, 0.01, 10, random.Random(1))
    rota.start()
    rota.set_members(["a", "b"])
    await log.until_asked("a", 2)
    rota.set_members(["b"])
    count = len(log.times["a"])
    await log.until_asked("b", len(log.times["b"]) + 5)
    assert len(log.times["a"]) == count
    rota.set_members(["a", "b"])
    await log.until_asked("a", count + 1)
    await rota.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
