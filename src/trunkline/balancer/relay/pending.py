"""Client connections that are not relayed yet, within bounds of number and time.

Rules:

- Waiting ones (for a request, or for the client to close) have a deadline, which the edge's sweep enforces; working
  ones are bounded by the time-outs of whatever works on their request.
- When there are too many, the one that has waited longest for its request goes, so that slow clients cannot lock
  others out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from trunkline.balancer.relay.client_side import ClientSide
from trunkline.metrics.exposition import Labelled

MAX_PENDING: Final = 2048
"""TCP connections that may be undecided, or speak plain HTTP, at the same time."""


class PendingConnections:
    """An edge's pending connections and the tasks for their requests; `changed` is set whenever one ends."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, handshake_timeout_s: float, refusals: Labelled, changed: asyncio.Event
    ) -> None:
        self.stopping = False
        self._loop = loop
        self._handshake_timeout_s = handshake_timeout_s
        self._refusals = refusals
        self._changed = changed
        self._waiting: dict[ClientSide, None] = {}
        self._working: dict[ClientSide, bool] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._working)

    def __contains__(self, connection: object) -> bool:
        return connection in self._working or connection in self._waiting

    @property
    def busy(self) -> bool:
        """Whether a task works on a request."""
        return bool(self._tasks)

    def add(self, connection: ClientSide) -> bool:
        """Take a client that has connected; False when there is no room for it."""
        if self.stopping:
            return False
        if len(self) >= MAX_PENDING:
            self._refusals.add("doors_full")
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                return False
            oldest.abort()
            del self._waiting[oldest]
        self.wait(connection)
        return True

    def wait(self, connection: ClientSide, in_s: float | None = None) -> None:
        """Let a connection wait for its client, for the time of a handshake or for `in_s` seconds."""
        self._discard(connection)
        connection.deadline = self._loop.time() + (self._handshake_timeout_s if in_s is None else in_s)
        self._waiting[connection] = None

    def work(self, connection: ClientSide, work: Coroutine[Any, Any, None], *, upgrade: bool) -> asyncio.Task[None]:
        """Run `work` on a connection's request, an upgrade to a WebSocket or another one."""
        self._waiting.pop(connection, None)
        self._working[connection] = upgrade
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def is_upgrading(self, connection: ClientSide) -> bool:
        """Whether it is on the way to a WebSocket."""
        return self._working.get(connection, False)

    def remove(self, connection: ClientSide) -> None:
        """Forget a connection that is relayed from now on, or has ended."""
        self._discard(connection)
        self._changed.set()

    def _discard(self, connection: ClientSide) -> None:
        self._working.pop(connection, None)
        self._waiting.pop(connection, None)

    def sweep(self, now: float) -> None:
        """End the connections whose deadline has passed."""
        for connection in [connection for connection in self._waiting if connection.deadline <= now]:
            # Whatever it does takes a moment; it is looked at again should that not end it.
            del self._waiting[connection]
            self._waiting[connection] = None
            connection.on_time_out()

    def stop(self) -> None:
        """Take no more, and end those that only wait for another request."""
        self.stopping = True
        for connection in list(self._waiting):
            connection.close_if_idle()

    def abort(self) -> None:
        """Cut all off."""
        for connection in [*self._waiting, *self._working]:
            connection.abort()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()
