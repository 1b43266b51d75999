"""How every part of ours connects to NATS, logs in, sends requests and disconnects, with errors that name the cause.

Rules:

- Connecting again is the part of `link.py`: the library's way waits, keeps messages for later, and reports nothing.
- Secrets are sent over TLS alone where TLS was required: the library encrypts only when the server offers it, and
  someone in between could hide the offer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from trunkline.errors import BusUnavailable, SettingsError
from trunkline.nats.address import NatsAddress
from trunkline.process.bounds import within

CONNECT_TIMEOUT_S: Final = 2
CLOSE_TIMEOUT_S: Final = 2.0


class Connection:
    """A log-in that is never revived; `lost` is done with the reason when it has ended, or was given up."""

    def __init__(self, client: Client, lost: asyncio.Future[str]) -> None:
        self.client = client
        self.lost = lost

    @property
    def alive(self) -> bool:
        """Whether messages can be sent now."""
        return not self.lost.done() and self.client.is_connected

    async def close(self, reason: str = "it was closed") -> None:
        """Disconnect; `lost` is done with `reason`."""
        _set(self.lost, reason)
        await _close(self.client)


async def log_in(
    address: NatsAddress,
    *,
    name: str,
    tls: ssl.SSLContext | None,
    on_error: Callable[[str], None] | None = None,
    **options: Any,
) -> Connection:
    """Connect to the first server that answers.

    Args:
        address: the servers to try, and the user or token to log in with.
        name: shown by NATS.
        tls: see `tls_context`.
        on_error: called with what else the server or the library reports.
        options: further ones of the library's `connect`.

    Raises:
        BusUnavailable: no server accepted the log-in.
    """
    client = Client()
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    last_error = "no server answered"

    async def reported(error: Exception) -> None:
        nonlocal last_error
        unnamed = "it does not answer" if isinstance(error, TimeoutError) else type(error).__name__
        last_error = str(error) or unnamed
        if isinstance(error, (OSError, nats_errors.StaleConnectionError)) and client.is_connected:
            _set(lost, last_error)
        elif on_error is not None and not isinstance(error, OSError):
            on_error(last_error)

    async def closed() -> None:
        _set(lost, str(client.last_error or last_error))

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
                tls=tls,
                **_secrets(client, address),
                **options,
            )
        _refuse_plain(client, address)
    except BaseException as error:
        # A server that refuses a log-in often closes before its reason can be read; what is no NATS sends anything.
        info: object = client._server_info
        wanted = isinstance(info, dict) and info.get("auth_required", False)
        hint = "; it asks for a log-in: check the user, password or token" if wanted else ""
        await _close(client)
        if isinstance(error, (nats_errors.Error, OSError, TimeoutError, AssertionError, ValueError)):
            raise BusUnavailable(f"NATS at {address.shown} cannot be reached: {last_error}{hint}") from error
        if isinstance(error, Exception) and not isinstance(error, BusUnavailable):
            # What answers there is no NATS: the library stumbles over it in any way.
            why = f"what answers is no NATS ({type(error).__name__})"
            raise BusUnavailable(f"NATS at {address.shown} cannot be reached: {why}") from error
        raise
    return Connection(client, lost)


def _secrets(client: Client, address: NatsAddress) -> dict[str, Any]:
    """Options that log in; the library calls for each secret when the log-in is about to be written."""

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
    """Whether the caller's task is being cancelled, since the library cancels what waits when a connection ends."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def request(client: Client, subject: str, data: bytes, timeout_s: float) -> Msg:
    """Send a request, and wait at most `timeout_s` seconds for the answer.

    Raises:
        NoRespondersError: the subject has no subscriber.
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


def tls_context(address: NatsAddress, ca_file: str | Path | None = None) -> ssl.SSLContext | None:
    """How to verify the servers of a `tls://` address, None for any other; raises SettingsError for a bad `ca_file`.

    `ca_file` is the PEM file of the authority that signed their certificates; None means the system's.
    """
    if not address.tls:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        allowed = f"it must be a readable PEM file ({error})"
        raise SettingsError("bus.tls_ca_file", value=str(ca_file), allowed=allowed) from None


async def _close(client: Client) -> None:
    """Close as far as the peer lets us: one that does not read would delay the orderly close without end."""
    with contextlib.suppress(nats_errors.Error, OSError, TimeoutError, AssertionError, RuntimeError):
        await within(CLOSE_TIMEOUT_S, client.close())


def _set(lost: asyncio.Future[str], reason: str) -> None:
    if not lost.done():
        lost.set_result(reason)
