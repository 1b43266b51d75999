"""The connections of a node, the tasks that work for them, and the error that a client was sent last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from trunkline.server.connections.runtime import Runtime

if TYPE_CHECKING:
    from trunkline.server.connections.connection import Connection


class Registry:
    """Knows every connection from its handshake to its end; the owner that connections report to.

    Args:
        runtime: what the connections share.
        unsubscribe: ends the subscriptions of a connection.
        on_lost: called with each connection that has ended.

    Attributes:
        connections: all that are open or closing.
        slow: those with an outbox.
        tasks: work that the node waits for when it stops.
        last_error: code and text of the newest error message, for `/api/stats`.
        last_error_ms: when it was sent, ms since 1970.
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

    # --- the owner of connections -------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """A handshake is being answered: the connection's time-outs begin."""
        self.connections.add(connection)
        self._runtime.meter.connections += 1
        self._runtime.wheel.schedule(connection, connection.next_due())

    def fell_behind(self, connection: Connection) -> None:
        """Frames wait in the connection's outbox."""
        self.slow.add(connection)

    def caught_up(self, connection: Connection) -> None:
        """The connection has no outbox any more."""
        self.slow.discard(connection)

    def closing(self, connection: Connection) -> None:
        """Our close frame was sent: nothing that is published from here on is for this client."""
        self._unsubscribe(connection)

    def lost(self, connection: Connection) -> None:
        """The TCP connection has ended."""
        self.slow.discard(connection)
        self._unsubscribe(connection)
        self.connections.discard(connection)
        self._on_lost(connection)
