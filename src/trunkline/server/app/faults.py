"""What a client is told when its message could not be served, and when a fault ends its connection."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from trunkline.bus import BusUnavailable
from trunkline.errors import ClientGone, MessageError
from trunkline.logs.logger import get_logger
from trunkline.protocol import close_codes, wire
from trunkline.server.connections.connection import CLOSED

if TYPE_CHECKING:
    from trunkline.server.app.client import Client

log = get_logger("trunkline.client")


async def guard(client: Client, work: Awaitable[None], id: wire.MessageId = None) -> None:
    """Await `work` for a client's message; what goes wrong becomes an `error` message, never the connection's end."""
    try:
        await work
    except Exception as error:
        explain(client, error, id)


def explain(client: Client, error: Exception, id: wire.MessageId = None, *, close_on_fault: bool = False) -> None:
    """Tell the client why its message was not served; what is nobody's known fault is logged, not told.

    Args:
        client: who sent it.
        error: what went wrong.
        id: the message's id.
        close_on_fault: end the connection with 1011 when it was the application's fault.
    """
    if isinstance(error, ClientGone) or client.connection.state == CLOSED:
        return
    envelope = client.route.envelope
    if isinstance(error, MessageError) and envelope:
        client.send_error(error.code, error.message, id, temporary=error.temporary, retry_after_ms=error.retry_after_ms)
        return
    if isinstance(error, BusUnavailable) and envelope:
        client.send_error(
            wire.UNAVAILABLE, "the bus is not reachable now; try again", id, temporary=True, retry_after_ms=1000
        )
        if close_on_fault:
            client.connection.end(close_codes.OVERLOADED.code, "the bus is not reachable", 1000)
        return
    log.error("handler_failed", connection=client.id, path=client.route.path, exc_info=error)
    if envelope:
        client.send_error(wire.INTERNAL, "the server could not handle this message", id)
    if close_on_fault or not envelope:
        client.connection.end(close_codes.INTERNAL.code, close_codes.INTERNAL.reason)
