"""Tasks and parts that do not end by themselves keep nobody waiting."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import pytest
from structlog.testing import capture_logs

from tests.support.patience import patient
from trunkline.process.bounds import end_part, end_tasks, within


async def deaf(times: int) -> None:
    """Go on after so many cancellations, as a library does that drops them."""
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
    await asyncio.get_running_loop().create_future()


async def test_a_lost_cancellation_is_repeated() -> None:
    """Each task ends, one that lost two cancellations too; what they raise is dropped; nothing is logged."""

    async def faulty() -> None:
        raise ValueError

    tasks = [asyncio.create_task(work) for work in (deaf(0), deaf(1), deaf(2), faulty())]
    await asyncio.sleep(0)
    with capture_logs() as lines:
        async with asyncio.timeout(patient(5)):
            await end_tasks(tasks, grace_s=0.02)
    assert all(task.done() for task in tasks)
    assert lines == []


async def test_a_task_that_never_ends_is_left_behind() -> None:
    """It is named in the log, and the caller goes on."""
    task = asyncio.create_task(deaf(3))
    await asyncio.sleep(0)
    with capture_logs() as lines:
        async with asyncio.timeout(patient(5)):
            await end_tasks([task], grace_s=0.01)
    assert [line["event"] for line in lines] == ["task_did_not_end"]
    assert "deaf" in lines[0]["task"]
    task.cancel()
    await asyncio.wait([task])


async def test_a_part_that_hangs_or_fails_keeps_no_other_from_ending() -> None:
    """Each outcome is one line that names the part; a part that was cancelled meanwhile has ended."""

    async def faulty() -> None:
        raise ValueError("broken")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with capture_logs() as lines:
        await end_part("deaf", deaf(1), within_s=0.01)
        await end_part("faulty", faulty(), within_s=1)
        await end_part("cancelled", cancelled(), within_s=1)
    assert [(line["event"], line["part"]) for line in lines] == [
        ("part_did_not_end", "deaf"),
        ("part_ended_badly", "faulty"),
    ]


async def test_a_time_out_does_not_depend_on_the_work() -> None:
    """It is raised although the work drops its cancellation; a result that comes in time is returned."""

    async def answer() -> int:
        return 4

    assert await within(1, answer()) == 4
    with pytest.raises(TimeoutError):
        await within(0.01, deaf(1))


STUCK = """
import asyncio, threading
from trunkline.process import lifecycle
lifecycle.LEFT_S = 0.1
async def main():
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    return 5
lifecycle.run(main)
"""


async def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    """The loop would wait for it without end: the process says so and ends with the command's exit code."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", STUCK, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(patient(20)):
        _, said = await process.communicate()
    assert process.returncode == 5
    assert said.decode() == "trunkline: something did not end within 0.1 s and is left behind\n"
