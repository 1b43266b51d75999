"""Background work of the hub and of apps: kept until it ends, its faults logged, and done once for many waiters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

from trunkline.logs.logger import get_logger
from trunkline.process.bounds import end_tasks

log = get_logger("trunkline.tasks")
T = TypeVar("T")

FAULTS: Final = (Exception, asyncio.CancelledError)
"""What code of an application may raise, and must not take anything else with it."""


def ends_this_task(error: BaseException) -> bool:
    """Whether `error` is the cancellation of the running task.

    A CancelledError that comes from something it awaited, such as another task, is a fault like any other: whoever
    awaits an application's code goes on after it.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


class Tasks:
    """Running tasks; what one raises is logged as the event `fault`, unless it is `expected` and handled elsewhere."""

    def __init__(self, fault: str, expected: tuple[type[BaseException], ...] = ()) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._fault = fault
        self._expected = expected

    @property
    def running(self) -> frozenset[asyncio.Task[Any]]:
        """What has not ended."""
        return frozenset(self._running)

    def spawn(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Run `work` in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def once(
        self, running: dict[str, asyncio.Task[T]], name: str, work: Callable[[], Coroutine[object, object, T]]
    ) -> asyncio.Task[T]:
        """The task in `running` under `name`, or one that does `work()` and is kept there until it is done.

        Await it through `asyncio.shield`, so that one waiter's cancellation does not end it for the others.
        """
        task = running.get(name)
        if task is None or task.done():
            task = running[name] = self.spawn(work())
            task.add_done_callback(partial(_forget, running, name))
        return task

    async def close(self) -> None:
        """Cancel everything and wait for it, within a bound."""
        await end_tasks(self._running)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            if not task.cancelling():
                log.error(self._fault, reason="something that it awaited was cancelled")
        elif (error := task.exception()) is not None and not isinstance(error, self._expected):
            log.error(self._fault, exc_info=error)


def _forget(running: dict[str, asyncio.Task[T]], name: str, task: asyncio.Task[T]) -> None:
    """Let go of a task that is done, unless another has taken its place."""
    if running.get(name) is task:
        del running[name]
