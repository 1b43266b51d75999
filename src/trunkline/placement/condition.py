"""Whether a backend may be given connections, by its checks and the outcome of its connections. Pure.

`states.CONNECTIONS` has the transitions; `state` is "down" while the checks are bad, and while its source hears nothing
of a backend that used to report. Rules:

* A backend is usable from `until` on: 0 while it is up, infinity while it is down, the end of the back-off while it is
  ejected or open, the time limit of the trial while one is out. So `usable` is one comparison.
* The back-off begins at `eject_ms`, doubles each time up to `eject_max_ms`, and begins again after the backend was
  up for `eject_max_ms`. Each one is shortened by up to a fifth at random, so that several balancers do not try at once.
* One count of the back-off serves ejection, breaker and flapping: a backend that is up and down each second gets longer
  and longer pauses, whichever of them notices.
* A backend that its group cannot spare (`spare` says no) stays up: its failures are counted and named, no more.
* Nothing is stored per event: outcomes are counted in ten slots of the window.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Final, NamedTuple

from trunkline.placement.states import AS_BEFORE, CONNECTIONS, Closed, Connections, Event, State
from trunkline.settings.balancer import BalancerSettings

SHORTEST: Final = 0.8
"""The least share of a back-off that chance leaves."""


Spare = Callable[[], bool]


def _always() -> bool:
    return True


class Change(NamedTuple):
    """A state left, the one entered, and why, for the log."""

    before: State
    after: State
    why: str


class Condition:
    """Whether one backend may be given connections.

    Attributes:
        state: up, down (checks), ejected (failures in a row, or flapping), open (circuit breaker) or half_open.
        why: why it is in this state, empty for a backend that never left `up`.
        back_off_s: the newest back-off before chance shortened it; 0 before the first.
        until: seconds on the clock of `now` from which it is usable; 0: now, infinity: not before the checks are good.
        kept: why it would be out if its group could spare it; empty otherwise.
    """

    __slots__ = (
        "_bad_checks", "_checks_good", "_checks_rose_at", "_closed_as", "_connections", "_failures",
        "_fell_soon", "_good_checks", "_opened_until", "_outcomes", "_rng", "_settings", "_silent",
        "_trial_s", "_up_since",
        "back_off_s", "kept", "state", "until", "why",
    )  # fmt: skip

    def __init__(self, settings: BalancerSettings, rng: random.Random) -> None:
        """Start as `up`: a new backend is trusted until something is known."""
        self.state: State = "up"
        self.why = ""
        self.kept = ""
        self.until = 0.0
        self._settings = settings
        self._rng = rng
        self._checks_good = True
        self._silent = False
        self._bad_checks = 0
        self._good_checks = 0
        self._checks_rose_at = -math.inf
        self._fell_soon = False
        self._connections: Connections = "up"
        self._opened_until = 0.0
        self._closed_as: Closed = "ejected"
        self._failures = 0
        self._outcomes = _Outcomes(settings.breaker_window_ms / 1000)
        self.back_off_s = 0.0
        self._up_since = -math.inf
        # A pick may wait for its dial and then for its handshake before anything is known of it.
        self._trial_s = max(settings.reservation_ms, settings.dial_timeout_ms + settings.handshake_timeout_ms) / 1000

    @property
    def trial(self) -> bool:
        """Whether the next connection is a trial: whoever picks this backend calls `took_trial`."""
        return self.state != "up"

    def usable(self, now: float) -> bool:
        """Whether it may be picked at `now`, seconds."""
        return now >= self.until

    def checked(self, ok: bool, why: str, now: float, *, spare: Spare = _always) -> Change | None:
        """Take the result of an active check; `why` is ignored when it was good.

        `spare` says whether its group can do without it, and looks at all of the group.
        """
        if ok:
            self._bad_checks = 0
            if self._checks_good:
                return None
            self._good_checks += 1
            return self._rise(now, spare) if self._good_checks >= self._settings.health_rise else None
        self._good_checks = 0
        if not self._checks_good:
            return None
        self._bad_checks += 1
        if self._bad_checks < self._settings.health_fall:
            return None
        self._checks_good = False
        self._fell_soon = now - self._checks_rose_at < self._good_time_s()
        return self._show(f"{self._bad_checks} bad checks in a row, the last one: {why}")

    def heard(self, silent: bool, now: float) -> Change | None:
        """Take from its source whether it has fallen silent."""
        if silent == self._silent:
            return None
        self._silent = silent
        if silent:
            return self._show("it no longer reports, and has not said goodbye")
        why = "it reports again"
        return self._on("recovered", why, now) or self._show(why)

    def success(self, now: float) -> Change | None:
        """A connection was opened on the backend."""
        if self._connections == "up":
            self._failures = 0
            self.kept = ""
            self._outcomes.good(now)
            return None
        return self._on("trial_opened", "a trial connection was opened", now)

    def failure(self, why: str, now: float, *, spare: Spare = _always) -> Change | None:
        """A connection failed through the backend's fault; `why` is a fixed label of `placing.Placer.failed`.

        `spare` says whether its group can do without it, and looks at all of the group.
        """
        if self._connections != "up":
            if now >= self._opened_until:
                return None
            return self._on("trial_failed", f"the trial connection failed: {why}", now)
        self._failures += 1
        self._outcomes.bad(now)
        if self._failures >= self._settings.eject_after:
            return self._fell("failed_in_a_row", f"{self._failures} failures in a row, the last one: {why}", now, spare)
        good, bad = self._outcomes.counts(now)
        total = good + bad
        if total >= self._settings.breaker_volume and bad >= self._settings.breaker_ratio * total:
            return self._fell("failed_often", f"{bad} of {total} connections failed, the last one: {why}", now, spare)
        return None

    def _fell(self, event: Event, why: str, now: float, spare: Spare) -> Change | None:
        if spare():
            return self._on(event, why, now)
        self.kept = f"its group cannot spare it: {why}"
        return None

    def took_trial(self, now: float) -> Change | None:
        """A pick took this backend; call it after `usable` was true. Does nothing while it is up."""
        return self._on("trial", "a trial connection is out", now)

    def dropped_trial(self, now: float) -> None:
        """The trial came to nothing through no fault of the backend (its client left): the next one may go out.

        Call it for the pick of `took_trial` alone; any other pick that is dropped proves nothing about the trial. A
        trial whose outcome is never reported ends by itself when no dial and no handshake can still be under way.
        """
        if now < self._opened_until:
            self._on("trial_dropped", self.why, now)

    def passed(self, now: float) -> Change | None:
        """Name the end of a back-off, for logs and pages; placement does not need it."""
        if self.state == "down" or now < self._opened_until:
            return None
        return self._on("rested", "its back-off is over", now)

    def _rise(self, now: float, spare: Spare) -> Change | None:
        self._checks_good = True
        self._good_checks = 0
        self._checks_rose_at = now
        if self._fell_soon and spare():
            return self._on("flapped", "flapping: its checks turned bad soon after they had been good again", now)
        why = "checks are good again"
        return self._on("recovered", why, now) or self._show(why)

    def _on(self, event: Event, why: str, now: float) -> Change | None:
        """Follow the table; nothing for an event that it does not have here."""
        after = CONNECTIONS[self._connections].get(event)
        if after is None:
            return None
        if after == "half_open":
            self._opened_until = now + self._trial_s if event == "trial" else 0.0
        elif after == "up":
            self._opened_until = 0.0
            self._up_since = now
            self._failures = 0
            self._outcomes.clear()
        else:
            after = self._closed_as = self._closed_as if after == AS_BEFORE else after
            self._back_off(now)
        self._connections = after
        return self._show(why)

    def _back_off(self, now: float) -> None:
        longest = self._settings.eject_max_ms / 1000
        first = min(self._settings.eject_ms / 1000, longest)
        rested = self._connections == "up" and now - self._up_since >= self._good_time_s()
        self.back_off_s = first if rested or not self.back_off_s else min(self.back_off_s * 2, longest)
        self._opened_until = now + self.back_off_s * self._rng.uniform(SHORTEST, 1.0)

    def _good_time_s(self) -> float:
        return self._settings.eject_max_ms / 1000

    def _show(self, why: str) -> Change | None:
        """Make what checks and connections prove the one state that others see."""
        before = self.state
        self.kept = ""
        well = self._checks_good and not self._silent
        self.state = self._connections if well else "down"
        self.until = self._opened_until if well else math.inf
        if self.state == before == "down":
            return None
        self.why = why
        return Change(before, self.state, why) if self.state != before else None


SLOTS: Final = 10
"""Parts of the window; an outcome counts for at least nine tenths of it and never longer than all of it."""


class _Outcomes:
    """Counts of good and bad outcomes in the newest window, in a ring of slots."""

    __slots__ = ("_bad", "_good", "_slot_s", "_turn")

    def __init__(self, window_s: float) -> None:
        self._slot_s = window_s / SLOTS
        self._turn = 0
        self.clear()

    def clear(self) -> None:
        self._good = [0] * SLOTS
        self._bad = [0] * SLOTS

    def good(self, now: float) -> None:
        self._good[self._at(now)] += 1

    def bad(self, now: float) -> None:
        self._bad[self._at(now)] += 1

    def counts(self, now: float) -> tuple[int, int]:
        self._at(now)
        return sum(self._good), sum(self._bad)

    def _at(self, now: float) -> int:
        """The slot of `now`, with all that lie between the newest one and it emptied."""
        turn = int(now / self._slot_s)
        if turn > self._turn:
            for old in range(max(self._turn + 1, turn - SLOTS + 1), turn + 1):
                self._good[old % SLOTS] = self._bad[old % SLOTS] = 0
            self._turn = turn
        return self._turn % SLOTS
