"""Ends what is under way within a bound, so that a process always ends.

Rules:

- A task that goes on is cancelled again. A cancellation that comes at the moment at which `asyncio.wait_for` ends is
  lost in Python 3.11 (cpython issue 86296), and client libraries drop some of their own accord.
- What has not ended in time is named in the log and left behind; so is what a part raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

T = TypeVar("T")

GRACE_S: Final = 2.5
"""Time that a cancelled task has to let go of what it holds: longer than a connection to NATS takes to close."""

TIMES: Final = 3


async def end_tasks(tasks: Iterable[asyncio.Task[Any]], *, grace_s: float = GRACE_S) -> None:
    """Cancel `tasks` and wait until they have ended; what they return or raise is dropped.

    One that goes on after `grace_s` seconds is cancelled again, at most `TIMES` times in all.
    """
    left = set(tasks)
    for _ in range(TIMES):
        if not left:
            return
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=grace_s)
        for task in ended:
            _drop_outcome(task)
    for task in left:
        task.add_done_callback(_drop_outcome)
        _log().warning("task_did_not_end", task=str(task.get_coro()), waited_s=grace_s * TIMES)


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in a task of its own, for `seconds` at most; raises TimeoutError.

    Unlike `asyncio.timeout` it goes on at the time-out whether or not `work` heeds its cancellation.
    """
    task = await _apart(seconds, work)
    if not task.done():
        raise TimeoutError
    return task.result()


async def end_part(part: str, ending: Coroutine[Any, Any, None], *, within_s: float) -> None:
    """Let one part of a program end; after `within_s` seconds, or when it raises, go on without it."""
    task = await _apart(within_s, ending)
    if not task.done():
        _log().warning("part_did_not_end", part=part, waited_s=within_s)
    elif not task.cancelled() and (error := task.exception()) is not None:
        _log().error("part_ended_badly", part=part, exc_info=error)


async def _apart(seconds: float, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """The task of `work`, which has ended or was left behind after `seconds`."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.add_done_callback(_drop_outcome)
            task.cancel()
    return task


def _drop_outcome(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # asyncio would report one that nobody looks at


def _log() -> Any:
    # Loaded with the first event, as `logs/logger.py` does, which stands above this room.
    import structlog

    return structlog.get_logger("trunkline.process")
