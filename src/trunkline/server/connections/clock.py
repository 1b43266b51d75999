"""The node's time: read once a tick, so that the hot path reads no clock.

`now` is monotonic seconds for time-outs and rates, `wall_ms` is ms since 1970 for messages. Both lag by at most one
tick of the node. What needs better reads `precise_wall_ms`.
"""

from __future__ import annotations

import time


class Clock:
    """A clock that is moved by `tick`."""

    __slots__ = ("now", "wall_ms")

    def __init__(self) -> None:
        self.now = 0.0
        self.wall_ms = 0
        self.tick()

    def tick(self) -> None:
        """Read the real clocks."""
        self.now = time.monotonic()
        self.wall_ms = time.time_ns() // 1_000_000

    @staticmethod
    def precise_wall_ms() -> float:
        """Milliseconds since 1970, read now."""
        return time.time_ns() / 1_000_000
