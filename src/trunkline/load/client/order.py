"""What one subscriber of a channel or one echoing connection got: loss, duplicates and order. Pure.

Rules:

- The straight path is the caller's (`Subscriber._follow`) and costs one comparison of numbers and one of epochs.
- Offsets of a channel grow and are not dense; `prev` names the one before. A `prev` beyond what was seen leaves a hole;
  what comes behind its time closes its hole or splits it (its own `prev` shows where), and is late. Anything else at or
  below `last` is a duplicate.
- Hence each publication is judged once and rightly in whatever order they come: unseen ones below `last` are in a hole.
- What a `gap` announced is excused, before its time or after; should it come after all, it is late and not double.
- How many publications a hole holds cannot be known here: `missing` counts them against the published offsets.
- Memory: nothing but the position until something is odd; then at most `ranges.MAX_RANGES` holes an epoch, and
  `MAX_PAST` ended epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from trunkline.load.client.ranges import Range, Ranges
from trunkline.load.model.messages import Hole, Position
from trunkline.load.model.tally import Finding, FindingKind

MAX_PAST: Final = 4  # ended epochs remembered of one channel


class Taken(NamedTuple):
    """What became of a message: whether it came for the first time, and what is wrong with it."""

    delivery: bool
    findings: tuple[Finding, ...] = ()


DELIVERED: Final = Taken(True)
IGNORED: Final = Taken(False)


@dataclass(slots=True)
class _Past:
    """An epoch that ended, for what may still come of it."""

    epoch: str
    last: int
    ranges: Ranges


class ChannelOrder:
    """One subscriber in one channel.

    It has no position until `start`, or until the first publication: a room of the chat is joined by the server, with
    no ack. In a channel without history (null offsets) it never gets one; then publications are only counted.
    """

    __slots__ = ("_forgotten", "_past", "_ranges", "channel", "connection", "epoch", "last")

    def __init__(self, channel: str, connection: int) -> None:
        self.channel = channel
        self.connection = connection  # number of the connection, for findings
        self.epoch: str | None = None  # of the position; None: none yet
        self.last = 0  # everything up to this offset was seen, or is known not to have come
        self._ranges: Ranges | None = None
        self._past: list[_Past] | None = None
        self._forgotten = 0

    def start(self, epoch: str | None, offset: int | None) -> None:
        """Continue at the position of a `subscription_ack` that recovers nothing; None in a channel without history.

        An ack with `recovered: true` changes nothing: what was missed follows, each publication with its `prev`.

        Holes stay; what was missed between the old position and this one is the caller's to count. If the new position
        is behind the old one (another server, that is not as far yet), what comes from there counts again.
        """
        if epoch is None or offset is None:
            self._leave()
            self.epoch, self.last = None, 0
            return
        if epoch != self.epoch:
            self._leave()
        elif self._ranges is not None:
            self._ranges.cut_off(offset)
        self.epoch, self.last = epoch, offset

    def odd(self, epoch: str | None, offset: int | None, prev: int | None, at_s: float) -> Taken:
        """Judge a publication, or a `publish_ack` with `prev` in its place, that does not follow the last one.

        Epoch and offset are None in a channel without history; `at_s` is now, from the start of the run.
        """
        if epoch is None or offset is None:
            return DELIVERED
        if self.epoch is None:
            self._begin(epoch, offset, prev)
            return DELIVERED
        if epoch != self.epoch:
            past = self._ended(epoch)
            if past is not None:
                return self._of_past(past, offset, prev, at_s)
            self._leave()
            self._begin(epoch, offset, prev)
            return Taken(True, (self._finding("epoch", epoch, offset, at_s),))
        if offset > self.last:
            if prev is not None and prev > self.last:
                self._remembered().add(self.last, min(prev, offset - 1))
            self.last = offset
            return DELIVERED
        if self._ranges is not None and self._ranges.take(offset, prev):
            return Taken(True, (self._finding("reordered", epoch, offset, at_s),))
        return Taken(False, (self._finding("duplicate", epoch, offset, at_s),))

    def gap(self, epoch: str | None, after: int | None, before: int | None) -> int:
        """Excuse what a `gap` announces as not coming; returns how many publications were dropped at the least.

        What is missing before the gap becomes a hole; holes within it are excused. A gap of another epoch announces
        that the channel started again, and is no finding. Without `before` only what is a hole by now is excused. Each
        hole that is closed counts one, and so does what lies ahead; 1 also stands for what cannot be known.
        """
        if epoch is None:
            return 1
        if epoch != self.epoch:
            past = self._ended(epoch)
            if past is not None:
                return past.ranges.excuse(after or 0, past.last if before is None else before - 1)
            if before is not None:
                self._leave()
                self.epoch, self.last = epoch, before - 1
                self._remembered().add(after or 0, before - 1, excused=True)
            return 1
        low = after or 0
        upto = self.last if before is None else before - 1
        count = 0 if self._ranges is None else self._ranges.excuse(low, upto)
        if upto > self.last:
            ranges = self._remembered()
            ranges.add(self.last, min(low, upto))
            if upto > low:
                ranges.add(max(low, self.last), upto, excused=True)
                count += 1
            self.last = upto
        return count or int(before is None)

    def reached(self, position: Position) -> bool:
        """Whether everything up to `position` has come and nothing is missing before it; True without a position."""
        if self.epoch is None:
            return True
        if self.epoch != position.epoch:
            return self._ended(position.epoch) is not None
        return self.last >= position.offset and (self._ranges is None or not self._ranges.holes())

    def finish(self, end: Position | None) -> list[Hole]:
        """The holes that are left, those of ended epochs first; up to `end`, unless that was not owed to it."""
        of_epochs = [(past.epoch, past.ranges.holes()) for past in self._past or ()]
        if self.epoch is not None:
            holes = [] if self._ranges is None else self._ranges.holes()
            if end is not None and end.epoch == self.epoch and end.offset > self.last:
                holes.append(Range(self.last, end.offset, False))
            of_epochs.append((self.epoch, holes))
        return [
            Hole(self.channel, epoch, hole.after, hole.upto, self.connection)
            for epoch, holes in of_epochs
            for hole in holes
        ]

    def seen(self) -> dict[str, int]:
        """How far each epoch that it was in was seen, of those that it remembers."""
        found: dict[str, int] = {}
        for past in self._past or ():
            found[past.epoch] = max(past.last, found.get(past.epoch, 0))
        if self.epoch is not None:
            found[self.epoch] = max(self.last, found.get(self.epoch, 0))
        return found

    @property
    def forgotten(self) -> int:
        """Holes that `finish` does not return any more, because there were too many."""
        ranges = [past.ranges for past in self._past or ()]
        if self._ranges is not None:
            ranges.append(self._ranges)
        return self._forgotten + sum(each.forgotten for each in ranges)

    def _begin(self, epoch: str, offset: int, prev: int | None) -> None:
        """Take the first publication as the start: nothing before it is owed, and anything before it may still come."""
        self.epoch, self.last = epoch, offset
        upto = offset - 1 if prev is None else min(prev, offset - 1)
        if upto > 0:
            self._remembered().add(0, upto, excused=True)

    def _of_past(self, past: _Past, offset: int, prev: int | None, at_s: float) -> Taken:
        if offset > past.last:
            if prev is not None:
                past.ranges.add(past.last, min(prev, offset - 1))
            past.last = offset
        elif not past.ranges.take(offset, prev):
            return Taken(False, (self._finding("duplicate", past.epoch, offset, at_s),))
        return Taken(True, (self._finding("reordered", past.epoch, offset, at_s),))

    def _leave(self) -> None:
        if self.epoch is None:
            return
        if self._past is None:
            self._past = []
        self._past.append(_Past(self.epoch, self.last, self._remembered()))
        self._ranges = None
        if len(self._past) > MAX_PAST:
            oldest = self._past.pop(0).ranges
            self._forgotten += oldest.forgotten + len(oldest.holes())

    def _ended(self, epoch: str) -> _Past | None:
        return next((past for past in self._past or () if past.epoch == epoch), None)

    def _remembered(self) -> Ranges:
        if self._ranges is None:
            self._ranges = Ranges()
        return self._ranges

    def _finding(self, kind: FindingKind, epoch: str, offset: int, at_s: float) -> Finding:
        return Finding(kind, self.channel, self.connection, offset, epoch=epoch, at_s=at_s)


class Unechoed(NamedTuple):
    """What did not come back over one connection."""

    lost: int  # messages that later ones overtook for good
    outstanding: int  # messages after the last echo: abandoned if the connection was lost, else unanswered
    findings: tuple[Finding, ...]


class EchoOrder:
    """The echoes of one session, numbered from 0 on each connection; `odd` judges those that are not `expected`."""

    __slots__ = ("_ranges", "connection", "count", "expected")

    def __init__(self, connection: int) -> None:
        self.connection = connection
        self.expected = 0
        self.count = 0
        self._ranges: Ranges | None = None

    def sent(self) -> int:
        """Number the message that is about to be sent."""
        number = self.count
        self.count = number + 1
        return number

    @property
    def settled(self) -> bool:
        """Whether all echoes have come."""
        return self.expected == self.count and (self._ranges is None or not self._ranges.holes())

    def odd(self, number: int, at_s: float) -> Taken:
        """Judge an echo that is not the expected one; no delivery and no finding for a number that was never sent."""
        if not 0 <= number < self.count:
            return IGNORED
        if number >= self.expected:
            if number > self.expected:
                if self._ranges is None:
                    self._ranges = Ranges()
                self._ranges.add(self.expected - 1, number - 1)
            self.expected = number + 1
            return DELIVERED
        if self._ranges is not None and self._ranges.take(number, number - 1):
            return Taken(True, (Finding("reordered", "", self.connection, number, at_s=at_s),))
        return Taken(False, (Finding("duplicate", "", self.connection, number, at_s=at_s),))

    def finish(self, at_s: float) -> Unechoed:
        """What is missing now; nothing changes."""
        if self._ranges is None:
            return Unechoed(0, self.count - self.expected, ())
        holes = self._ranges.holes()
        lost = self._ranges.forgotten_width + sum(hole.upto - hole.after for hole in holes)
        findings = tuple(Finding("lost", "", self.connection, hole.upto, after=hole.after, at_s=at_s) for hole in holes)
        return Unechoed(lost, self.count - self.expected, findings)

    def restart(self, at_s: float) -> Unechoed:
        """The connection has ended: return what is missing, and number the next one's messages from 0."""
        missing = self.finish(at_s)
        self.expected = self.count = 0
        self._ranges = None
        return missing
