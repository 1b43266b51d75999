"""How many connections one backend has, as far as can be known: the heart of even placement. Pure.

    estimate = the newest report + what the report cannot contain yet - what has ended since

The rules by which each event is counted once:

- The count runs with what is seen: a pick adds one at once, its failure, its expiry and the end of its connection take
  one off. A report does not replace the count, it bounds it. Of each event around the time of a report it is known
  that the report contains it, that it does not, or neither; so the real number lies between two, and a count between
  them is left alone. Where our own events explain a report fully, no timing of reports can disturb the count; where
  they do not (clients that came or went unseen), the count moves to the nearer end.
- A pick is **pending** while a report may not contain it.
- A node of ours reports how many connections it ever opened (`opened`) and the newest keys: a key settles its pick
  exactly, and without its key a pick stays pending however new the report is. Of two reports of one run the one with
  more `opened` is the newer, whenever they arrive. When keys are missing, time decides about as many picks as miss.
- Of a foreign backend time decides. What was opened (101 seen) before the report was requested is in it. A pick of
  which no opening is ever seen (steering, other balancers) is in it, or has failed, when it is `SETTLE_S` older.
- Another balancer's events arrive late. A key that a report showed before its pick was heard of settles it when it is;
  for what else is late see `LateEvents`.
- A new run means that all connections of the one before are gone, whatever relays still believe.
- What we relay or have pending ourselves is the least it can be.
- A pick that failed may have been counted by the backend for a moment where we relay. Where we steer, a failure is a
  guess from a repeated key, which clients choose: it takes back its own pick, and never what was reported.

A foreign backend that reports the same number for ever while picks go there is doubted.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final

from trunkline.placement.counting.evidence import Closes, Doubt, LateEvents
from trunkline.placement.counting.keys import KEY_CHARS, KeyTable, SeenKeys
from trunkline.protocol.control import LoadReport

SETTLE_S: Final = 1.0
"""From a pick to its connection being in the backend's count, at most: redirect or dial, handshake, accept. A dial that
loses its first SYN takes this long; whoever takes longer is counted as failed until the next report."""

MOST_REPORTED: Final = 10_000_000
"""A report above this is not taken; no machine holds so many connections."""

SEEN_KEPT: Final = 20_000
KEYS_READ: Final = 100_000
RUNS_KEPT: Final = 4


class Reservation:
    """A pick, from its making until its connection ends.

    Attributes:
        at: when it was made, in seconds.
        opened_at: when the 101 was seen, None before.
        pending: the newest report may not contain it.
        shown: a report contained its key.
        over: nothing more is expected of it.
        run: which run of the backend it belongs to, as `Ledger.run_number`.
    """

    __slots__ = ("at", "key", "ledger", "number", "opened_at", "over", "own", "pending", "run", "shown", "trial")

    def __init__(self, number: int, ledger: Ledger, key: str, at: float, own: bool) -> None:
        self.number = number
        self.ledger = ledger
        self.key = key
        self.at = at
        self.opened_at: float | None = None
        self.own = own
        self.pending = True
        self.shown = False
        self.over = False
        self.trial = False
        self.run = ledger.run_number


class Ledger:
    """The count of one backend.

    Args:
        relaying: openings and closings of our own picks are seen (relay), or never (steer).
        keep_s: after so many seconds a pick that never showed up is forgotten.
        hold_s: the same where no report has had its chance to show it.

    Attributes:
        count: the running count.
        held: own connections and pending picks: the least it can be.
        relayed: own connections, those of a run that is over included.
        pending: picks that the newest report may not contain, oldest first.
        run: of the node, None of a foreign backend.
        opened: what the node had ever opened in this run.
        doubted: its report stays the same although picks go there.
    """

    __slots__ = (
        "_closes", "_doubt", "_gone", "_keep_s", "_late", "_old_runs", "_own_keys", "_relaying", "_remote_keys",
        "_seen", "_taken_at", "asked_at", "count", "doubted", "held", "opened", "pending", "relayed", "reported",
        "run", "run_number", "url",
    )  # fmt: skip

    def __init__(self, url: str, relaying: bool, keep_s: float, hold_s: float) -> None:
        self.url = url
        self.count = 0
        self.held = 0
        self.relayed = 0
        self.pending: dict[int, Reservation] = {}
        self.reported: int | None = None
        self.asked_at = float("-inf")
        self.run: str | None = None
        self.opened = 0
        self.run_number = 0
        self.doubted = False
        self._relaying = relaying
        self._keep_s = keep_s
        self._own_keys: KeyTable[Reservation] = KeyTable()
        self._remote_keys: KeyTable[Reservation] = KeyTable()
        self._seen = SeenKeys(keep_s, SEEN_KEPT)
        self._gone = SeenKeys(hold_s, SEEN_KEPT)
        self._closes = Closes()
        self._late = LateEvents()
        self._doubt = Doubt()
        self._old_runs: deque[str] = deque(maxlen=RUNS_KEPT)
        self._taken_at = float("-inf")

    @property
    def estimate(self) -> int:
        """Its estimated connections."""
        return self.count if self.count > self.held else self.held

    def reserve(self, number: int, key: str, now: float) -> Reservation:
        """Count a pick of ours."""
        made = Reservation(number, self, key[:KEY_CHARS], now, True)
        self.pending[number] = made
        self._own_keys.add(made)
        self.count += 1
        self.held += 1
        return made

    def open(self, made: Reservation, now: float) -> None:
        """The 101 of an own pick was seen; also of one that was thought to be over."""
        if made.opened_at is not None:
            return
        made.opened_at = now
        self.relayed += 1
        if made.over:
            made.over = False
            self.held += 1
            if self._seen.take(made.key, now):
                made.shown = True
            else:
                self.count += 1
                made.pending = True
                self.pending[made.number] = made
                self._own_keys.add(made)
        elif not made.pending:
            self.held += 1
        made.run = self.run_number

    def end(self, made: Reservation, now: float) -> None:
        """Nothing came of an own pick, or its connection has ended."""
        if made.over:
            return
        made.over = True
        was_open = made.opened_at is not None
        if was_open:
            self.relayed -= 1
        if made.run != self.run_number:
            return
        if made.pending:
            self._settle(made)
            self.count -= 1
            if was_open:
                self.held -= 1
                self._gone.add(made.key, now)
        elif was_open:
            self.held -= 1
            self._ended(now)
            return
        elif made.shown:
            if self._relaying:
                self._ended(now)
            return
        # A pick that a foreign report was taken to contain and that came to nothing: the report may have risen for
        # another reason, or the backend may have counted it for a moment. The next report knows.
        if self._relaying:
            self._closes.add(now)

    def expire(self, made: Reservation) -> None:
        """Forget a pick that never showed up; a connection that was opened never expires."""
        if made.opened_at is not None or made.over:
            return
        made.over = True
        if made.pending:
            self._settle(made)
            self.count -= 1

    def may_expire(self, made: Reservation) -> bool:
        """Whether a report had its chance to show the pick; without any report there is nothing to wait for."""
        return self.reported is None or self.asked_at >= made.at + SETTLE_S

    def remote_pick(self, number: int, key: str, now: float) -> Reservation | None:
        """Count a pick of another balancer; None when a report has contained it already."""
        key = key[:KEY_CHARS]
        if self._seen.take(key, now):
            return None
        if self._late.take_pick(now):
            return None
        made = Reservation(number, self, key, now, False)
        self.pending[number] = made
        self._remote_keys.add(made)
        self.count += 1
        return made

    def remote_failure(self, key: str, now: float) -> None:
        """A pick of another balancer came to nothing."""
        made = self._remote_keys.first(key[:KEY_CHARS])
        if made is not None:
            self._end_of_remote(made)
            if self._relaying:
                self._closes.add(now)

    def remote_close(self, key: str, now: float) -> None:
        """A connection that another balancer relayed has ended."""
        made = self._remote_keys.first(key[:KEY_CHARS])
        if made is not None:
            self._end_of_remote(made)
            self._closes.add(now)
            self._gone.add(made.key, now)
        elif self.reported is not None:
            self._ended(now)

    def _end_of_remote(self, made: Reservation) -> None:
        made.over = True
        self._settle(made)
        self.count -= 1

    def report(self, report: LoadReport, asked_at: float, now: float) -> bool:
        """Take a backend's report; false for a report that is older than what is known.

        `asked_at` is when it was requested, or arrived without a request: it is no older than that.
        """
        self._seen.forget(now)
        self._gone.forget(now)
        if isinstance(report.run, str) and isinstance(report.opened, int):
            return self._report_of_node(report, report.run[:KEY_CHARS], report.opened, asked_at, now)
        if asked_at < self._taken_at:
            # Requested before the one before it had come: which was made first is unknown.
            return False
        self._taken_at = now
        self._report_of_foreign(report.agentsConnections, asked_at, now)
        return True

    def _report_of_foreign(self, reported: int, asked_at: float, now: float) -> None:
        certain = [made for made in self.pending.values() if self._contained(made, asked_at)]
        for made in certain:
            self._settle(made)
        # Where we see openings ourselves, they are the proof already.
        if not self._relaying:
            if reported != self.reported:
                self._doubt.changed()
                self.doubted = False
            elif self._doubt.same(reported, len(certain)):
                self.doubted = True
        most = reported + len(self.pending)
        closed = self._closes.since(asked_at)
        self._move(reported - closed, most, first=self.reported is None, now=now, know_keys=False)
        # A count below the most means that so many events are in the report; closes explain it as well as picks do.
        self._settle_oldest(most - self.count - closed)
        self.reported = reported
        self.asked_at = asked_at
        self.run = None
        # Several nodes behind one URL answered by turns: none of their runs is over for that.
        self._old_runs.clear()

    def _report_of_node(self, report: LoadReport, run: str, opened: int, asked_at: float, now: float) -> bool:
        first = self.reported is None
        if run != self.run:
            if run in self._old_runs:
                return False
            if self.run is not None:
                self._old_runs.append(self.run)
                self._new_run(asked_at)
            self.run = run
            self.opened = 0
        elif opened < self.opened or (opened == self.opened and asked_at < self.asked_at):
            return False
        fresh = opened - self.opened
        newest = report.keys if isinstance(report.keys, tuple) else ()
        keys = newest[-min(fresh, KEYS_READ) :] if fresh else ()
        self.opened = opened
        for key in keys:
            self._show(key[:KEY_CHARS], now)
        know_keys = fresh <= len(keys)
        unnamed = min(fresh - len(keys), len(self.pending))
        if unnamed:
            # Oldest first, for the newest keys are those that a node still has.
            certain = (made for made in self.pending.values() if self._contained(made, asked_at))
            for made in list(islice(certain, unnamed)):
                self._settle(made)
                unnamed -= 1
        for made in [made for made in self.pending.values() if made.run != self.run_number]:
            self._settle(made)
        self._forget_overdue(asked_at)
        pending = len(self.pending)
        most = report.agentsConnections + pending
        least = most - min(unnamed, pending) - self._closes.since(asked_at)
        self._move(least, most, first=first, now=now, know_keys=know_keys)
        if unnamed:
            self._settle_oldest(min(most - self.count, unnamed))
        self.reported = report.agentsConnections
        self.asked_at = max(asked_at, self.asked_at)
        self.doubted = False
        return True

    def _contained(self, made: Reservation, asked_at: float) -> bool:
        """Whether a report requested at `asked_at` contains the pick, or nothing came of it."""
        if made.opened_at is not None:
            return made.opened_at <= asked_at
        return made.at + SETTLE_S < asked_at and not (made.own and self._relaying)

    def _move(self, least: int, most: int, *, first: bool, now: float, know_keys: bool) -> None:
        """Bring the count within what the report allows."""
        before = self.count
        if first or before > most:
            self.count = most
        elif before < least:
            self.count = least
        self._late.moved(self.count - before, now, rise_explained=know_keys or first)

    def _settle_oldest(self, count: int) -> None:
        """Take so many pending picks as contained: those whose opening was seen first, then the oldest."""
        if count <= 0:
            return
        opened = [made for made in self.pending.values() if made.opened_at is not None][:count]
        for made in opened:
            self._settle(made)
        for made in list(islice(self.pending.values(), count - len(opened))):
            self._settle(made)

    def _settle(self, made: Reservation) -> None:
        made.pending = False
        del self.pending[made.number]
        if made.own:
            self._own_keys.remove(made)
            if made.opened_at is None:
                self.held -= 1
        else:
            self._remote_keys.remove(made)

    def _show(self, key: str, now: float) -> None:
        """A connection of this key was opened at the node."""
        if self._gone.take(key, now):
            return
        made, other = self._own_keys.first(key), self._remote_keys.first(key)
        # Of a repeated key the oldest: what stays pending in its place must not expire too early.
        if made is None or (other is not None and other.at < made.at):
            made = other
        if made is None:
            self._seen.add(key, now)
            return
        if made.run != self.run_number:
            made.run = self.run_number
            self.held += made.own
        made.shown = True
        self._settle(made)

    def _ended(self, now: float) -> None:
        """A connection that reports contained has ended."""
        self._closes.add(now)
        if not self._late.take_close(now) and self.count > len(self.pending):
            self.count -= 1

    def _new_run(self, asked_at: float) -> None:
        """What was opened before is gone, unless a key shows that it was opened in the new run."""
        self.run_number += 1
        self.held = 0
        self._seen.clear()
        self._gone.clear()
        for made in self.pending.values():
            if made.opened_at is None or made.opened_at > asked_at:
                made.run = self.run_number
                self.held += made.own
        # Relays of other balancers will report each connection that is gone now.
        self._late.expect_closes(asked_at + self._keep_s)

    def _forget_overdue(self, asked_at: float) -> None:
        """Picks that a key should have shown long ago failed, or something on their way gave them another key."""
        while self.pending:
            made = next(iter(self.pending.values()))
            since = made.at if made.opened_at is None else made.opened_at
            if since + self._keep_s > asked_at:
                return
            if made.opened_at is None:
                self.expire(made)
            else:
                self._settle(made)
