"""How every part of ours connects to NATS, logs in, asks and lets go of it: once, with what went wrong in words.

Rules:

- Connecting again is the caller's part: the library's own way waits, keeps messages for later, and tells nobody.
- Secrets are shown over TLS alone where TLS was asked for: the library encrypts only when the server says so, and
  someone in between could make it seem not to.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from trunkline.errors import BusUnavailable
from trunkline.nats.address import NatsAddress

CONNECT_TIMEOUT_S: Final = 2
CLOSE_TIMEOUT_S: Final = 2.0


async def log_in(
    address: NatsAddress,
    *,
    name: str,
    tls: ssl.SSLContext | None,
    on_lost: Callable[[str], None],
    on_error: Callable[[str], None] | None = None,
    **options: Any,
) -> Client:
    """Connect to the first server that answers.

    Args:
        address: the servers to try, and who to log in as.
        name: shown by NATS.
        tls: how to verify the server, for a `tls://` address.
        on_lost: called with the reason when the connection ends by itself; it may be called more than once.
        on_error: called with what else the server or the library reports.
        options: further ones of the library's `connect`.

    Raises:
        BusUnavailable: no server let us in.
    """
    client = Client()
    last_error = "no server answered"

    async def reported(error: Exception) -> None:
        nonlocal last_error
        last_error = str(error) or type(error).__name__
        if isinstance(error, (OSError, nats_errors.StaleConnectionError)) and client.is_connected:
            on_lost(last_error)
        elif on_error is not None and not isinstance(error, OSError):
            on_error(last_error)

    async def closed() -> None:
        on_lost(str(client.last_error or last_error))

    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S * (1 + len(address.servers))):
            await client.connect(
                list(address.servers),
                name=name,
                error_cb=reported,
                closed_cb=closed,
                allow_reconnect=False,
                # At most two tries a server, at once; waiting between rounds is the caller's part.
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=CONNECT_TIMEOUT_S,
                pending_size=0,  # nothing is kept for later, and publishing never waits for a flush
                flusher_queue_size=0,  # unbounded, so that queueing a flush never waits and order is kept
                tls=tls if address.tls else None,
                **_secrets(client, address),
                **options,
            )
        _refuse_plain(client, address)
    except BaseException as error:
        # A server that refuses a log-in often closes before its reason can be read; what is no NATS says anything.
        info: object = client._server_info
        asked = isinstance(info, dict) and info.get("auth_required", False)
        hint = "; it asks for a log-in: check the user, password or token" if asked else ""
        await close_client(client)
        if isinstance(error, (nats_errors.Error, OSError, TimeoutError, AssertionError, ValueError)):
            raise BusUnavailable(f"NATS at {address.shown} cannot be reached: {last_error}{hint}") from error
        if isinstance(error, Exception) and not isinstance(error, BusUnavailable):
            # What answers there is no NATS: the library stumbles over it in any way.
            why = f"what answers is no NATS ({type(error).__name__})"
            raise BusUnavailable(f"NATS at {address.shown} cannot be reached: {why}") from error
        raise
    return client


def _secrets(client: Client, address: NatsAddress) -> dict[str, Any]:
    """Options that log in; the library asks for each secret when the log-in is about to be written."""

    def encrypted(secret: str) -> Callable[[], str]:
        def reveal() -> str:
            _refuse_plain(client, address)
            return secret

        return reveal

    options: dict[str, Any] = {}
    if address.token is not None:
        options["token"] = encrypted(address.token)
    if address.user is not None:
        options["user"] = encrypted(address.user)
        options["password"] = encrypted(address.password or "")
    return options


def _refuse_plain(client: Client, address: NatsAddress) -> None:
    """Raise BusUnavailable when a `tls://` address led to a server that offered no encryption."""
    if address.tls and not client._server_info.get("tls_required", False):
        raise BusUnavailable(f"NATS at {address.shown} does not ask for TLS; a tls:// address never talks without it")


def is_own_cancellation(error: BaseException) -> bool:
    """Whether it is the caller's task that is being cancelled: the library cancels what waits when a connection ends.

    Args:
        error: what an await on the library raised.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def request(client: Client, subject: str, data: bytes, timeout_s: float) -> Msg:
    """Ask, and wait for the answer.

    Args:
        client: a connection.
        subject: whom to ask.
        data: the question.
        timeout_s: how long to wait.

    Raises:
        NoRespondersError: nobody listens on the subject.
        BusUnavailable: the connection has ended, or no answer came in time.
    """
    try:
        return await client.request(subject, data, timeout=timeout_s)
    except nats_errors.NoRespondersError:
        raise
    except (TimeoutError, asyncio.CancelledError) as error:
        if is_own_cancellation(error):
            raise
        raise BusUnavailable(f"no answer on {subject} within {timeout_s:g} s") from None
    except (nats_errors.Error, OSError) as error:
        raise BusUnavailable(f"NATS did not take a request on {subject}: {error}") from error


async def close_client(client: Client) -> None:
    """Close as far as the peer lets us: one that does not read would hold the orderly way up for ever."""
    with contextlib.suppress(nats_errors.Error, OSError, TimeoutError, AssertionError, RuntimeError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await client.close()
