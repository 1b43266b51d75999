"""When what happens: the intended moments of connects, of messages and of cuts. Pure.

Rules:

- Moments come from the plan alone, never from how fast the other side answers or how late the caller is: a late call
  gets every moment that has passed, with the time at which it should have been (an open model).
- Each worker computes its own share. Sessions go round by number, n to worker n % workers, and a total rate is divided
  so that the workers' messages interleave evenly; together they are exactly the plan.
- Times are seconds from the start of the run.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trunkline.load.model.plan import Disturbance, Stage, Traffic

MAX_DUE = 20_000
"""Messages that one call of `due` hands out; the rest comes with the next one, so that a caller far behind still gets
to read its sockets."""


class Change(NamedTuple):
    """Session `number` is to open (`up`) or to close at `at_s`."""

    at_s: float
    number: int
    up: bool


class ConnectionPlan:
    """Which session opens and closes when; the share of one worker (from 0) of several.

    Within a stage the count goes in a straight line. Session k opens when the line rises through k + 1/2 and closes
    when it falls through k + 1/2, so the highest numbers close first, and a later rise opens the same numbers again.
    The distances are even, and the count never differs from the line by more than 1/2.
    """

    def __init__(self, stages: Sequence[Stage], worker: int = 0, workers: int = 1) -> None:
        self._stages = tuple(stages)
        self._starts: list[float] = []
        at_s = 0.0
        for stage in self._stages:
            self._starts.append(at_s)
            at_s += stage.duration_s
        self._changes = self._share(worker, workers)
        self._head = next(self._changes, None)

    def target(self, at_s: float) -> int:
        """How many connections the whole run wants at that moment: 0 before it, the last stage's count after it."""
        index = self._index(at_s)
        if index < 0:
            return 0
        before, after, duration_s = self._before(index), self._stages[index].connections, self._stages[index].duration_s
        passed = 1.0 if duration_s <= 0 else min(1.0, (at_s - self._starts[index]) / duration_s)
        line = before + (after - before) * passed
        return math.floor(line + 0.5) if after >= before else math.ceil(line - 0.5)

    def stage(self, at_s: float) -> str:
        """The name of the stage at that moment, or its number: the first before the run, the last after it."""
        index = max(0, self._index(at_s))
        return self._stages[index].name or f"stage {index + 1}"

    def next(self) -> float | None:
        """When this worker's next change is meant to be; None when there is none any more."""
        return None if self._head is None else self._head.at_s

    def due(self, now_s: float) -> list[Change]:
        """This worker's changes up to that moment that no earlier call has handed out, in order."""
        found: list[Change] = []
        head = self._head
        while head is not None and head.at_s <= now_s:
            found.append(head)
            head = next(self._changes, None)
        self._head = head
        return found

    def _index(self, at_s: float) -> int:
        # Of stages that begin at the same moment the last one counts; the others have no length.
        return bisect_right(self._starts, at_s) - 1

    def _before(self, index: int) -> int:
        return self._stages[index - 1].connections if index else 0

    def _share(self, worker: int, workers: int) -> Iterator[Change]:
        for index, (start, stage) in enumerate(zip(self._starts, self._stages, strict=True)):
            low, high = sorted((self._before(index), stage.connections))
            if low == high:
                continue
            up = stage.connections == high
            gap_s = stage.duration_s / (high - low)
            first = low + (worker - low) % workers
            if up:
                for number in range(first, high, workers):
                    yield Change(start + (number - low + 0.5) * gap_s, number, True)
            else:
                for number in reversed(range(first, high, workers)):
                    yield Change(start + (high - number - 0.5) * gap_s, number, False)


class Beats:
    """The moments at which a rate that changes from time to time has added up to one more.

    What adds up is the integral of the rate, so that a change of it neither skips a beat nor doubles one, however often
    it is queried. With marks at equal distances, the first at `phase`, the beats are even; with marks that `rng` draws
    at exponentially distributed distances they are a Poisson process of that rate (the time change of an inhomogeneous
    process).
    """

    def __init__(self, phase: float = 1.0, rng: random.Random | None = None) -> None:
        self._rng = rng
        self._mark = phase if rng is None else rng.expovariate(1.0)
        # What has added up by `_at_s`. Both stay while the rate stays: a beat is computed from where its rate began,
        # and errors of rounding do not add up.
        self._at_s = 0.0
        self._sum = 0.0
        self._per_s = 0.0
        # Ends and rates of stretches that are over and still have beats that were not taken.
        self._over: deque[tuple[float, float]] = deque()

    def pace(self, now_s: float, per_s: float) -> None:
        """From now on the rate is `per_s`, until the next call; 0 is none."""
        if per_s == self._per_s:
            return
        if self._per_s > 0 or self._over:
            self._over.append((now_s, self._per_s))
        else:
            self._at_s = max(self._at_s, now_s)
        self._per_s = per_s

    def next(self) -> float | None:
        """The next beat if the rate stays as it is; None: with this rate there is none."""
        at_s, added = self._at_s, self._sum
        for until_s, per_s in self._over:
            reached = added + per_s * max(0.0, until_s - at_s)
            if reached >= self._mark:
                return at_s + max(0.0, self._mark - added) / per_s if per_s > 0 else at_s
            at_s, added = max(at_s, until_s), reached
        return at_s + max(0.0, self._mark - added) / self._per_s if self._per_s > 0 else None

    def due(self, now_s: float, most: int = MAX_DUE) -> list[float]:
        """The beats up to that moment that no earlier call has handed out, in order, `most` at most."""
        beats: list[float] = []
        while self._over:
            until_s, per_s = self._over[0]
            if now_s < until_s:
                self._take(now_s, per_s, most, beats)
                return beats
            self._take(until_s, per_s, most, beats)
            if len(beats) >= most:
                return beats
            self._sum += per_s * max(0.0, until_s - self._at_s)
            self._at_s = max(self._at_s, until_s)
            self._over.popleft()
        self._take(now_s, self._per_s, most, beats)
        return beats

    def _take(self, until_s: float, per_s: float, most: int, beats: list[float]) -> None:
        if per_s <= 0:
            return
        # Rounding may put the last beat of a stretch just behind its end: it then is the next one's first.
        while len(beats) < most and (at_s := self._at_s + max(0.0, self._mark - self._sum) / per_s) <= until_s:
            beats.append(at_s)
            self._mark += 1.0 if self._rng is None else self._rng.expovariate(1.0)


class MessagePlan:
    """When this worker's messages are to be sent: its part of `rate`, and `rate_each` for each open connection.

    `rate` runs from the start of the run, whether or not a connection is open. Even ones of a total rate r are at (j +
    1/2) / r, and the j-th is worker j % workers' own.
    """

    def __init__(self, traffic: Traffic, worker: int, workers: int, rng: random.Random) -> None:
        self._own_per_s = traffic.rate / workers
        self._each_per_s = traffic.rate_each
        self._beats = Beats((worker + 0.5) / workers, rng if traffic.arrivals == "poisson" else None)
        self._beats.pace(0.0, self._own_per_s)

    @classmethod
    def of_abusers(cls, traffic: Traffic, worker: int, workers: int, rng: random.Random) -> MessagePlan:
        """What abusive connections send on top; the counts that its methods are given are of these alone."""
        abuse = Traffic(rate_each=traffic.abuse_rate_each, arrivals=traffic.arrivals)
        return cls(abuse, worker, workers, rng)

    def next(self, now_s: float, open_count: int) -> float | None:
        """When the next message is meant if `open_count` stays; it may have passed. None: there is none."""
        self._beats.pace(now_s, self._own_per_s + self._each_per_s * open_count)
        return self._beats.next()

    def due(self, now_s: float, open_count: int) -> list[float]:
        """The intended moments up to now that no earlier call has handed out, in order, `MAX_DUE` at most.

        None is skipped, however late the call is; those for which no connection is open are the caller's to drop.
        """
        self._beats.pace(now_s, self._own_per_s + self._each_per_s * open_count)
        return self._beats.due(now_s)


class Cuts:
    """Which disturbance is due when; the same for each worker, which then cuts among its own sessions (`spread`)."""

    def __init__(self, disturbances: Sequence[Disturbance]) -> None:
        self._left = deque(sorted(disturbances, key=lambda disturbance: disturbance.at_s))

    def next(self) -> float | None:
        """When the next one begins; None when there is none any more."""
        return self._left[0].at_s if self._left else None

    def due(self, now_s: float) -> list[Disturbance]:
        """Those that begin up to that moment and that no earlier call has handed out, in order."""
        found: list[Disturbance] = []
        while self._left and self._left[0].at_s <= now_s:
            found.append(self._left.popleft())
        return found


def spread(disturbance: Disturbance, numbers: Sequence[int], rng: random.Random) -> list[tuple[float, int]]:
    """Which sessions a disturbance cuts, and when each, in order of time.

    A fraction of a session is rounded at random, so that over many workers with few sessions each the share is right.
    """
    count = min(len(numbers), math.floor(len(numbers) * disturbance.share + rng.random()))
    step_s = disturbance.spread_s / count if count else 0.0
    chosen = rng.sample(numbers, count)
    return [(disturbance.at_s + (place + rng.random()) * step_s, number) for place, number in enumerate(chosen)]
