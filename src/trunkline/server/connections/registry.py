"""The connections of a node, the tasks that work for them, and the error that a client was sent last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from trunkline.server.connections.connection import Connection
from trunkline.server.connections.ports import Subscriber
from trunkline.server.connections.runtime import Runtime
from trunkline.server.connections.states import OPEN


class Registry:
    """Knows every connection from its handshake to its end; the owner that connections report to.

    Attributes:
        slow: connections with an outbox.
        tasks: work that the node waits for when it stops.
        last_error: code and text of the newest error message, for `/api/stats`; sent at `last_error_ms`.
    """

    def __init__(
        self, runtime: Runtime, unsubscribe: Callable[[Connection], None], on_lost: Callable[[Connection], None]
    ) -> None:
        self._runtime = runtime
        self._unsubscribe = unsubscribe
        self._on_lost = on_lost
        self.connections: set[Connection] = set()
        self.slow: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._leaving: dict[Subscriber, asyncio.Future[None]] = {}
        self.last_error: str | None = None
        self.last_error_ms: int | None = None

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run `work` as a task that the node waits for when it stops."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def note_error(self, code: str, text: str) -> None:
        """Count an error message and keep it for `/api/stats`."""
        self._runtime.meter.errors.add(code)
        self.last_error = f"{code}: {text}"
        self.last_error_ms = self._runtime.clock.wall_ms

    async def room(self, connection: Subscriber) -> None:
        """Wait until everything written to the connection has left, or it has ended; for long replays."""
        while connection.blocked and connection.state == OPEN:
            left = self._leaving.get(connection)
            if left is None:
                left = self._leaving[connection] = asyncio.get_running_loop().create_future()
            await asyncio.shield(left)

    def opened(self, connection: Connection) -> None:
        """A handshake is being answered: the connection's time-outs begin."""
        self.connections.add(connection)
        self._runtime.meter.connections += 1
        self._runtime.wheel.schedule(connection, connection.next_due())

    def fell_behind(self, connection: Connection) -> None:
        """Frames wait in the connection's outbox."""
        self.slow.add(connection)

    def caught_up(self, connection: Connection) -> None:
        """Everything written has left, or will never leave."""
        self.slow.discard(connection)
        left = self._leaving.pop(connection, None)
        if left is not None:
            left.set_result(None)

    def closing(self, connection: Connection) -> None:
        """Our close frame was sent: nothing that is published from here on is for this client."""
        self._unsubscribe(connection)

    def lost(self, connection: Connection) -> None:
        """The TCP connection has ended."""
        self.caught_up(connection)
        self._unsubscribe(connection)
        self.connections.discard(connection)
        self._on_lost(connection)
