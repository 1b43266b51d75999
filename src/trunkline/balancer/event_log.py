"""The log lines of connections: opened, closed, refused, failed; each with the backend and why it was that one.

Connections come and go by the thousand, so lines are encoded here and written together once a tick.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec
import structlog

from trunkline.balancer.relay.meter import EdgeEvent
from trunkline.logs import configure
from trunkline.process.bounds import end_tasks
from trunkline.protocol.timestamps import utc

LOGGER: Final = "trunkline.edge"
TICK_S: Final = 0.1
MOST_WAITING: Final = 10_000
"""Lines that may wait for the tick; above it a flood of refusals would cost more than it is worth."""
PATH_CHARS: Final = 1024


class EventLine(msgspec.Struct, omit_defaults=True):
    """One event. It holds no query, no cookie and no token."""

    event: str
    backend: str
    reason: str
    address: str
    path: str
    timestamp: str
    logger: str
    level: str
    status: int = 0
    duration_s: float = 0.0


class EventLog:
    """Collects the lines of an edge."""

    def __init__(self) -> None:
        self._events: list[tuple[float, EdgeEvent]] = []
        self._left_out = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write once a tick."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write what is left."""
        if self._task is not None:
            await end_tasks([self._task])
        self.flush()

    def add(self, event: EdgeEvent) -> None:
        """Take an event."""
        if len(self._events) < MOST_WAITING:
            self._events.append((time.time(), event))
        else:
            self._left_out += 1

    def flush(self) -> None:
        """Write what was collected."""
        events, self._events = self._events, []
        left_out, self._left_out = self._left_out, 0
        if not events:
            return
        lines = [msgspec.json.encode(_line(at, event)) for at, event in events]
        configure.write_lines(LOGGER, b"\n".join(lines).decode())
        if left_out:
            configure.write_lines(LOGGER, msgspec.json.encode(_Flood(left_out, utc(time.time()))).decode())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self.flush()
            except Exception:
                # Lines of one tick are lost; the log of all that follows must not be.
                structlog.get_logger(LOGGER).exception("connection_lines_lost")


class _Flood(msgspec.Struct):
    lines: int
    timestamp: str
    event: str = "connection_lines_left_out"
    logger: str = LOGGER
    level: str = "warning"


def _line(at: float, event: EdgeEvent) -> EventLine:
    return EventLine(
        event=f"connection_{event.event}",
        backend=event.backend,
        reason=event.reason,
        address=event.address,
        path=configure.redact_text(_shown(event.path)),
        timestamp=utc(at),
        logger=LOGGER,
        level="warning" if event.event == "failed" else "info",
        status=event.status,
        duration_s=round(event.duration_s, 3),
    )


def _shown(path: str) -> str:
    """A path cut to what a line may cost; bytes that are no text, as a server's parser hands them on, become "?"."""
    path = path[:PATH_CHARS]
    return path if path.isascii() else path.encode("utf-8", "replace").decode()
