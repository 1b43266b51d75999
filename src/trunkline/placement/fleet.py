"""The fleet: which backends there are, and what happened at each. Pure.

Rules:

- Every event ends in the backend's `Ledger` and in its `load`, so that a pick reads plain numbers.
- A backend that leaves and comes back (a name server hiccups) finds its ledger again while connections of ours are
  open there.
- Nothing grows without bound: what never showed up expires, and above `RESERVATIONS_KEPT` the oldest does early.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from trunkline.placement.backend import BackendSpec
from trunkline.placement.condition import Change, Condition
from trunkline.placement.counting.ledger import MOST_REPORTED, Ledger, Reservation
from trunkline.placement.groups import GroupTurns
from trunkline.placement.homes import Homes
from trunkline.placement.pool import Backend, Pool
from trunkline.placement.rows import BackendRow, imbalance, row_of
from trunkline.placement.shares import Shares, by_setting
from trunkline.placement.versions import arrange
from trunkline.protocol.control import LoadReport, PickNotice
from trunkline.settings.balancer import BalancerSettings

RESERVATIONS_KEPT: Final = 200_000
LATE_KEPT: Final = 10_000
NEWS_KEPT: Final = 1_000
NAME_CHARS: Final = 256
"""Most characters kept of a name that a report gives."""

STARTING_S: Final = 5.0
"""Backends named within this time of the first one belong to the start: they were there before and only the balancer is
new, so none of them starts slowly."""


class Changes(NamedTuple):
    """URLs of backends that came, went, or whose spec is another."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


class News(NamedTuple):
    """Something for the log that no call returns.

    Attributes:
        event: `trial`: a pick tries it again; `up`: that pick has arrived; `doubted`: its reports never change although
            picks go there; `trusted`: they do again; `kept`: it fails, and its group cannot spare it.
    """

    url: str
    event: Literal["trial", "up", "doubted", "trusted", "kept"]
    why: str


class Fleet:
    """All backends.

    Attributes:
        pools: the same, as placement looks through them.
        shares: which groups get new connections.
        versions: numbers of the known versions, a newer one's is higher; None while they are not known.
        news: for the log, oldest first; whoever logs takes them out.
    """

    def __init__(self, settings: BalancerSettings, rng: random.Random) -> None:
        self.settings = settings
        self.backends: dict[str, Backend] = {}
        self.pools: dict[str, Pool] = {}
        self.shares = by_setting(settings.groups)
        self.versions: Mapping[str, int] | None = None
        self.homes = Homes()
        self.news: deque[News] = deque(maxlen=NEWS_KEPT)
        self._trials: dict[str, Reservation] = {}
        self._rng = rng
        self._relaying = settings.mode == "relay"
        self._keep_s = settings.reservation_ms / 1000
        self._hold_s = self._keep_s + 2 * settings.cache_ttl_ms / 1000
        self._slow_start_s = settings.slow_start_ms / 1000
        self._number = 0
        self._first_at: float | None = None
        self._reservations: dict[int, Reservation] = {}
        self._due: deque[Reservation] = deque()
        self._waiting: deque[Reservation] = deque()
        self._late: OrderedDict[int, Reservation] = OrderedDict()
        self._left: dict[str, Ledger] = {}
        self._turns: dict[str, GroupTurns] = {}

    def set_backends(self, specs: Sequence[BackendSpec], now: float) -> Changes:
        """Make these the fleet; of two specs of one URL the last counts."""
        wanted = {spec.url: spec for spec in specs}
        added = tuple(url for url in wanted if url not in self.backends)
        removed = tuple(url for url in self.backends if url not in wanted)
        changed = tuple(url for url, spec in wanted.items() if url in self.backends and self.backends[url].spec != spec)
        if not (added or removed or changed):
            return Changes((), (), ())
        for url in removed:
            self._trials.pop(url, None)
            ledger = self.backends.pop(url).ledger
            if ledger.held or ledger.relayed:
                self._left[url] = ledger
        for url in changed:
            backend = self.backends[url]
            backend.spec = wanted[url]
            backend.describe()
        running = self._first_at is not None and now - self._first_at > STARTING_S
        if added and self._first_at is None:
            self._first_at = now
        pools_before = {backend.spec.pool for backend in self.backends.values()}
        for url in added:
            known = self._left.pop(url, None)
            ledger = known or Ledger(url, self._relaying, self._keep_s, self._hold_s)
            backend = Backend(wanted[url], ledger, Condition(self.settings, self._rng))
            if running and self._slow_start_s and backend.spec.pool in pools_before:
                backend.warm_at = now + self._slow_start_s
            self.backends[url] = backend
        self._left = {url: ledger for url, ledger in self._left.items() if ledger.held or ledger.relayed}
        self._arrange(now)
        return Changes(added, removed, changed)

    def set_shares(self, shares: Shares, now: float) -> None:
        """Make these the shares of the groups, from the next pick on."""
        self.shares = shares
        self._turns.clear()
        self._arrange(now)

    def set_versions(self, numbers: Mapping[str, int], now: float) -> None:
        """Prefer versions of a higher number, from the next pick on."""
        if numbers != self.versions:
            self.versions = numbers
            self._arrange(now)

    def _arrange(self, now: float) -> None:
        members: dict[str, list[Backend]] = {}
        for backend in self.backends.values():
            members.setdefault(backend.spec.pool, []).append(backend)
        self.pools = {name: Pool(each, self.shares, self._slow_start_s) for name, each in members.items()}
        self._turns = {name: turns for name, turns in self._turns.items() if name in self.pools}
        for pool in self.pools.values():
            for tier in pool.tiers():
                arrange(tier, self.versions)
            pool.refresh(now)

    def turns(self, pool: str) -> GroupTurns:
        """Whose turn it is among the canary groups of a pool there is."""
        turns = self._turns.get(pool)
        if turns is None:
            turns = self._turns[pool] = GroupTurns()
        return turns

    def take_report(self, url: str, report: LoadReport, *, asked_at: float, now: float) -> bool:
        """Count with a backend's report; false when that was out of date, implausible, or of no backend of ours.

        A report that came without a request counts as requested when it arrived.
        """
        backend = self.backends.get(url)
        if backend is None:
            return False
        if not 0 <= report.agentsConnections <= MOST_REPORTED:
            self.report_failed(url, f"implausible connection count: {report.agentsConnections}", now)
            return False
        if report.capacity is not None and report.capacity > MOST_REPORTED:
            # Load is reckoned by capacity: a backend that claimed so much would get every client.
            self.report_failed(url, f"implausible capacity: {report.capacity}", now)
            return False
        was_doubted = backend.ledger.doubted
        counted = backend.pods.take(report, _to_keep(report), min(asked_at, now), now)
        if counted is None or not backend.ledger.report(counted, min(asked_at, now), now):
            return False
        before = (backend.group, backend.capacity, backend.takes, backend.version)
        backend.report = _to_keep(counted)
        backend.reported_at = now
        backend.report_failure = ""
        backend.describe()
        trial = self._trials.get(url)
        if trial is not None and (trial.shown or trial.over):
            del self._trials[url]
            if trial.shown and not trial.over:
                # In steering nothing else shows that the trial was opened.
                change = backend.condition.success(now)
                if change is not None:
                    self.news.append(News(url, "up", change.why))
        doubted = backend.ledger.doubted
        if doubted != was_doubted:
            count = counted.agentsConnections
            why = (
                f"its reports stay at {count} although picks go there" if doubted else f"its report changed to {count}"
            )
            self.news.append(News(url, "doubted" if doubted else "trusted", why))
        if doubted != was_doubted or before != (backend.group, backend.capacity, backend.takes, backend.version):
            self._arrange(now)
        else:
            backend.reckon()
        return True

    def report_failed(self, url: str, why: str, now: float) -> None:
        """No report could be had; what is known stays."""
        backend = self.backends.get(url)
        if backend is not None:
            backend.report_failure = why

    def reserve(self, url: str, key: str, now: float) -> int:
        """Hold a place on a backend; returns the number of the reservation, 0 when there is no such backend."""
        backend = self.backends.get(url)
        if backend is None:
            return 0
        self._number += 1
        made = backend.ledger.reserve(self._number, key, now)
        self._reservations[self._number] = made
        self._due.append(made)
        if len(self._due) > RESERVATIONS_KEPT:
            self.expire(now)
        if backend.condition.trial:
            made.trial = True
            self._trials[url] = made
            change = backend.condition.took_trial(now)
            if change is not None:
                self.news.append(News(url, "trial", change.why))
        backend.reckon()
        return made.number

    def opened(self, reservation: int, now: float) -> Change | None:
        """The backend has answered 101; returns what that changes of its condition."""
        made = self._reservations.get(reservation)
        if made is None:
            made = self._late.pop(reservation, None)
            if made is None:
                return None
            self._reservations[reservation] = made
        made.ledger.open(made, now)
        backend = self._reckon(made)
        return None if backend is None else backend.condition.success(now)

    def failed(self, reservation: int, why: str, now: float) -> Change | None:
        """No connection came of it through the backend's fault; returns what that changes of its condition."""
        made = self._end(reservation, now)
        backend = None if made is None else self.backends.get(made.ledger.url)
        if backend is None:
            return None
        condition = backend.condition
        was_kept = condition.kept
        change = condition.failure(why, now, spare=lambda: self._spares(backend))
        if condition.kept and not was_kept:
            self.news.append(News(backend.url, "kept", condition.kept))
        return change

    def checked(self, url: str, ok: bool, why: str, now: float) -> Change | None:
        """An active check has ended; returns what that changes of its backend's condition."""
        backend = self.backends.get(url)
        if backend is None:
            return None
        return backend.condition.checked(ok, why, now, spare=lambda: self._spares(backend))

    def heard(self, url: str, now: float) -> Change | None:
        """Take from a backend's source whether it has fallen silent; returns what that changes of its condition."""
        backend = self.backends[url]
        return backend.condition.heard(backend.spec.silent, now)

    def _spares(self, backend: Backend) -> bool:
        return all(pool.may_lose(backend, self.settings.eject_share) for pool in self.pools[backend.pool].tiers())

    def dropped(self, reservation: int, now: float) -> None:
        """No connection came of it, and the backend is not to blame."""
        made = self._end(reservation, now)
        if made is not None and made.trial:
            backend = self.backends.get(made.ledger.url)
            if backend is not None:
                backend.condition.dropped_trial(now)

    def closed(self, reservation: int, now: float) -> None:
        """An opened connection has ended."""
        self._end(reservation, now)

    def key_of(self, reservation: int) -> str | None:
        """Sec-WebSocket-Key of a reservation, until it is over."""
        made = self._reservations.get(reservation) or self._late.get(reservation)
        return None if made is None else made.key

    def _end(self, reservation: int, now: float) -> Reservation | None:
        made = self._reservations.pop(reservation, None) or self._late.pop(reservation, None)
        if made is not None:
            made.ledger.end(made, now)
            self._reckon(made)
        return made

    def _reckon(self, made: Reservation) -> Backend | None:
        backend = self.backends.get(made.ledger.url)
        if backend is not None:
            backend.reckon()
        return backend

    def take_notice(self, balancer_id: str, notice: PickNotice, now: float) -> None:
        """Count an event of another balancer, never of this one; one of a backend that is not known is passed over."""
        backend = self.backends.get(notice.url)
        if backend is None:
            return
        ledger = backend.ledger
        if notice.event == "m":
            self.homes.forget(backend.pool, notice.key)
            return
        if notice.event == "p":
            if notice.affinity:
                self.homes.settle(backend.pool, notice.affinity, notice.url, now)
            self._number += 1
            made = ledger.remote_pick(self._number, notice.key, now)
            if made is not None:
                self._due.append(made)
                if len(self._due) > RESERVATIONS_KEPT:
                    self.expire(now)
        elif notice.event == "f":
            ledger.remote_failure(notice.key, now)
        else:
            ledger.remote_close(notice.key, now)
        backend.reckon()

    def expire(self, now: float) -> None:
        """Forget picks that never showed up; takes time for those alone.

        A pick is forgotten `reservation_ms` after it was made if some report had its chance to show it, or none was
        ever had; else it waits for that report, two report intervals longer at most.
        """
        due = self._due
        while due and (due[0].at + self._keep_s <= now or len(due) > RESERVATIONS_KEPT):
            made = due.popleft()
            if made.opened_at is not None:
                continue
            crowded = made.at + self._keep_s > now or len(self._waiting) >= RESERVATIONS_KEPT
            if made.over or not made.pending or crowded or made.ledger.may_expire(made):
                self._expire(made)
            else:
                self._waiting.append(made)
        waiting = self._waiting
        while waiting and waiting[0].at + self._hold_s <= now:
            made = waiting.popleft()
            if made.opened_at is None:
                self._expire(made)

    def _expire(self, made: Reservation) -> None:
        if made.pending:
            made.ledger.expire(made)
            self._reckon(made)
        if made.own and self._reservations.pop(made.number, None) is not None:
            # A dial may take longer than a pick is kept: its opening must find it.
            self._late[made.number] = made
            if len(self._late) > LATE_KEPT:
                self._late.popitem(last=False)

    def imbalance(self) -> dict[tuple[str, str], float]:
        """By pool and group the load of the fullest backend beside the mean, 1 when even."""
        return imbalance(self.backends.values())

    def rows(self, now: float) -> list[BackendRow]:
        """All backends for pages, in the order in which they joined."""
        return [row_of(backend, now) for backend in self.backends.values()]


def _to_keep(report: LoadReport) -> LoadReport:
    """What is needed of a report until the next one, in names that fit on a page; it may come with a megabyte."""
    pod, address, machine, colour, version = (
        None if name is None else name[:NAME_CHARS]
        for name in (report.podName, report.podIP, report.nodeName, report.colour, report.version)
    )
    return LoadReport(
        report.agentsConnections, pod, address, machine, report.state, colour, report.capacity, version=version
    )
