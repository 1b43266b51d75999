"""Tells the fleet which sessions a node asks to move, and which came back to it; hears the same of the others.

Rules:

- Announced first: a session is named to everybody before its client gets the goodbye, so that wherever it comes back
  its handshake is expected.
- Nothing is queued while NATS is away: goodbyes are said all the same, and the node itself knows them.
- What came back in one turn of the loop goes out in one message.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from trunkline.errors import BusError
from trunkline.logs.logger import get_logger
from trunkline.metrics.exposition import Meter
from trunkline.net.asked_sessions import AskedSessions
from trunkline.protocol.goodbyes import SESSIONS_AT_ONCE, Goodbyes
from trunkline.protocol.subjects import MAX_MESSAGE_BYTES, goodbyes_subject
from trunkline.server.connections.registry import Registry

if TYPE_CHECKING:
    from trunkline.bus.base import FleetLink, Subscription

log = get_logger("trunkline.node")

AHEAD_S: Final = 0.1
"""How long before the goodbye a session is announced: the message has a server and a queue on its way."""

RETURN_S: Final = 300.0
"""Who comes back later than this after its goodbye is a new client."""

COLOURS: Final = 64
"""Label values of one series."""


class SessionNews:
    """What one node says and hears of sessions that move; without a `link` it keeps to itself."""

    def __init__(self, node: str, colour: str, registry: Registry, meter: Meter, link: FleetLink | None) -> None:
        self.asked = AskedSessions(RETURN_S)
        self._node = node
        self._colour = colour
        self._registry = registry
        self._meter = meter
        self._link = link
        self._back: list[str] = []
        self._listening: Subscription | None = None
        self._decode = msgspec.json.Decoder(Goodbyes).decode

    @property
    def ahead_s(self) -> float:
        """Seconds from an announcement to the goodbye."""
        return AHEAD_S if self._link is not None else 0.0

    async def start(self) -> None:
        """Listen to the other nodes."""
        if self._link is not None:
            self._listening = await self._link.listen(goodbyes_subject(self._link.prefix), self._on_note)

    async def stop(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            await self._listening.close()

    async def announce(self, sessions: Sequence[str]) -> bool:
        """These are asked to move in `ahead_s` seconds; returns whether the others could be told."""
        told = True
        for begin in range(0, len(sessions), SESSIONS_AT_ONCE):
            asked = tuple(sessions[begin : begin + SESSIONS_AT_ONCE])
            said = Goodbyes(self._node, self._colour, asked, in_ms=int(self.ahead_s * 1000))
            self.asked.hear(said, time.monotonic())
            told = await self._send(said) and told
        return told

    def opened(self, session: str) -> None:
        """A client has opened a connection with a session that it brought along."""
        returned = self.asked.back(session, time.monotonic())
        if returned is None:
            return
        resumed, colour = self._meter.resumed, returned.colour
        resumed.add(colour if (colour,) in resumed.values or len(resumed.values) < COLOURS else "other")
        self._meter.reconnect.observe(returned.away_s)
        if self._link is None:
            return
        if not self._back:
            self._registry.spawn(self._send_back())
        self._back.append(session)

    async def _send_back(self) -> None:
        back, self._back = self._back, []
        for begin in range(0, len(back), SESSIONS_AT_ONCE):
            await self._send(Goodbyes(self._node, self._colour, back=tuple(back[begin : begin + SESSIONS_AT_ONCE])))

    async def _send(self, said: Goodbyes) -> bool:
        """Whether it was sent, or nobody else is there."""
        if self._link is None:
            return True
        try:
            await self._link.send(goodbyes_subject(self._link.prefix), msgspec.json.encode(said))
        except BusError as error:
            log.debug("goodbyes_not_announced", node=self._node, sessions=len(said.asked), why=str(error))
            return False
        return True

    def _on_note(self, data: bytes, reply: str) -> None:
        try:
            if len(data) > MAX_MESSAGE_BYTES:
                raise ValueError(f"{len(data)} bytes are more than {MAX_MESSAGE_BYTES}")
            said = self._decode(data)
        except ValueError as error:  # msgspec's errors are ValueErrors too
            log.warning("goodbyes_ignored", node=self._node, why=str(error))
            return
        # Its own come back to it, perhaps after the client did.
        if said.node != self._node:
            self.asked.hear(said, time.monotonic())
