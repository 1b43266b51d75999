"""The TCP connections of a port that are not WebSockets: bounded in number, each with a time-out."""

from __future__ import annotations

import itertools
from typing import Protocol

from trunkline.server.connections.clock import Clock


class Waiting(Protocol):
    """A connection as this registry needs it."""

    def on_time_out(self) -> None:
        """Its time is over; it may `keep` itself once more."""

    def abort(self) -> None:
        """Cut the TCP connection."""


class Pending:
    """Registry of at most `limit` pending connections, each with `timeout_s` seconds for its next step."""

    def __init__(self, limit: int, timeout_s: float, clock: Clock) -> None:
        self._limit = limit
        self.timeout_s = timeout_s
        self._clock = clock
        # All wait equally long, so a dict in order of arrival is their queue, and the wheel is spared.
        self._deadlines: dict[Waiting, float] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._deadlines)

    def open(self, connection: Waiting) -> bool:
        """A TCP connection has come; False when there are too many already, or the port is closed."""
        if self._closed or len(self._deadlines) >= self._limit:
            return False
        self._deadlines[connection] = self._clock.now + self.timeout_s
        return True

    def keep(self, connection: Waiting) -> None:
        """It made progress: its time-out begins again."""
        self._deadlines.pop(connection, None)
        self._deadlines[connection] = self._clock.now + self.timeout_s

    def remove(self, connection: Waiting) -> None:
        """It was upgraded, or has ended."""
        self._deadlines.pop(connection, None)

    def expire(self, now: float) -> None:
        """Call `on_time_out` of those whose time is over."""
        for connection, _ in list(itertools.takewhile(lambda item: item[1] <= now, self._deadlines.items())):
            del self._deadlines[connection]
            connection.on_time_out()

    def close(self) -> None:
        """Cut all connections and let no other in."""
        self._closed = True
        for connection in list(self._deadlines):
            connection.abort()
