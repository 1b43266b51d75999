"""What the registry of pending connections, upgrade and pass-through may do with a client's connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

STALL_S: Final = 60.0
"""How long a client may send or take nothing of a body."""


class ClientSide(Protocol):
    """The client's TCP connection until it is relayed.

    Attributes:
        deadline: loop time at which the sweep calls `on_time_out`.
        fresh: it has not requested anything yet.
        answered: its last answer has been written.
        began: an answer has been written in part.
        ended: the client sends no more.
    """

    deadline: float
    fresh: bool
    transport: asyncio.Transport
    answered: bool
    began: bool
    ended: bool

    @property
    def is_over(self) -> bool:
        """The client is gone, sends no more, or has had its last answer."""

    def read_on(self) -> None:
        """Read from the client again."""

    def write(self, data: bytes) -> None:
        """Write a piece of an answer."""

    async def drained(self) -> None:
        """Wait until the client takes more; raises TimeoutError when it does not."""

    async def next_request(self, keep: bool) -> None:
        """An answer is complete; `keep` says whether the connection may serve another request."""

    def refuse(
        self,
        status: int,
        reason: str,
        text: str,
        *,
        retry_after_s: float | None = None,
        headers: Iterable[tuple[str, str]] = (),
        head_only: bool = False,
    ) -> None:
        """Refuse a request with one line of text, counted under `reason`, and close; `head_only` answers HEAD."""

    def finish(self, data: bytes) -> None:
        """Write the last of an answer, and close when the client has it."""

    def leave(self) -> bytes:
        """Hand the transport to a relay; returns what the client sent behind its handshake."""

    def abort(self) -> None:
        """Cut the TCP connection."""

    def on_time_out(self) -> None:
        """The time for a request's head, or for taking the last answer, is over."""

    def close_if_idle(self) -> None:
        """End it if it waits for another request."""
