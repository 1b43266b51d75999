"""Echo: any server that returns each message as it came. Messages carry their number and their intended moment.

A message is text: number (10 digits), space, microseconds of the coordinator's clock (16 digits), space, the connection
(6 hex digits), a checksum of all that (6 hex digits), padding. So the answer shows its latency from the intended moment
by itself, a missing, double or late one shows as a number, and so does one that was altered or is for another one.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from trunkline.load.client.order import EchoOrder
from trunkline.load.client.session import Session, Shared
from trunkline.load.model.messages import Hole, Position
from trunkline.load.model.tally import Finding

_NUMBER: Final = slice(0, 10)
_STAMP: Final = slice(11, 27)
_CONNECTION: Final = slice(28, 34)
_SUMMED: Final = slice(0, 34)
_SUM: Final = slice(34, 40)
HEAD_BYTES: Final = 40
_24_BITS: Final = 0xFFFFFF


class EchoSession(Session):
    """Sends what is due and reads it back."""

    __slots__ = ("_connection", "_last", "_order", "_padding")

    def __init__(self, number: int, shared: Shared) -> None:
        super().__init__(number, shared)
        self._connection = b"%06x" % (number & _24_BITS)
        self._padding = b"x" * (shared.scenario.traffic.message_bytes - HEAD_BYTES)
        self._order = EchoOrder(number)
        self._last = -1

    def due(self, intended: float) -> None:
        """Send the next number."""
        if self.link is not None:
            head = b"%010d %016d %b" % (self._order.sent(), int(intended * 1e6), self._connection)
            self.link.send(b"%b%06x%b" % (head, crc32(head) & _24_BITS, self._padding))

    def message(self, payload: bytes, binary: bool) -> None:
        """An echo."""
        shared = self.shared
        tally = shared.tally
        try:
            number, stamp = int(payload[_NUMBER]), int(payload[_STAMP])
            is_whole = int(payload[_SUM], 16) == crc32(payload[_SUMMED]) & _24_BITS
        except ValueError:
            self._altered(payload, None)
            return
        if binary or not is_whole or payload[HEAD_BYTES:] != self._padding:
            # Only a head that is as it was sent says which message this is.
            self._altered(payload, number if is_whole else None)
            return
        if payload[_CONNECTION] != self._connection:
            # Its owner misses it: that one is not lost as well (see `verdict.make_report`).
            owner = int(payload[_CONNECTION], 16)
            tally.find([Finding("crossed", "", self.number, number, at_s=shared.at_s(), owner=owner)])
            return
        order = self._order
        if number == order.expected:
            order.expected = number + 1
        else:
            taken = order.odd(number, shared.at_s())
            tally.find(taken.findings)
            if not taken.delivery:
                if not taken.findings:
                    tally.error("echo: a message that was never sent")
                return
        tally.round_trip.record(shared.now() - stamp / 1e6)

    def _altered(self, payload: bytes, number: int | None) -> None:
        """Not as any message that was sent: an altered echo, if it has its length or its end; it is an answer then."""
        length = HEAD_BYTES + len(self._padding)
        if number is None and len(payload) != length and not (self._padding and payload.endswith(self._padding)):
            self.shared.tally.error("echo: the message is not one that was sent")
            return
        order = self._order
        if number is None or not order.expected <= number < order.count:
            number = order.expected
        self.shared.tally.find([Finding("corrupt", "", self.number, number, at_s=self.shared.at_s())])
        if number < order.count:
            order.odd(number, self.shared.at_s())

    def ended(self, code: int, reason: str) -> None:
        """What was not answered is given up; what was overtaken is lost."""
        super().ended(code, reason)
        self.shared.tally.totals.abandoned += self._give_up()

    def settled(self, ends: dict[str, Position]) -> bool:
        """Whether every message was answered."""
        return self._order.settled

    def finish(self, ends: dict[str, Position]) -> list[Hole]:
        """Count and name what was never answered."""
        outstanding = self._give_up()
        self.never_answered(outstanding)
        if outstanding:
            last = self._last
            after = last - outstanding
            self.shared.tally.find([Finding("lost", "", self.number, last, after=after, at_s=self.shared.at_s())])
        return []

    def _give_up(self) -> int:
        """Count and name what was overtaken; returns how many messages are without an answer."""
        self._last = self._order.count - 1
        missing = self._order.restart(self.shared.at_s())
        self.shared.tally.totals.lost += missing.lost
        self.shared.tally.find(missing.findings)
        return missing.outstanding
