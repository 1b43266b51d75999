"""Messages to and from a worker process over a pair of sockets, in MessagePack.

Rules:

- Nothing longer than `LONGEST` is sent or read; the sender gets an error before anything is written.
- An end in the middle of a message is an end: its sender was killed.
- A message that cannot be read is an error that names what is wrong, never a message that is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import Final, Generic, TypeVar

import msgspec

from trunkline.errors import TrunklineError
from trunkline.load.model.messages import MAX_BYTES, FromWorker, ToWorker
from trunkline.process.framing import Framing, head

In = TypeVar("In")

LONGEST: Final = MAX_BYTES - 64
"""Bytes of a packed message: with what goes around it on NATS it stays below MAX_BYTES."""

_CHUNK: Final = 65_536


class BadMessage(TrunklineError):
    """A message is too long, or cannot be read, or was not due."""


class ChannelClosed(TrunklineError):
    """The other end is gone, or messages on the way from it were lost."""


TO_WORKER: Final[msgspec.msgpack.Decoder[ToWorker]] = msgspec.msgpack.Decoder(ToWorker)
FROM_WORKER: Final[msgspec.msgpack.Decoder[FromWorker]] = msgspec.msgpack.Decoder(FromWorker)


def pack(message: msgspec.Struct) -> bytes:
    """A message as bytes; raises BadMessage when they are more than `LONGEST`, or there are none for it."""
    try:
        data = msgspec.msgpack.encode(message)
    except (UnicodeError, OverflowError) as error:
        # For example half of a surrogate pair in a text of a user's flow.
        raise BadMessage(f"a message {type(message).__name__} cannot be written: {error}") from None
    if len(data) > LONGEST:
        raise BadMessage(f"a message {type(message).__name__} has {len(data)} bytes, more than {LONGEST}")
    return data


def unpack(data: bytes, decoder: msgspec.msgpack.Decoder[In]) -> In:
    """The message of some bytes; raises BadMessage."""
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise BadMessage(f"a message of {len(data)} bytes cannot be read: {error}") from None


class Pipe(Generic[In]):
    """One end of a pair of sockets; made by `Pipe.open`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, decoder: msgspec.msgpack.Decoder[In]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder
        self._framing = Framing(LONGEST)
        self._whole: deque[bytes] = deque()

    @classmethod
    async def open(cls, end: socket.socket, decoder: msgspec.msgpack.Decoder[In]) -> Pipe[In]:
        """Take over one socket of a pair; it is closed with the pipe."""
        end.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=end)
        # A message counts as sent when the kernel has it: then it survives the sender's end.
        writer.transport.set_write_buffer_limits(high=0)
        return cls(reader, writer, decoder)

    async def send(self, message: msgspec.Struct) -> None:
        """Send one message; raises BadMessage when it is too long, ChannelClosed when the other end is gone."""
        await self.send_packed(pack(message))

    async def send_packed(self, data: bytes) -> None:
        """Send a message that is bytes already; raises as `send` does."""
        if len(data) > LONGEST:
            raise BadMessage(f"a message has {len(data)} bytes, more than {LONGEST}")
        if self._writer.is_closing():
            raise ChannelClosed("the pipe is closed")
        try:
            # One write, so that two senders never mix.
            self._writer.write(head(len(data)) + data)
            await self._writer.drain()
        except (OSError, RuntimeError) as error:
            raise ChannelClosed(f"the pipe's other end is gone: {error}") from None

    async def receive(self) -> In | None:
        """The next message, None at the end; raises BadMessage."""
        data = await self.receive_packed()
        return None if data is None else unpack(data, self._decoder)

    async def receive_packed(self) -> bytes | None:
        """The next message as bytes, None at the end; raises BadMessage when it is too long."""
        while not self._whole:
            if self._framing.too_long is not None:
                raise BadMessage(f"a message of {self._framing.too_long} bytes is coming, more than {LONGEST}")
            try:
                data = await self._reader.read(_CHUNK)
            except OSError:
                return None
            if not data:
                return None
            self._whole.extend(self._framing.feed(data))
        return self._whole.popleft()

    def close(self) -> None:
        """Close this end; what the socket has not taken yet is dropped."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.transport.abort()
