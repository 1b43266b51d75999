"""What an application writes: endpoint classes, or functions, and the limits of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Never, TypeAlias

import msgspec

from trunkline.http1.requests import Request
from trunkline.server.app.client import Client

EndpointFunction: TypeAlias = Callable[[Client], Coroutine[object, object, None]]


class Endpoint:
    """Base of endpoint classes; one instance serves all clients of its path. Override what you need.

    `on_message` and `on_connect` may be plain or async functions. Plain ones run inside the read that brought the
    message and must not block. Async ones are awaited one message at a time for each client.
    """

    def admit(self, request: Request) -> Awaitable[None] | None:
        """Decide on a handshake before it is answered; raise `Refused` to turn the client away. May be async."""

    def on_connect(self, client: Client) -> Awaitable[None] | None:
        """The client is connected."""

    def on_message(self, client: Client, message: Never) -> Awaitable[None] | None:
        """The client sent a message; an override gives `message` the type that its endpoint declares."""

    def on_disconnect(self, client: Client, code: int, reason: str) -> Awaitable[None] | None:
        """The client's connection has ended; nothing reaches it any more."""


class Limits(msgspec.Struct, frozen=True):
    """Limits of one endpoint; None: the setting's value.

    Attributes:
        message_bytes: largest message.
        rate_burst: messages a client may send at once.
        rate_per_s: messages a second it may go on with; 0 switches the limit off.
        outbox_bytes: bytes that may wait for a client that reads slowly.
        deflate_min_bytes: answers below this go out uncompressed.
    """

    message_bytes: int | None = None
    rate_burst: float | None = None
    rate_per_s: float | None = None
    outbox_bytes: int | None = None
    deflate_min_bytes: int | None = None
