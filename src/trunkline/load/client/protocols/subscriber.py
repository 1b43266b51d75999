"""What every client of a Trunkline node has in common: it follows channels, counts errors, and obeys a goodbye. Pure.

Rules:

- Each session follows the order of each of its channels; the chain of `prev` shows what is missing, no later than at
  the end of the run, when all workers know where each channel ended.
- A code that the scenario expects is counted, and is no error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from trunkline.load.client.order import ChannelOrder
from trunkline.load.client.reconnect import seconds_away
from trunkline.load.client.session import Session, Shared
from trunkline.load.model.messages import Hole, Position
from trunkline.protocol import wire

_REFRESH: Final = "refresh"  # the id of that request; those of a feed are numbers
_SESSION: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What a server may call a session: it becomes a part of the URL."""

MAX_CODE: Final = 60  # how much of a server's error code a reason repeats


class Subscriber(Session):
    """A session that subscribes to channels; subclasses define what it sends."""

    __slots__ = ("_goodbye", "_heard", "_orders")

    def __init__(self, number: int, shared: Shared) -> None:
        super().__init__(number, shared)
        self._orders: dict[str, ChannelOrder] = {}
        self._goodbye: wire.Goodbye | None = None
        self._heard = False

    def opened(self) -> None:
        """The 101 has come."""
        self._goodbye = None
        self._heard = False

    def comes_back_after(self, code: int, attempt: int) -> float | None:
        """As the server's goodbye and the close code say; a goodbye counts for one attempt."""
        goodbye, self._goodbye = self._goodbye, None
        return seconds_away(code, goodbye, attempt, self.shared.rng)

    @property
    def said_goodbye(self) -> bool:
        """Whether the server announced the end and asked to come back."""
        return self._goodbye is not None and self._goodbye.reconnect

    @property
    def forgotten(self) -> int:
        """Holes beyond those that the orders remember."""
        return sum(order.forgotten for order in self._orders.values())

    def refresh(self) -> None:
        """Send the newest token."""
        shared = self.shared
        shared.expiring.discard(self)
        self.token = shared.token
        if self.link is not None:
            self.link.send(msgspec.json.encode(wire.Refresh(shared.token, _REFRESH)))

    def _greeted(self, greeting: wire.ConnectionEstablished) -> None:
        """The server has given it a session."""
        if _SESSION.fullmatch(greeting.session):
            self.session_id = greeting.session

    def _on_expiring(self) -> None:
        """The server has warned: send a newer token, or wait for one."""
        if self.shared.token != self.token:
            self.refresh()
        else:
            self.shared.expiring.add(self)

    def _count_first(self) -> None:
        """A message has come; the first one of a connection has a latency of its own."""
        if not self._heard:
            self._heard = True
            self.shared.tally.first_message.record(self.shared.now() - self.opened_at)

    def _follow(self, order: ChannelOrder, epoch: str | None, offset: int | None, prev: int | None) -> bool:
        """Whether a publication, or an ack in its place, comes for the first time; counts what is wrong with it."""
        if prev == order.last and epoch == order.epoch and offset is not None:
            order.last = offset
            return True
        taken = order.odd(epoch, offset, prev, self.shared.at_s())
        self.shared.tally.find(taken.findings)
        return taken.delivery

    def _on_gap(self, order: ChannelOrder, gap: wire.Gap) -> None:
        self.shared.tally.totals.dropped += order.gap(gap.epoch, gap.after, gap.before)
        self.shared.tally.because(f"gap: {gap.reason[:MAX_CODE]}")

    def _on_error(self, code: str, *, refused: bool = False) -> None:
        """Count an error message; `refused`: it is the answer to a publication."""
        tally = self.shared.tally
        reason = f"server: {code[:MAX_CODE]}"
        if code in self.shared.scenario.expected_errors:
            tally.totals.expected_errors += 1
            tally.because(reason)
        elif refused:
            tally.totals.refused += 1
            tally.because(reason)
        else:
            tally.error(reason)

    def _reached(self, ends: dict[str, Position], channels: Iterable[str]) -> bool:
        return all(self._orders[name].reached(ends[name]) for name in channels if name in ends)

    def _holes(self, ends: dict[str, Position], owed: Collection[str]) -> list[Hole]:
        """The holes that are left; channels in `owed` should have come to their ends."""
        orders = self._orders.items()
        return [hole for name, order in orders for hole in order.finish(ends.get(name) if name in owed else None)]
