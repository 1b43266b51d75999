"""Whether a silent process hangs or merely gets no processor, and whether a slow start goes on. Pure.

Rules:

- Silence counts only while a message could have been sent and received: not while the process waited for a processor,
  and not while the receiving one was late. So a busy loop and a stopped process run out of time, and a worker that is
  starved for minutes does not.
- A start that takes longer than its limit is waited for while it makes progress: it uses the processor, or it logs.
"""

from __future__ import annotations

from typing import Final, NamedTuple

START_MOST: Final = 5.0
"""A start that goes on is given up all the same after this many times its limit."""

QUIET_S: Final = 5.0
"""Past its limit, a start without progress for this long is given up."""

USED_SHARE: Final = 0.02
"""A process that is waiting wakes now and then; one that uses less of a processor than this makes no progress."""


class Look(NamedTuple):
    """A process as it was at one moment.

    Attributes:
        at: the moment, seconds of any steady clock.
        ran_s: processor time it has used.
        waited_s: time for which it was ready to run and had no processor; None where the kernel does not count it.
        stalled_s: time for which any process of this machine waited for a processor; 0 where that is not counted.
    """

    at: float
    ran_s: float
    waited_s: float | None
    stalled_s: float


def chance_s(before: Look, now: Look, late_s: float) -> float:
    """Seconds between two looks in which a message of the process could have been sent and received.

    `late_s` is how much later than planned the second look was made, for want of a processor on our side.
    """
    passed = now.at - before.at
    if now.waited_s is not None and before.waited_s is not None:
        starved = now.waited_s - before.waited_s
    else:
        # The machine's stall counts no further than the process did not run.
        starved = min(now.stalled_s - before.stalled_s, passed - (now.ran_s - before.ran_s))
    # Not the sum: both may be the same seconds, and a hanging worker has to run out of time on a busy machine too.
    return passed - min(max(starved, late_s, 0.0), passed)


class Silence:
    """How long a process has been silent by its own fault: beyond `limit_s`, at first `first_s`, it hangs."""

    def __init__(self, limit_s: float, first_s: float) -> None:
        self._limit_s = limit_s
        self._left_s = first_s
        self.silent_s = 0.0

    def heard(self) -> None:
        """A message of it has come."""
        self._left_s = self._limit_s
        self.silent_s = 0.0

    def passed(self, chance_s: float) -> bool:
        """Count time in which it could have sent a message and did not; returns whether it hangs."""
        self.silent_s += chance_s
        return self.silent_s > self._left_s


class Start:
    """How long a start that is late from `at` on is waited for: at most `most_s`, whatever progress it makes."""

    def __init__(self, at: float, most_s: float) -> None:
        self._most_at = at + most_s
        self._moved_at = self._looked_at = at
        self._ran_s: float | None = None
        self._logged = 0

    def gives_up(self, at: float, ran_s: float, logged: int) -> bool:
        """Whether to wait no longer, after `ran_s` of processor time (less than before after a restart).

        `logged` is how many bytes were logged.
        """
        used_s = ran_s - self._ran_s if self._ran_s is not None else 0.0
        if self._ran_s is not None and (logged != self._logged or used_s > USED_SHARE * (at - self._looked_at)):
            self._moved_at = at
        self._looked_at, self._ran_s, self._logged = at, ran_s, logged
        return at >= self._most_at or at - self._moved_at >= QUIET_S
