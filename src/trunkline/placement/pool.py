"""Backends as placement looks through them: a pool's, and within it those of each canary group. Pure.

Rules:

- A lane holds only backends that take connections by source, report and traffic (weight above 0, not draining, not
  held), so that a pick looks at what changes fast alone: load, condition, what was tried. What is in no lane cannot be
  picked, whatever leads there: a cookie, the home of a key, the last resort.
- `Backend.load` is kept with each event, so that a pick compares plain numbers. What depends on time or on the others
  (slow start, doubt) is reckoned at the pick, for the few backends it concerns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from statistics import median
from typing import Final

from trunkline.placement.backend import BackendSpec, short_id
from trunkline.placement.condition import Condition
from trunkline.placement.counting.ledger import Ledger
from trunkline.placement.counting.pods import Pods
from trunkline.placement.hashing import seed_of
from trunkline.placement.shares import Shares
from trunkline.protocol.control import LoadReport

FULL: Final = float("inf")
"""Load of a backend that is at its capacity."""

COLOUR_CHARS: Final = 64
"""Most characters of a reported colour, which is a label of series."""

SLOW_START_FROM: Final = 0.1
"""The part of its share with which a new backend begins."""


class Backend:
    """One backend and all that is known of it.

    Attributes:
        group: its canary group, the colour that it reports if its source names none.
        share: weight x capacity, by which loads are compared; grows during slow start.
        full_share: the same when slow start is over.
        load: (estimate + 1) / share, or `FULL`.
        pods: those behind its URL, by their reports.
        held: its group gets no new connections.
        outdated: backends of a newer version are in its lane.
        floor: while its reports are doubted, what its peers of the same share have on average.
        warm_at: when its slow start is over, None without one.
        turn: its place in the smooth weighted round robin.
    """

    __slots__ = (
        "capacity", "condition", "floor", "full_share", "group", "held", "id", "ledger", "load", "outdated", "pods",
        "report", "report_failure", "reported_at", "seed", "share", "spec", "turn", "url", "warm_at",
    )  # fmt: skip

    def __init__(self, spec: BackendSpec, ledger: Ledger, condition: Condition) -> None:
        self.spec = spec
        self.url = spec.url
        self.id = short_id(spec.url)
        self.seed = seed_of(spec.url)
        self.ledger = ledger
        self.condition = condition
        self.pods = Pods()
        self.report: LoadReport | None = None
        self.reported_at = float("-inf")
        self.report_failure = ""
        self.group = spec.group
        self.held = False
        self.outdated = False
        self.capacity = spec.capacity
        self.share = self.full_share = 1.0
        self.load = 1.0
        self.floor = 0
        self.warm_at: float | None = None
        self.turn = 0.0

    @property
    def estimate(self) -> int:
        """Its estimated connections."""
        counted = self.ledger.estimate
        return self.floor if self.ledger.doubted and self.floor > counted else counted

    @property
    def version(self) -> str:
        """The release that it reports, empty for none."""
        return (self.report.version or "") if self.report is not None else ""

    @property
    def pool(self) -> str:
        """The pool that routes name."""
        return self.spec.pool

    @property
    def draining(self) -> bool:
        """Whether its report or its source says that it takes no more connections."""
        return self.spec.draining or (self.report is not None and self.report.state == "draining")

    @property
    def takes(self) -> bool:
        """Whether it may get connections when it works and has room."""
        return self.spec.weight > 0 and not self.draining and not self.held

    @property
    def known_opened(self) -> tuple[str, int] | None:
        """Run and count of opened connections behind which its next report shall begin; None of a foreign backend."""
        return None if self.ledger.run is None else (self.ledger.run, self.ledger.opened)

    def ready(self, now: float, tried: Sequence[str]) -> bool:
        """Whether a connection that has tried these URLs may go there."""
        return self.load != FULL and self.condition.until <= now and self.url not in tried

    def reckon(self) -> None:
        """Bring `load` up to date after the count, the capacity or the share has changed."""
        estimate = self.estimate
        full = self.capacity is not None and estimate >= self.capacity
        self.load = FULL if full else (estimate + 1) / self.share

    def describe(self) -> None:
        """Take group and capacity from its source and its report."""
        report = self.report
        self.group = self.spec.group
        if not self.group and report is not None and report.colour:
            self.group = report.colour[:COLOUR_CHARS]
        self.capacity = self.spec.capacity
        if self.capacity is None and report is not None:
            self.capacity = report.capacity

    def warm(self, now: float, slow_start_s: float) -> bool:
        """Set the share for this moment of the slow start; false when it is over."""
        if self.warm_at is None or now >= self.warm_at:
            self.warm_at = None
            self.share = self.full_share
            return False
        grown = max(0.0, 1.0 - (self.warm_at - now) / slow_start_s)
        self.share = self.full_share * (SLOW_START_FROM + (1.0 - SLOW_START_FROM) * grown)
        return True


class Lane:
    """Backends among which a policy chooses.

    Attributes:
        weights: running sums of their weights.
        even: whether these are all the same.
        versions: lanes of its versions, newest first; empty when there are not several.
    """

    __slots__ = ("even", "members", "versions", "weights")

    def __init__(self, members: list[Backend]) -> None:
        self.members = members
        self.versions: tuple[Lane, ...] = ()
        self.weights = list(accumulate(backend.spec.weight for backend in members))
        self.even = len({backend.spec.weight for backend in members}) <= 1

    def has_ready(self, now: float, tried: Sequence[str], besides: Backend | None = None) -> bool:
        """Whether one of them, another than `besides`, can take a connection."""
        return any(backend is not besides and backend.ready(now, tried) for backend in self.members)


class Pool:
    """The backends of one pool.

    Attributes:
        takers: a lane of all that take connections.
        lanes: by group, for every group that is not held; empty while groups are not told apart.
        shares: what each group gets.
        split: whether groups are told apart.
        by_id: takers by their id in sticky cookies.
        backup: the pool of the next tier, for when none of these can take a connection; None without one.
    """

    __slots__ = ("_live", "_slow_start_s", "backup", "by_id", "lanes", "members", "shares", "split", "takers")

    def __init__(self, every: list[Backend], shares: Shares, slow_start_s: float) -> None:
        lowest = min(backend.spec.tier for backend in every)
        self.members = members = [backend for backend in every if backend.spec.tier == lowest]
        others = [backend for backend in every if backend.spec.tier != lowest]
        self.backup = Pool(others, shares, slow_start_s) if others else None
        self._slow_start_s = slow_start_s
        self.shares = shares
        self.split = shares.split
        known = [backend.capacity for backend in members if backend.capacity]
        common = median(known) if known else 1.0
        for backend in members:
            backend.held = shares.holds(backend.group)
            backend.full_share = backend.share = max(backend.spec.weight, 1e-9) * (backend.capacity or common)
        shown = [backend for backend in members if backend.takes]
        self.takers = Lane(shown)
        self.by_id = {backend.id: backend for backend in shown}
        self.lanes: dict[str, Lane] = {}
        if self.split:
            for name in dict.fromkeys(backend.group for backend in shown):
                self.lanes[name] = Lane([backend for backend in shown if backend.group == name])
        self._live = [backend for backend in shown if backend.warm_at is not None or backend.ledger.doubted]
        for backend in members:
            backend.reckon()

    def tiers(self) -> Iterator[Pool]:
        """This pool and those behind it."""
        pool: Pool | None = self
        while pool is not None:
            yield pool
            pool = pool.backup

    def may_lose(self, backend: Backend, share: float) -> bool:
        """Whether `backend` may be taken out for what became of its connections.

        Of the backends of its group whose checks are good, others that are out included, at most `share` may be.
        """
        lane = self.lanes.get(backend.group) if self.lanes else self.takers
        if lane is None or backend not in lane.members:
            return True
        others = [each for each in lane.members if each is not backend and each.condition.state != "down"]
        out = 1 + sum(each.condition.trial for each in others)
        return out <= share * (1 + len(others))

    def refresh(self, now: float) -> None:
        """Reckon what depends on time or on the others; call it before choosing."""
        if not self._live:
            return
        slow_start_s = self._slow_start_s
        count = share = 0.0
        for backend in self.takers.members:
            if not backend.ledger.doubted:
                count += backend.ledger.estimate
                share += backend.full_share
        over = False
        for backend in self._live:
            # Rounded down: at the mean exactly it would be passed over until all others have passed the mean.
            backend.floor = int(count * backend.full_share / share) if share else 0
            over |= not backend.warm(now, slow_start_s) and not backend.ledger.doubted
            backend.reckon()
        if over:
            self._live = [each for each in self._live if each.warm_at is not None or each.ledger.doubted]
