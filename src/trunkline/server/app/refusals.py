"""How often a client is told that it is over its message rate. Pure.

An answer to each message would cost more than the message. So the first ones of a burst are answered one by one, then
some a second, and each answer says how many went without one.
"""

from __future__ import annotations

from typing import Final

from trunkline.net.limits import Bucket

TOLD_AT_ONCE: Final = 20.0
TOLD_PER_S: Final = 5.0
"""Errors for messages over the rate, of one connection."""


class Refusals:
    """The refused messages of one client; times are seconds of the node's clock."""

    __slots__ = ("_bucket", "_untold")

    def __init__(self, now: float) -> None:
        self._bucket = Bucket(TOLD_AT_ONCE, TOLD_PER_S, now)
        self._untold = 0

    def tell(self, now: float) -> int | None:
        """One more was refused: returns how many before it went without an answer; None when this one does too."""
        if self._bucket.take(now):
            self._untold += 1
            return None
        untold, self._untold = self._untold, 0
        return untold
