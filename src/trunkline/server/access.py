"""The access line: one log line for each connection that ended, with what an operator asks about it later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from trunkline.server.connection import Connection


class AccessLog:
    """Writes access lines. They hold no message, no token and no query."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("trunkline.access")

    def write(self, connection: Connection, duration_s: float) -> None:
        """Write the line of a connection that has ended.

        Args:
            connection: the ended connection.
            duration_s: how long it lasted.
        """
        client = connection.client
        self._log.info(
            "connection",
            connection=client.id,
            session=client.session,
            path=client.path,
            address=client.address,
            subject=client.subject,
            duration_s=round(duration_s, 3),
            code=connection.close_code,
            reason=connection.close_reason,
            by="server" if connection.ended_by_us else "client",
            bytes_in=connection.bytes_in,
            bytes_out=connection.bytes_out,
        )
