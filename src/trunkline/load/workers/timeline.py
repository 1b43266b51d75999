"""The beats of all workers, put together into the seconds of the run and its sum. Pure.

Rules:

- A second is complete once every worker that still runs has sent a beat of it or of a later one, or `LATE_S` after its
  end.
- Every beat counts exactly once: one that comes after its second was completed counts in the next one, so the seconds
  always add up to the sum.
- A beat's number is not trusted beyond the clock: no worker can make future seconds. Implausible counts are an error:
  added up they would make the report useless.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from trunkline.load.model.histogram import HIGHEST_US, LOWEST_US, quantiles
from trunkline.load.model.report import Second
from trunkline.load.model.tally import Beat, Sum
from trunkline.load.workers.pipe import BadMessage

LATE_S: Final = 2.0

GREATEST: Final = 1 << 40  # no count of a single beat is greater


@dataclass
class _Gathered:
    sum: Sum = field(default_factory=Sum)
    open: dict[int, int] = field(default_factory=dict)
    most: dict[int, int] = field(default_factory=dict)
    cpu: dict[int, float] = field(default_factory=dict)


class Timeline:
    """The seconds of a run with workers numbered from 0, and the sum of everything that came.

    `stage` and `target` give the stage's name and the wanted connections at a moment of the run.
    """

    def __init__(self, workers: int, stage: Callable[[float], str], target: Callable[[float], int]) -> None:
        self.sum = Sum()
        self.seconds: list[Second] = []
        self._stage = stage
        self._target = target
        self._gathered: dict[int, _Gathered] = {}
        self._reached = dict.fromkeys(range(workers), -1)
        self._open: dict[int, int] = {}
        self._last: dict[int, int] = {}

    def add(self, beat: Beat, now_s: float) -> None:
        """Count a beat of any worker, `now_s` seconds after the start; raises BadMessage when it is implausible."""
        _refuse_odd(beat)
        self.sum.add(beat)
        # One second ahead is possible: the clocks of two machines differ by a little.
        second = max(len(self.seconds), min(beat.second, int(now_s) + 1))
        gathered = self._gathered.get(second)
        if gathered is None:
            gathered = self._gathered[second] = _Gathered()
        gathered.sum.add(beat)
        gathered.open[beat.worker] = beat.open
        gathered.most[beat.worker] = max(beat.open, gathered.most.get(beat.worker, 0))
        gathered.cpu[beat.worker] = gathered.cpu.get(beat.worker, 0.0) + beat.cpu_s
        if beat.worker in self._reached:
            self._reached[beat.worker] = max(self._reached[beat.worker], min(beat.second, second))

    def left(self, worker: int) -> None:
        """A worker has ended: it is not waited for any more."""
        self._reached.pop(worker, None)

    def due(self, now_s: float) -> list[Second]:
        """The seconds that are complete now, `now_s` seconds after the start."""
        complete: list[Second] = []
        while self._reached:
            second = len(self.seconds)
            if min(self._reached.values()) < second and now_s < second + 1 + LATE_S:
                break
            complete.append(self._complete(second))
        return complete

    def finish(self) -> list[Second]:
        """All seconds that are left, when nothing more will come."""
        complete: list[Second] = []
        while self._gathered:
            complete.append(self._complete(len(self.seconds)))
        return complete

    def _complete(self, number: int) -> Second:
        gathered = self._gathered.pop(number, None) or _Gathered()
        # Of workers that have ended only what they still sent counts.
        for worker in self._open.keys() - self._reached.keys():
            del self._open[worker]
        self._open.update(gathered.open)
        # A worker's last beat has none open; those that were open until then were open in that second.
        most = self._open | gathered.most
        lag = gathered.sum.latencies["lag"]
        second = Second(
            at_s=float(number + 1),
            # The middle: at its end the next stage may have begun.
            stage=self._stage(number + 0.5),
            target=self._target(number + 1.0),
            open=sum(most.values()),
            totals=gathered.sum.totals,
            connect=quantiles(gathered.sum.latencies["connect"]),
            message=quantiles(gathered.sum.message),
            lag_max=max(lag, default=0) / 1000,
            generator_cpu=round(self._busiest(number, gathered.cpu), 4),
        )
        self.seconds.append(second)
        return second

    def _busiest(self, number: int, cpu: dict[int, float]) -> float:
        """Share of a core of the worker that used most of one, over the time since its beat before."""
        shares = [0.0]
        for worker, seconds in cpu.items():
            shares.append(seconds / (number - self._last.get(worker, -1)))
            self._last[worker] = number
        return max(shares)


def _refuse_odd(beat: Beat) -> None:
    totals = (getattr(beat.totals, name) for name in beat.totals.__struct_fields__)
    measured = (counts.values() for counts in beat.latencies.values())
    numbers: Iterable[int] = chain((beat.open,), totals, beat.reasons.values(), beat.closes.values(), *measured)
    lowest = min(map(min, filter(None, beat.latencies.values())), default=LOWEST_US)
    highest = max(map(max, filter(None, beat.latencies.values())), default=LOWEST_US)
    if not (
        all(0 <= number <= GREATEST for number in numbers)
        and lowest >= LOWEST_US
        and highest <= HIGHEST_US
        and math.isfinite(beat.cpu_s)
        and 0 <= beat.cpu_s <= GREATEST
        and all(math.isfinite(finding.at_s) for finding in beat.findings)
    ):
        raise BadMessage("a beat holds numbers that cannot be")
