"""How long a client's token holds: when its client is warned, when its connection ends. Pure.

Whether a token holds is a question of wall time, for `exp` is a date (RFC 7519 section 4.1.4). It is asked once, when
the token is checked. From then on the rest of its life is counted by a clock that cannot step, so that a clock which
is set while the client is connected neither ends its connection nor prolongs it.
"""

from __future__ import annotations

import math
from typing import Final

WARN_S: Final = 30.0
"""How long before its token expires a client is warned; at half the token's life, if that is less."""

SHORTEST_S: Final = 1.0
"""A token with less than this left gets no warning: its client would ask for another again and again."""


class TokenLife:
    """The life of the token in use; all times in seconds of the node's clock.

    Attributes:
        ends_at: when it expires.
        due: when there is something to do, a warning or the end.
    """

    __slots__ = ("due", "ends_at")

    def __init__(self, now: float, lasts_s: float) -> None:
        self.ends_at = now + lasts_s
        self.due = self.ends_at - min(WARN_S, lasts_s / 2) if lasts_s >= SHORTEST_S else self.ends_at

    def warned(self, now: float) -> int:
        """The client is being warned; returns the milliseconds that are left."""
        self.due = self.ends_at
        return math.ceil((self.ends_at - now) * 1000)
