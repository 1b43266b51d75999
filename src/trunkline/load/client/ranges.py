"""What did not come: ranges of offsets, opened where later ones were seen and closed by what comes late. Pure."""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter
from typing import Final, NamedTuple

MAX_RANGES: Final = 256
"""Ranges remembered at a time; the oldest is forgotten first and, if it is a hole, counted."""


class Range(NamedTuple):
    """What did not come of after < offset <= upto; excused: and need not."""

    after: int
    upto: int
    excused: bool


_after = attrgetter("after")


class Ranges:
    """What did not come of one epoch: ranges that do not overlap, in growing order; the oldest holes are forgotten."""

    __slots__ = ("_ranges", "forgotten", "forgotten_width")

    def __init__(self) -> None:
        self._ranges: list[Range] = []
        self.forgotten = 0
        self.forgotten_width = 0

    def add(self, after: int, upto: int, *, excused: bool = False) -> None:
        """Open a range behind all others, unless it is empty."""
        if upto > after:
            self._ranges.append(Range(after, upto, excused))
            self._bound()

    def take(self, offset: int, prev: int | None) -> bool:
        """Take out an offset that came, and what is between it and `prev`, which never was; False: not in any range."""
        at = bisect_left(self._ranges, offset, key=_after) - 1
        if at < 0 or self._ranges[at].upto < offset:
            return False
        after, upto, excused = self._ranges[at]
        parts = []
        if prev is not None and prev > after:
            parts.append(Range(after, min(prev, offset - 1), excused))
        if offset < upto:
            parts.append(Range(offset, upto, excused))
        self._ranges[at : at + 1] = [part for part in parts if part.upto > part.after]
        self._bound()
        return True

    def excuse(self, after: int, upto: int) -> int:
        """Excuse what is within after < offset <= upto; returns how many holes that concerns."""
        count = 0
        ranges: list[Range] = []
        for each in self._ranges:
            low, high = max(each.after, after), min(each.upto, upto)
            if each.excused or high <= low:
                ranges.append(each)
                continue
            count += 1
            if low > each.after:
                ranges.append(Range(each.after, low, False))
            ranges.append(Range(low, high, True))
            if each.upto > high:
                ranges.append(Range(high, each.upto, False))
        self._ranges = ranges
        self._bound()
        return count

    def cut_off(self, offset: int) -> None:
        """Forget what is beyond `offset`."""
        self._ranges = [
            Range(each.after, min(each.upto, offset), each.excused) for each in self._ranges if each.after < offset
        ]

    def holes(self) -> list[Range]:
        """The ranges that are not excused."""
        return [each for each in self._ranges if not each.excused]

    def _bound(self) -> None:
        while len(self._ranges) > MAX_RANGES:
            oldest = self._ranges.pop(0)
            if not oldest.excused:
                self.forgotten += 1
                self.forgotten_width += oldest.upto - oldest.after
