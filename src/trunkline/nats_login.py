"""How every part of ours logs in to NATS and lets go of it: secrets are shown over TLS alone where TLS was asked for.

The client library encrypts only when the server says so, and someone in between could make it seem not to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from nats import errors as nats_errors
from nats.aio.client import Client

from trunkline.errors import BusUnavailable
from trunkline.nats_address import NatsAddress

CLOSE_TIMEOUT_S: Final = 2.0


def log_in_options(client: Client, address: NatsAddress) -> dict[str, Any]:
    """Options of the library's `connect` that log in.

    The library asks for each secret when the log-in is about to be written; it raises then what `refuse_plain` does.

    Args:
        client: the connection that is being made.
        address: who to log in as.
    """

    def encrypted(secret: str) -> Callable[[], str]:
        def reveal() -> str:
            refuse_plain(client, address)
            return secret

        return reveal

    options: dict[str, Any] = {}
    if address.token is not None:
        options["token"] = encrypted(address.token)
    if address.user is not None:
        options["user"] = encrypted(address.user)
        options["password"] = encrypted(address.password or "")
    return options


def refuse_plain(client: Client, address: NatsAddress) -> None:
    """Raise BusUnavailable when a `tls://` address led to a server that offered no encryption."""
    if address.tls and not client._server_info.get("tls_required", False):
        raise BusUnavailable(f"NATS at {address.shown} does not ask for TLS; a tls:// address never talks without it")


async def close_client(client: Client) -> None:
    """Close as far as the peer lets us: one that does not read would hold the orderly way up for ever."""
    with contextlib.suppress(nats_errors.Error, OSError, TimeoutError, AssertionError, RuntimeError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await client.close()
