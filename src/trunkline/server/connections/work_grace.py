"""Work for a client that has gone: it may go on for a while, then it is cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

from trunkline.logs.logger import get_logger
from trunkline.server.connections.runtime import Runtime

log = get_logger("trunkline.client")


class WorkGrace:
    """Cancels `task` when the grace that the node's bounds give it is over; an entry of the wheel until then.

    `connection` and `path` name the client in the log.
    """

    __slots__ = ("_connection", "_grace_s", "_path", "_task", "due", "slot")

    def __init__(self, runtime: Runtime, task: asyncio.Task[Any], connection: str, path: str) -> None:
        self.slot = -1
        self.due = 0.0
        self._task = task
        self._connection = connection
        self._path = path
        self._grace_s = runtime.bounds.work_grace_s
        runtime.wheel.schedule(self, runtime.clock.now + self._grace_s)
        task.add_done_callback(lambda _: runtime.wheel.cancel(self))

    def on_time(self, now: float) -> None:
        """The grace is over."""
        if not self._task.done():
            log.warning("handler_cancelled", connection=self._connection, path=self._path, after_s=self._grace_s)
            self._task.cancel()
