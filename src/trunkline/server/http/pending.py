"""The TCP connections of a port that are not WebSockets: bounded in number, each with a time-out.

When there are too many, the one that has waited longest for its request goes, so that idle clients cannot lock others
out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

from trunkline.logs.logger import get_logger
from trunkline.net.crowding import Crowding
from trunkline.server.connections.clock import Clock

log = get_logger("trunkline.http")


class Waiting(Protocol):
    """A connection as this registry needs it."""

    @property
    def busy(self) -> bool:
        """Whether its request is being worked on."""

    def on_time_out(self) -> None:
        """Its time is over; it may `keep` itself once more."""

    def abort(self) -> None:
        """Cut the TCP connection."""


class Pending:
    """Registry of the pending connections of one port.

    Args:
        port: what the port is called in the log.
        most: how many there may be now.
        timeout_s: seconds that each has for its next step.
        on_full: called whenever one is dropped because there are too many.
    """

    def __init__(
        self, port: str, most: Callable[[], int], timeout_s: float, clock: Clock, on_full: Callable[[], None]
    ) -> None:
        self._port = port
        self._most = most
        self.timeout_s = timeout_s
        self._clock = clock
        self._on_full = on_full
        self._crowding = Crowding()
        # All wait equally long, so a dict in order of arrival is their queue, and the wheel is spared.
        self._deadlines: dict[Waiting, float] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._deadlines)

    def open(self, connection: Waiting) -> bool:
        """A TCP connection has come; False when all before it are being worked on, or the port is closed."""
        if self._closed or (len(self._deadlines) >= self._most() and not self._make_room()):
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

    def _make_room(self) -> bool:
        self._on_full()
        if self._crowding.is_news(self._clock.now):
            log.warning("pending_connections_full", port=self._port, most=self._most())
        for _ in range(len(self._deadlines)):
            oldest = next(iter(self._deadlines))
            if not oldest.busy:
                del self._deadlines[oldest]
                oldest.abort()
                return True
            # Behind the others, so that it is not looked at again for each one that comes.
            self.keep(oldest)
        return False

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
