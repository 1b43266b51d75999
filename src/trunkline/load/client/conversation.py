"""One connection whose messages are awaited one by one: for checks, where a session of a run would react and count."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Final, TypeVar

import msgspec

from trunkline.load.client.dial import Dialer
from trunkline.load.client.link import WebSocket
from trunkline.load.client.protocols.subscriber import MAX_CODE
from trunkline.load.client.session import Session, Shared
from trunkline.load.model.messages import Job
from trunkline.load.model.plan import Scenario, Stage, Target
from trunkline.load.model.tally import Tally
from trunkline.protocol import wire

M = TypeVar("M", bound=msgspec.Struct)

_ENDS_S: Final = 1.0


class Publication(msgspec.Struct, tag="publication"):
    """A publication, whose data is kept as it came."""

    channel: str
    data: msgspec.Raw
    epoch: str | None = None
    offset: int | None = None
    prev: int | None = None


_decode: Final = msgspec.json.Decoder(
    Publication | wire.ConnectionEstablished | wire.Pong | wire.SubscriptionAck | wire.PublishAck | wire.ErrorMessage
    | wire.Goodbye
).decode  # fmt: skip


class ConnectionEnded(Exception):
    """The other side ended the connection; the text is its close code and reason."""


class Unanswered(Exception):
    """What was expected did not come; the text says what."""


class Refusal(Unanswered):
    """The answer was an `error` with this code."""

    def __init__(self, code: str, wanted: str) -> None:
        super().__init__(f"the server answered with the error {code[:MAX_CODE]} in place of {wanted}")
        self.code = code


class _Listener(Session):
    __slots__ = ("closed", "messages")

    def __init__(self, shared: Shared) -> None:
        super().__init__(0, shared)
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def message(self, payload: bytes, binary: bool) -> None:
        self.messages.put_nowait(payload)


class Conversation:
    """An open connection; made by `open`, ended by `close`.

    Attributes:
        tcp_s: seconds that TCP took.
    """

    def __init__(self, listener: _Listener, tcp_s: float) -> None:
        self._listener = listener
        self.tcp_s = tcp_s

    @classmethod
    async def open(cls, dialer: Dialer, token: str = "") -> Conversation:
        """Open a connection with a bearer `token` unless that is empty; raises DialError."""
        tally = Tally()
        job = Job("check", Target(""), Scenario("check", (Stage(0, 1),)), 0, 1, 0)
        listener = _Listener(Shared(job, tally, time.monotonic, random.Random(0)))  # noqa: S311  # no secrets here
        took: list[float] = []

        def up(link: WebSocket) -> None:
            listener.link = link

        def down(_: WebSocket, code: int, reason: str) -> None:
            if not listener.closed.done():
                listener.closed.set_result(f"{code} {reason}".rstrip())

        try:
            await dialer.open(lambda: WebSocket(listener, tally, up, down), took.append, token)
        except BaseException:
            if listener.link is not None:
                listener.link.abort()
            raise
        return cls(listener, took[0])

    @property
    def closed(self) -> asyncio.Future[str]:
        """Code and reason, once it has ended."""
        return self._listener.closed

    def send(self, message: bytes | msgspec.Struct) -> None:
        """Send a text, or a message as JSON; nothing where the connection has ended."""
        if self._listener.link is not None and not self.closed.done():
            self._listener.link.send(message if isinstance(message, bytes) else msgspec.json.encode(message))

    async def next(self, timeout_s: float) -> bytes | None:
        """The next message, or None when none comes; raises ConnectionEnded when the connection ends before."""
        getting = asyncio.ensure_future(self._listener.messages.get())
        either: set[asyncio.Future[Any]] = {getting, self.closed}
        try:
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
        finally:
            getting.cancel()
        if self.closed.done():
            raise ConnectionEnded(self.closed.result())
        return None

    async def expect(self, kind: type[M], timeout_s: float, channel: str = "") -> M:
        """The next message of this kind, and of this channel unless empty; others are passed over.

        Raises Unanswered, and ConnectionEnded when the connection ends before.
        """
        name = str(kind.__struct_config__.tag)
        until = time.monotonic() + timeout_s
        while (payload := await self.next(max(0.0, until - time.monotonic()))) is not None:
            try:
                message = _decode(payload)
            except msgspec.ValidationError:
                continue
            except msgspec.DecodeError:
                raise Unanswered(f"what came in place of {name} is not JSON") from None
            if isinstance(message, wire.Goodbye):
                raise ConnectionEnded(await self.closed)
            if isinstance(message, wire.ErrorMessage):
                raise Refusal(message.code, name)
            if isinstance(message, kind) and channel in ("", getattr(message, "channel", "")):
                return message
        raise Unanswered(f"no {name} came within {timeout_s:g} s")

    async def close(self) -> None:
        """End it with a closing handshake, or without one where the other side does not answer."""
        if self._listener.link is not None:
            self._listener.link.close()
            await asyncio.wait({self.closed}, timeout=_ENDS_S)
            self._listener.link.abort()
