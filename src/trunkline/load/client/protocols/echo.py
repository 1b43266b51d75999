"""Echo: any server that returns each message as it came. Messages carry their number and their intended moment.

A message is text: number (10 digits), space, microseconds of the coordinator's clock (16 digits), space, padding. So
the answer shows its latency from the intended moment by itself, and a missing, double or late one shows as a number.
"""

from __future__ import annotations

from typing import Final

from trunkline.load.client.order import EchoOrder
from trunkline.load.client.session import Session, Shared
from trunkline.load.model.messages import Hole, Position

_NUMBER: Final = slice(0, 10)
_STAMP: Final = slice(11, 27)
HEAD_BYTES: Final = 28


class EchoSession(Session):
    """Sends what is due and reads it back."""

    __slots__ = ("_order", "_padding")

    def __init__(self, number: int, shared: Shared) -> None:
        super().__init__(number, shared)
        self._padding = b"x" * (shared.scenario.traffic.message_bytes - HEAD_BYTES)
        self._order = EchoOrder(number)

    def due(self, intended: float) -> None:
        """Send the next number."""
        if self.link is not None:
            self.link.send(b"%010d %016d %b" % (self._order.sent(), int(intended * 1e6), self._padding))

    def message(self, payload: bytes, binary: bool) -> None:
        """An echo."""
        shared = self.shared
        tally = shared.tally
        try:
            number, stamp = int(payload[_NUMBER]), int(payload[_STAMP])
        except ValueError:
            tally.error("echo: the message is not one that was sent")
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

    def ended(self, code: int, reason: str) -> None:
        """What was not answered is given up; what was overtaken is lost."""
        super().ended(code, reason)
        self.shared.tally.totals.abandoned += self._give_up()

    def settled(self, ends: dict[str, Position]) -> bool:
        """Whether every message was answered."""
        return self._order.settled

    def finish(self, ends: dict[str, Position]) -> list[Hole]:
        """Count and name what was never answered."""
        self.shared.tally.totals.unanswered += self._give_up()
        return []

    def _give_up(self) -> int:
        """Count and name what was overtaken; returns how many messages are without an answer."""
        missing = self._order.restart(self.shared.at_s())
        self.shared.tally.totals.lost += missing.lost
        self.shared.tally.find(missing.findings)
        return missing.outstanding
