"""Plain messages of the fleet over the wire that the NATS bus has anyway.

Rule: a subscription belongs to the link, not to a wire; it is made on every wire while that is being prepared, so it is
in place before the bus counts as connected.
"""

from __future__ import annotations

import contextlib

from nats.aio.msg import Msg

from trunkline.bus.base import OnNote
from trunkline.bus.nats.wire import Wire, WireSubscription
from trunkline.errors import BusUnavailable


class _Listener:
    """A subject being listened to, over one wire after another."""

    __slots__ = ("_listeners", "_on_note", "_wired", "closed", "subject")

    def __init__(self, listeners: list[_Listener], subject: str, on_note: OnNote) -> None:
        self._listeners = listeners
        self._on_note = on_note
        self._wired: WireSubscription | None = None
        self.subject = subject
        self.closed = False

    async def attach(self, wire: Wire) -> None:
        self._wired = await wire.subscribe(self.subject, self._on_message)
        if self.closed:
            await self._wired.close()

    async def close(self) -> None:
        self.closed = True
        if self in self._listeners:
            self._listeners.remove(self)
        if self._wired is not None:
            await self._wired.close()

    def _on_message(self, msg: Msg) -> None:
        self._on_note(msg.data, msg.reply)


class NatsFleetLink:
    """See `base.FleetLink`.

    Args:
        prefix: the first token of every subject.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._wire: Wire | None = None
        self._listeners: list[_Listener] = []

    @property
    def prefix(self) -> str:
        """The first token of every subject."""
        return self._prefix

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

    async def listen(self, subject: str, on_note: OnNote) -> _Listener:
        """Deliver a subject's messages from now on, or from when there is a server."""
        listener = _Listener(self._listeners, subject, on_note)
        self._listeners.append(listener)
        wire = self._wire
        if wire is not None and wire.alive:
            # Lost this very moment, it is made again on the next wire.
            with contextlib.suppress(BusUnavailable):
                await listener.attach(wire)
        return listener

    async def flush(self, timeout_s: float) -> None:
        """Return when the server has everything that was sent; raises BusUnavailable."""
        await self._alive().echo(timeout_s)

    def _alive(self) -> Wire:
        if self._wire is None or not self._wire.alive:
            raise BusUnavailable("NATS is not connected")
        return self._wire
