"""What speaks for and against a load report: late events, newly ended connections, numbers that never change. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

LATE_S: Final = 0.5
"""How much later than a report an event may be heard that the report already contains (NATS on the way, a close that
the backend noticed before its relay did)."""

CLOSE_LAG_S: Final = 0.25
"""From the end of a connection at the relay to its end in the backend's count, at most."""

CLOSES_KEPT: Final = 8192
DOUBT_REPORTS: Final = 3
DOUBT_PICKS: Final = 10


class Closes:
    """When connections have ended lately."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=CLOSES_KEPT)

    def add(self, now: float) -> None:
        """A connection has ended."""
        self._at.append(now)

    def since(self, asked_at: float) -> int:
        """How many a report requested at `asked_at` may still contain."""
        since = asked_at - CLOSE_LAG_S
        count = 0
        for at in reversed(self._at):
            if at < since:
                break
            count += 1
        return count


class LateEvents:
    """Events still to be heard of: a report fell or rose without a reason, and they will turn out to be the reason."""

    __slots__ = ("_dropped", "_dropped_until", "_rose", "_rose_until")

    def __init__(self) -> None:
        self._dropped = self._rose = 0
        self._dropped_until = self._rose_until = float("-inf")

    def moved(self, by: int, now: float, *, rise_explained: bool) -> None:
        """A report has moved the count."""
        if now > self._dropped_until:
            self._dropped = 0
        if now > self._rose_until:
            self._rose = 0
        if by < 0:
            self._dropped = -by
            self._dropped_until = max(self._dropped_until, now + LATE_S)
        elif by > 0 and not rise_explained:
            self._rose = by
            self._rose_until = now + LATE_S

    def expect_closes(self, until: float) -> None:
        """The next drop is a new run's: its closes may be heard until then."""
        self._dropped_until = until

    def take_pick(self, now: float) -> bool:
        """Whether a pick that is heard of now is counted already."""
        if self._rose > 0 and now <= self._rose_until:
            self._rose -= 1
            return True
        return False

    def take_close(self, now: float) -> bool:
        """Whether a close that is heard of now is counted already."""
        if self._dropped > 0 and now <= self._dropped_until:
            self._dropped -= 1
            return True
        return False


class Doubt:
    """Watches whether a foreign backend's number ever changes although picks go there."""

    __slots__ = ("_picks", "_reports")

    def __init__(self) -> None:
        self._reports = self._picks = 0

    def changed(self) -> None:
        """The newest report has another number."""
        self._reports = self._picks = 0

    def same(self, connections: int, picks: int) -> bool:
        """The same number again, without `picks` that it should contain; returns whether that is doubtful."""
        self._reports += 1
        self._picks += picks
        # Above 0 clients may come and go evenly by chance; it takes a full change of them to doubt.
        return self._reports >= DOUBT_REPORTS and self._picks >= max(DOUBT_PICKS, connections)
