"""Plain messages of the fleet over the wire that the NATS bus has anyway.

Rule: a subscription is made on every wire while that is being prepared, so it is in place before the bus counts as
connected.
"""

from __future__ import annotations

import contextlib
from typing import Final

from nats.aio.msg import Msg

from trunkline.bus.base import OnNote
from trunkline.bus.nats.wire import LastingSubscription, Wire
from trunkline.errors import BusUnavailable, NobodyListens

NO_RESPONDERS: Final = "503"
"""Status of the server's answer when a subject has no subscriber."""


class NatsFleetLink:
    """See `base.FleetLink`."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._wire: Wire | None = None
        self._listeners: list[LastingSubscription] = []

    @property
    def server(self) -> tuple[str, int] | None:
        """Host and port of the server that is connected."""
        return self._wire.server if self._wire is not None and self._wire.alive else None

    async def attach(self, wire: Wire) -> None:
        """Go on over a new wire; raises BusUnavailable when that is lost already."""
        # First: a listener that is added while the others are being attached is attached to this wire.
        self._wire = wire
        for listener in list(self._listeners):
            await listener.attach(wire)

    async def send(self, subject: str, data: bytes) -> None:
        """Send one message; raises BusUnavailable without a server, BusError when it is too large."""
        await self._alive().send(subject, data)

    async def listen(self, subject: str, on_note: OnNote) -> LastingSubscription:
        """Deliver a subject's messages from now on, or from when there is a server."""

        def on_message(msg: Msg) -> None:
            on_note(msg.data, msg.reply)

        listener = LastingSubscription(subject, on_message, self._listeners.remove)
        self._listeners.append(listener)
        wire = self._wire
        if wire is not None and wire.alive:
            # Lost this very moment, it is made again on the next wire.
            with contextlib.suppress(BusUnavailable):
                await listener.attach(wire)
        return listener

    async def ask(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """Send one message and return the first answer; raises BusUnavailable without one, NobodyListens at once."""
        answer = await self._alive().request(subject, data, timeout_s=timeout_s)
        if answer.headers and answer.headers.get("Status") == NO_RESPONDERS:
            raise NobodyListens(f"nobody listens on {subject}")
        return answer.data

    async def flush(self, timeout_s: float) -> None:
        """Return when the server has everything that was sent; raises BusUnavailable."""
        await self._alive().echo(timeout_s)

    def _alive(self) -> Wire:
        if self._wire is None or not self._wire.alive:
            raise BusUnavailable("NATS is not connected")
        return self._wire
