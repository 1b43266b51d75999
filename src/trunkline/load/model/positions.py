"""What several workers send about the same channels, put together. Pure.

Rules:

- Where a channel ended: in one epoch the greatest offset. Where workers name different epochs the channel started
  again during the run, and the one that was acknowledged last counts (`Position.at`), because epochs have no order.
- Long maps travel in pieces of `ENDS_AT_ONCE`, so that no message grows beyond what a pipe or NATS takes.
- Of the published offsets only those within holes are kept; the rest of a long run would fill the memory.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from trunkline.load.model.messages import ChannelEpoch, Done, Hole, Offsets, Position, SendOffsets

ENDS_AT_ONCE: Final = 1_500  # a name has 400 characters at most, so this many positions stay below MAX_BYTES
CHANNELS_AT_ONCE: Final = 2_000
"""In one request, for the same reason: names of 400 characters stay below MAX_BYTES."""

Range = tuple[int, int]  # first and last offset, both in it


def merge_ends(of_workers: Iterable[Mapping[str, Position]]) -> dict[str, Position]:
    """Where each channel ended, over all workers."""
    ends: dict[str, Position] = {}
    for each in of_workers:
        for channel, position in each.items():
            known = ends.get(channel)
            if known is None or _later(position, known):
                ends[channel] = position
    return ends


def _later(one: Position, other: Position) -> bool:
    if one.epoch == other.epoch:
        return one.offset > other.offset
    # The text of the epoch decides between equal times, so that the order of the workers never does.
    return (one.at, one.epoch) > (other.at, other.epoch)


def in_pieces(ends: Mapping[str, Position]) -> Iterator[tuple[dict[str, Position], bool]]:
    """Pieces of a map, each with whether more follow; one empty piece for an empty map."""
    items = iter(ends.items())
    left = len(ends)
    while True:
        piece = dict(islice(items, ENDS_AT_ONCE))
        left -= len(piece)
        yield piece, left > 0
        if left <= 0:
            return


def ranges_of(holes: Iterable[Hole]) -> dict[ChannelEpoch, list[Range]]:
    """The offsets that lie in some hole: ranges that grow and do not touch each other."""
    found: dict[ChannelEpoch, list[Range]] = {}
    for hole in sorted(holes, key=lambda hole: (hole.of, hole.after, hole.upto)):
        ranges = found.setdefault(hole.of, [])
        first, last = hole.after + 1, hole.upto
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], last))
        else:
            ranges.append((first, last))
    return found


def within(offsets: Sequence[int], ranges: Iterable[Range]) -> list[int]:
    """Those of growing `offsets` that lie in a range."""
    found: list[int] = []
    for first, last in ranges:
        found.extend(offsets[bisect_left(offsets, first) : bisect_right(offsets, last)])
    return found


class Holes:
    """The holes that all workers noticed, and which publications in them exist."""

    def __init__(self) -> None:
        self.holes: list[Hole] = []
        self.more = 0  # holes that were only counted
        self._ranges: dict[ChannelEpoch, list[Range]] = {}
        self._offsets: dict[ChannelEpoch, set[int]] = {}

    def add(self, done: Done) -> None:
        """What one worker noticed."""
        self.holes.extend(done.holes)
        self.more += done.more_holes

    def requests(self) -> list[SendOffsets]:
        """What to request of every worker once all have sent their holes; nothing when there are none."""
        self._ranges = ranges_of(self.holes)
        channels = tuple(dict.fromkeys(channel for channel, _ in self._ranges))
        starts = range(0, len(channels), CHANNELS_AT_ONCE)
        return [SendOffsets(channels[at : at + CHANNELS_AT_ONCE], at != starts[-1]) for at in starts]

    def answered(self, sent: Offsets) -> None:
        """What one worker published in an epoch of a channel, or a part of it."""
        of = (sent.channel, sent.epoch)
        found = within(sent.offsets, self._ranges.get(of, ()))
        if found:
            self._offsets.setdefault(of, set()).update(found)

    def published(self) -> dict[ChannelEpoch, list[int]]:
        """Growing offsets of acknowledged publications that lie in one of the holes."""
        return {of: sorted(offsets) for of, offsets in self._offsets.items()}
