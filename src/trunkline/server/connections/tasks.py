"""Background work of the hub and of apps: kept until it ends, its faults logged, and done once for many waiters."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from trunkline.logs.logger import get_logger

log = get_logger("trunkline.tasks")
T = TypeVar("T")


class Tasks:
    """A set of running tasks.

    Args:
        fault: the event under which a fault is logged.
        expected: exceptions that are handled elsewhere, and not logged here.
    """

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

    async def once(self, running: dict[str, asyncio.Task[T]], name: str, work: Coroutine[object, object, T]) -> T:
        """Await `work`, or the same work already running for `name`; one waiter's cancellation does not end it."""
        task = running.get(name)
        if task is None or task.done():
            task = self.spawn(work)
            remember(running, name, task)
        else:
            work.close()
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancel everything and wait for it."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, self._expected):
            log.error(self._fault, exc_info=error)


def remember(running: dict[str, asyncio.Task[T]], name: str, task: asyncio.Task[T]) -> None:
    """Keep `task` under `name` until it is done. A task that took its place meanwhile stays."""

    def forget(_: asyncio.Task[T]) -> None:
        if running.get(name) is task:
            del running[name]

    running[name] = task
    task.add_done_callback(forget)
