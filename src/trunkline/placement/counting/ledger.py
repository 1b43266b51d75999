"""How many connections one backend has, as far as one can know. Pure; the heart of even placement. Pure.

    estimate = the newest report + what the report cannot contain yet - what has ended since

The rules by which each event is counted once:

- The count runs with what is seen: a pick adds one at once, its failure, its expiry and the end of its connection take
  one off. A report does not replace the count, it bounds it. Of each event around the time of a report it is known
  that the report contains it, that it does not, or neither; so the truth lies between two numbers, and a count between
  them is left alone. Where our own events explain a report fully, no timing of reports can disturb the count; where
  they do not (clients that came or went unseen), the count moves to the nearer end.
- A pick is **pending** while a report may not contain it.
- A node of ours says how many connections it ever opened (`opened`) and the keys of the newest: a key settles its pick
  exactly, and without its key a pick stays pending however new the report is. Of two reports of one run the one with
  more `opened` is the newer, whenever they arrive. When keys are missing, time decides about as many picks as miss.
- Of a foreign backend time decides. What was opened (101 seen) before the report was asked for is in it. A pick of
  which no opening is ever seen (steering, other balancers) is in it, or has failed, when it is `SETTLE_S` older.
- Another balancer's events arrive late. A key that a report showed before its pick was heard of settles it when it is,
  and a report that fell or rose without a reason is the reason for late events within `LATE_S` of it.
- A new run means that all connections of the one before are gone, whatever relays still believe.
- What we relay or have pending ourselves is the least it can be.

A backend that reports the same number for ever while picks go there is doubted; see `Ledger.doubted`.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final

from trunkline.placement.counting.keys import KEY_CHARS, KeyTable, SeenKeys
from trunkline.protocol.control import LoadReport

SETTLE_S: Final = 1.0
"""From a pick to its connection being in the backend's count, at most: redirect or dial, handshake, accept. A dial that
loses its first SYN takes this long; whoever takes longer is counted as failed until the next report."""

LATE_S: Final = 0.5
"""How much later than a report an event may be heard that the report already contains (NATS on the way, a close that
the backend noticed before its relay did)."""

CLOSE_LAG_S: Final = 0.25
"""From the end of a connection at the relay to its end in the backend's count, at most."""

MOST_REPORTED: Final = 10_000_000
"""A report above this is no report; no machine holds so many connections."""

CLOSES_KEPT: Final = 8192
SEEN_KEPT: Final = 20_000
KEYS_READ: Final = 100_000
RUNS_KEPT: Final = 4

DOUBT_REPORTS: Final = 3
DOUBT_PICKS: Final = 10


class Reservation:
    """A pick, from its making until its connection ends.

    Attributes:
        number: its own.
        ledger: of the backend.
        key: Sec-WebSocket-Key.
        at: when it was made, in seconds.
        opened_at: when the 101 was seen, None before.
        own: made by this balancer, not heard of from another.
        pending: the newest report may not contain it.
        shown: a report contained its key.
        over: nothing more is expected of it.
        trial: it tries a backend that had failed.
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
        url: the backend's name.
        relaying: openings and closings of our own picks are seen (relay), or never (steer).
        keep_s: after so many seconds a pick that never showed up is forgotten.
        hold_s: the same where no report has had its chance to show it.

    Attributes:
        count: the running count.
        held: own connections and pending picks: the least it can be.
        relayed: own connections, those of a run that is over included.
        pending: picks that the newest report may not contain, oldest first.
        reported: connections in the newest report, None without one.
        asked_at: when that was asked for.
        run: of the node, None of a foreign backend.
        opened: what the node had ever opened in this run.
        run_number: counts runs.
        doubted: its report stays the same although picks go there.
    """

    __slots__ = (
        "_closes",
        "_dropped",
        "_dropped_until",
        "_gone",
        "_keep_s",
        "_old_runs",
        "_others_keys",
        "_own_keys",
        "_relaying",
        "_rose",
        "_rose_until",
        "_same_picks",
        "_same_reports",
        "_seen",
        "_taken_at",
        "asked_at",
        "count",
        "doubted",
        "held",
        "opened",
        "pending",
        "relayed",
        "reported",
        "run",
        "run_number",
        "url",
    )

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
        self._others_keys: KeyTable[Reservation] = KeyTable()
        self._seen = SeenKeys(keep_s, SEEN_KEPT)
        self._gone = SeenKeys(hold_s, SEEN_KEPT)
        self._closes: deque[float] = deque(maxlen=CLOSES_KEPT)
        self._old_runs: deque[str] = deque(maxlen=RUNS_KEPT)
        self._dropped = 0
        self._dropped_until = float("-inf")
        self._rose = 0
        self._rose_until = float("-inf")
        self._same_reports = 0
        self._same_picks = 0
        self._taken_at = float("-inf")

    @property
    def estimate(self) -> int:
        """Connections it is believed to have."""
        return self.count if self.count > self.held else self.held

    # --- own picks ----------------------------------------------------------------------------------------------------

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
            self._ended(now)
            return
        # A pick that a foreign report was taken to contain and that came to nothing: the report may have risen for
        # another reason, or the backend may have counted it for a moment. The next report knows.
        self._closes.append(now)

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

    # --- events of other balancers ------------------------------------------------------------------------------------

    def heard_pick(self, number: int, key: str, now: float) -> Reservation | None:
        """Count a pick of another balancer; None when a report has contained it already."""
        key = key[:KEY_CHARS]
        if self._seen.take(key, now):
            return None
        if self._rose > 0 and now <= self._rose_until:
            self._rose -= 1
            return None
        made = Reservation(number, self, key, now, False)
        self.pending[number] = made
        self._others_keys.add(made)
        self.count += 1
        return made

    def heard_failure(self, key: str, now: float) -> None:
        """A pick of another balancer came to nothing."""
        made = self._others_keys.first(key[:KEY_CHARS])
        if made is not None:
            self._end_of_other(made, now)

    def heard_close(self, key: str, now: float) -> None:
        """A connection that another balancer relayed has ended."""
        made = self._others_keys.first(key[:KEY_CHARS])
        if made is not None:
            self._end_of_other(made, now)
            self._gone.add(made.key, now)
        elif self.reported is not None:
            self._ended(now)

    def _end_of_other(self, made: Reservation, now: float) -> None:
        made.over = True
        self._settle(made)
        self.count -= 1
        self._closes.append(now)

    # --- reports ------------------------------------------------------------------------------------------------------

    def report(self, report: LoadReport, asked_at: float, now: float) -> bool:
        """Take what the backend says; false for a report that is older than what is known.

        Args:
            report: of a number within 0 and `MOST_REPORTED`.
            asked_at: when it was asked for, or arrived unasked; it is no older than that.
            now: seconds, not before `asked_at`.
        """
        self._seen.forget(now)
        self._gone.forget(now)
        if isinstance(report.run, str) and isinstance(report.opened, int):
            return self._report_of_node(report, report.run[:KEY_CHARS], report.opened, asked_at, now)
        if asked_at < self._taken_at:
            # Asked for before the one before it had come: nobody knows which was made first.
            return False
        self._taken_at = now
        self._report_of_stranger(report.agentsConnections, asked_at, now)
        return True

    def _report_of_stranger(self, said: int, asked_at: float, now: float) -> None:
        certain = [made for made in self.pending.values() if self._contained(made, asked_at)]
        for made in certain:
            self._settle(made)
        self._doubt(said, len(certain))
        most = said + len(self.pending)
        closed = self._closed_since(asked_at)
        self._move(said - closed, most, first=self.reported is None, now=now, know_keys=False)
        # A count below the most says that so many events are in the report; closes explain it as well as picks do.
        self._settle_oldest(most - self.count - closed)
        self.reported = said
        self.asked_at = asked_at
        self.run = None

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
        said = report.keys if isinstance(report.keys, tuple) else ()
        keys = said[-min(fresh, KEYS_READ) :] if fresh else ()
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
        self._end_run()
        self._forget_overdue(asked_at)
        pending = len(self.pending)
        most = report.agentsConnections + pending
        least = most - min(unnamed, pending) - self._closed_since(asked_at)
        self._move(least, most, first=first, now=now, know_keys=know_keys)
        if unnamed:
            self._settle_oldest(min(most - self.count, unnamed))
        self.reported = report.agentsConnections
        self.asked_at = max(asked_at, self.asked_at)
        self.doubted = False
        return True

    def _contained(self, made: Reservation, asked_at: float) -> bool:
        """Whether a report asked for at `asked_at` contains the pick, or nothing came of it."""
        if made.opened_at is not None:
            return made.opened_at <= asked_at
        return made.at + SETTLE_S < asked_at and not (made.own and self._relaying)

    def _closed_since(self, asked_at: float) -> int:
        since = asked_at - CLOSE_LAG_S
        count = 0
        for at in reversed(self._closes):
            if at < since:
                break
            count += 1
        return count

    def _move(self, least: int, most: int, *, first: bool, now: float, know_keys: bool) -> None:
        """Bring the count within what the report allows."""
        before = self.count
        if first or before > most:
            self.count = most
        elif before < least:
            self.count = least
        if now > self._dropped_until:
            self._dropped = 0
        if now > self._rose_until:
            self._rose = 0
        if self.count < before:
            self._dropped = before - self.count
            self._dropped_until = max(self._dropped_until, now + LATE_S)
        elif self.count > before and not know_keys and not first:
            self._rose = self.count - before
            self._rose_until = now + LATE_S

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
            self._others_keys.remove(made)

    def _show(self, key: str, now: float) -> None:
        """A connection of this key was opened at the node."""
        if self._gone.take(key, now):
            return
        made, other = self._own_keys.first(key), self._others_keys.first(key)
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
        self._closes.append(now)
        if self._dropped > 0 and now <= self._dropped_until:
            self._dropped -= 1
        elif self.count > len(self.pending):
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
        # Relays of other balancers will tell of each connection that is gone now.
        self._dropped_until = asked_at + self._keep_s

    def _end_run(self) -> None:
        for made in [made for made in self.pending.values() if made.run != self.run_number]:
            self._settle(made)

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

    def _doubt(self, said: int, picks: int) -> None:
        """Watch whether the report ever changes; where we see openings ourselves, they are the proof already."""
        if self._relaying:
            return
        if said != self.reported:
            self._same_reports = self._same_picks = 0
            self.doubted = False
            return
        self._same_reports += 1
        self._same_picks += picks
        # Above 0 clients may come and go evenly by chance; it takes a full change of them to doubt.
        if self._same_reports >= DOUBT_REPORTS and self._same_picks >= max(DOUBT_PICKS, said):
            self.doubted = True
