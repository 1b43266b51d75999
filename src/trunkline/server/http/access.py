"""The access line: one log line for each connection that ended.

Connections end by the thousand when a node drains, so lines are encoded here and written together once a tick.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import msgspec

from trunkline.protocol.timestamps import utc

if TYPE_CHECKING:
    from trunkline.server.connections.connection import Connection

LOGGER = "trunkline.access"


class AccessLine(msgspec.Struct):
    """One connection that has ended. It holds no message, no token and no query."""

    connection: str
    session: str
    path: str
    address: str
    subject: str | None
    duration_s: float
    code: int
    reason: str
    by: str
    bytes_in: int
    bytes_out: int
    timestamp: str
    event: str = "connection"
    logger: str = LOGGER
    level: str = "info"


class AccessLog:
    """Collects access lines."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []

    def add(self, connection: Connection, duration_s: float, wall_ms: int) -> None:
        """Add the line of a connection that ended at `wall_ms` (since 1970)."""
        client = connection.identity
        line = AccessLine(
            connection=client.id,
            session=client.session,
            path=_safe(client.path),
            address=client.address,
            subject=client.subject,
            duration_s=round(duration_s, 3),
            code=connection.close_code,
            reason=_safe(connection.close_reason) if connection.close_reason else "",
            by="server" if connection.ended_by_us else "client",
            bytes_in=connection.bytes_in,
            bytes_out=connection.bytes_out,
            timestamp=_iso(wall_ms),
        )
        self._lines.append(msgspec.json.encode(line))

    def flush(self) -> None:
        """Write what was collected."""
        if self._lines:
            from trunkline.logs import configure  # loads structlog

            lines, self._lines = self._lines, []
            configure.write_lines(LOGGER, b"\n".join(lines).decode())


@functools.lru_cache(maxsize=4)
def _iso(wall_ms: int) -> str:
    """The time of a tick as text; all connections that end in it share it."""
    return utc(wall_ms / 1000)


@functools.lru_cache(maxsize=1024)
def _safe(text: str) -> str:
    """Text that a client chose, with anything that looks like a secret masked; paths and reasons repeat."""
    from trunkline.logs.configure import redact_text  # loads structlog

    return redact_text(text)
