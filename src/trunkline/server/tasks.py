"""Background work of the hub: kept until it ends, its faults logged, and the same work for many waiters done once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from trunkline.bus import BusUnavailable

log = structlog.get_logger("trunkline.hub")
T = TypeVar("T")


class Tasks:
    """A set of running tasks."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def running(self) -> frozenset[asyncio.Task[Any]]:
        """What has not ended."""
        return frozenset(self._running)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def once(self, running: dict[str, asyncio.Task[T]], name: str, work: Coroutine[Any, Any, T]) -> T:
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
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, BusUnavailable):
            log.error("hub_task_failed", error=repr(error))


def remember(running: dict[str, asyncio.Task[T]], name: str, task: asyncio.Task[T]) -> None:
    """Keep `task` under `name` until it is done. A task that took its place meanwhile stays."""

    def forget(_: asyncio.Task[T]) -> None:
        if running.get(name) is task:
            del running[name]

    running[name] = task
    task.add_done_callback(forget)
