"""Messages between a coordinator and workers on other machines: numbered parcels over core NATS, nothing kept.

Rules:

- NATS may lose a message without notice: parcels of one direction are numbered, and a gap ends the worker's part.
- The connection is not renewed: a run that has lost messages for a while is no run. An agent waits for the next one.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from trunkline.load.model.messages import MAX_BYTES
from trunkline.load.workers.pipe import BadMessage, ChannelClosed
from trunkline.nats.address import NatsAddress
from trunkline.nats.login import Connection, log_in, tls_context
from trunkline.protocol.subjects import inbox_prefix

PING_S: Final = 2
FLUSH_S: Final = 10.0
FLUSH_BYTES: Final = 1 << 16
"""After so many bytes the sender waits until NATS has them, so that memory does not fill."""

# The library drops what its callbacks have not taken beyond these bounds; the numbers of the parcels would show it.
_PENDING_MESSAGES: Final = 65_536
_PENDING_BYTES: Final = 256 << 20


class Parcel(msgspec.Struct, frozen=True, array_like=True):
    """A message on its way."""

    number: int  # of the parcels of this direction, from 0
    data: bytes  # the packed message
    end: str | None = None  # only in the last parcel; of a worker: how it ended, to a worker: why it must end


_PARCEL: Final = msgspec.msgpack.Decoder(Parcel)


class Incoming:
    """Parcels in the order of their numbers, or an error that names the missing one."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Parcel | Exception] = asyncio.Queue()
        self._due = 0

    async def heard(self, message: Msg) -> None:
        """The callback of the subscription."""
        self.put(message.data)

    def put(self, data: bytes) -> None:
        """A parcel has come."""
        try:
            parcel = self._open(data)
        except (BadMessage, ChannelClosed) as error:
            self.fail(error)
        else:
            self._queue.put_nowait(parcel)

    def _open(self, data: bytes) -> Parcel:
        if len(data) > MAX_BYTES:
            raise BadMessage(f"a message of {len(data)} bytes came over NATS, more than {MAX_BYTES}")
        try:
            parcel = _PARCEL.decode(data)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"a message over NATS cannot be read: {error}") from None
        if parcel.number != self._due:
            raise ChannelClosed(
                f"messages were lost on NATS: number {parcel.number} came where {self._due} was due; "
                "is the network or the NATS server overloaded?"
            )
        self._due += 1
        return parcel

    def fail(self, error: Exception) -> None:
        """Nothing more can come; what came before is still handed out."""
        self._queue.put_nowait(error)

    async def next(self) -> Parcel:
        """The next parcel; raises BadMessage or ChannelClosed."""
        given = await self._queue.get()
        if isinstance(given, Exception):
            raise given
        return given


class Outgoing:
    """Numbers messages and publishes them."""

    def __init__(self, client: Client, subject: str) -> None:
        self._client = client
        self._subject = subject
        self._number = 0
        self._unflushed = 0

    async def send(self, data: bytes, end: str | None = None) -> None:
        """Send a packed message; raises ChannelClosed when NATS is gone, BadMessage when it takes none so long."""
        packed = msgspec.msgpack.encode(Parcel(self._number, data, end))
        # Counted before anything is awaited: two senders never use one number, and the library keeps their order.
        self._number += 1
        try:
            await self._client.publish(self._subject, packed)
            self._unflushed += len(packed)
            if self._unflushed > FLUSH_BYTES:
                self._unflushed = 0
                await self._client.flush(int(FLUSH_S))
        except nats_errors.MaxPayloadError:
            raise BadMessage(
                f"a message of {len(packed)} bytes is longer than this NATS takes; raise its max_payload to 1MB"
            ) from None
        except (nats_errors.Error, OSError, TimeoutError) as error:
            raise ChannelClosed(f"NATS did not take a message: {error or type(error).__name__}") from None


async def connect(address: NatsAddress, name: str, prefix: str) -> Connection:
    """Connect and log in under a name that NATS shows; raises BusUnavailable."""
    return await log_in(
        address, name=name, tls=tls_context(address), ping_interval=PING_S, max_outstanding_pings=2,
        inbox_prefix=inbox_prefix(prefix, address.user),
    )  # fmt: skip


async def listen(client: Client, subject: str, incoming: Incoming) -> None:
    """Subscribe to one direction of a channel."""
    await client.subscribe(
        subject, cb=incoming.heard, pending_msgs_limit=_PENDING_MESSAGES, pending_bytes_limit=_PENDING_BYTES
    )
