"""Client connections that are not relayed yet, within bounds of number and time.

Rules:

- Waiting ones (for a TLS handshake, a request, or for the client to close) have a deadline, which the edge's sweep
  enforces; working ones are bounded by the time-outs of whatever works on their request.
- When there are too many, the one that has waited longest for its request goes, so that slow clients cannot lock
  others out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import structlog

from trunkline.balancer.relay.client_side import ClientSide
from trunkline.balancer.relay.meter import EdgeMeter
from trunkline.net.crowding import Crowding

log = structlog.get_logger("trunkline.balancer")


class Waiting(Protocol):
    """A client's connection that waits for the client.

    Attributes:
        deadline: loop time at which the sweep calls `on_time_out`.
        fresh: it has not requested anything yet.
    """

    deadline: float
    fresh: bool

    def abort(self) -> None:
        """Cut the TCP connection."""

    def on_time_out(self) -> None:
        """Its time is over."""

    def close_if_idle(self) -> None:
        """End it if it waits for another request."""


class PendingConnections:
    """An edge's pending connections and the tasks for their requests.

    Args:
        most: how many there may be now.
        handshake_timeout_s: seconds that a client has for a request.
        changed: set whenever one ends.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        most: Callable[[], int],
        handshake_timeout_s: float,
        meter: EdgeMeter,
        changed: asyncio.Event,
    ) -> None:
        self.stopping = False
        self._closed = False
        self._loop = loop
        self._most = most
        self._handshake_timeout_s = handshake_timeout_s
        self._meter = meter
        self._crowding = Crowding()
        self._changed = changed
        self._waiting: dict[Waiting, None] = {}
        self._working: dict[Waiting, bool] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._working)

    def __contains__(self, connection: object) -> bool:
        return connection in self._working or connection in self._waiting

    @property
    def busy(self) -> bool:
        """Whether a task works on a request."""
        return bool(self._tasks)

    @property
    def fresh(self) -> bool:
        """Whether one of them has not requested anything yet."""
        return any(connection.fresh for connection in self._waiting)

    def add(self, connection: Waiting) -> bool:
        """Take a client that has connected; False when there is no room for it."""
        if self._closed:
            return False
        if len(self) >= self._most() and not self._make_room():
            return False
        self.wait(connection)
        return True

    def _make_room(self) -> bool:
        if self._crowding.is_news(self._loop.time()):
            log.warning("pending_connections_full", port="data", most=self._most())
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            self._meter.refusals.add("pending_full")
            return False
        self._meter.pending_dropped.add("data")
        del self._waiting[oldest]
        oldest.abort()
        return True

    def refused(self, reason: str) -> None:
        """Count a client that never got as far as HTTP."""
        self._meter.refusals.add(reason)

    def wait(self, connection: Waiting, in_s: float | None = None) -> None:
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

    def remove(self, connection: Waiting) -> None:
        """Forget a connection that is relayed from now on, or has ended."""
        self._discard(connection)
        self._changed.set()

    def _discard(self, connection: Waiting) -> None:
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
        """End those that only wait for another request; those that have not had one answered still get theirs."""
        self.stopping = True
        for connection in list(self._waiting):
            connection.close_if_idle()

    def abort(self) -> None:
        """Cut all off, and take no more."""
        self._closed = True
        for connection in [*self._waiting, *self._working]:
            connection.abort()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()
