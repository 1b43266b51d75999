"""Which publications lie in the holes that subscribers were left with. Pure.

Rules: pure. A hole's bounds say where publications are missing, the offsets of acknowledged ones say how many those
are, for offsets are not dense. The one at a hole's end exists in any case (a later one's `prev` named it, or it was
acknowledged itself), so a hole is never empty, even if its publications are somebody else's or their
acknowledgements were lost with a connection.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from trunkline.load.model.messages import ChannelEpoch, Hole
from trunkline.load.model.tally import MAX_FINDINGS, Finding

EACH: Final = 100
"""Publications of one hole that are named one by one; the rest of it is one finding."""


def count(holes: Sequence[Hole], offsets: Mapping[ChannelEpoch, Sequence[int]]) -> int:
    """How many publications were lost, each once for every subscriber that missed it.

    Args:
        offsets: of the acknowledged publications of each epoch of a channel, growing.
    """
    total = 0
    for hole in holes:
        known = offsets.get(hole.of, ())
        first, end = _within(hole, known)
        total += end - first + (not _ends_known(hole, known, end))
    return total


def findings(holes: Sequence[Hole], offsets: Mapping[ChannelEpoch, Sequence[int]], at_s: float) -> list[Finding]:
    """Name what was lost: a finding a publication, and one for the rest of a hole that has more than `EACH`.

    Args:
        offsets: as for `count`.

    Returns:
        At most `MAX_FINDINGS`.
    """
    told: list[Finding] = []
    for hole in holes:
        known = offsets.get(hole.of, ())
        first, end = _within(hole, known)
        named = [hole.after, *known[first : min(end, first + EACH)]]
        if named[-1] != hole.upto:
            named.append(hole.upto)
        for after, offset in pairwise(named):
            if len(told) == MAX_FINDINGS:
                return told
            told.append(Finding("lost", hole.channel, hole.connection, offset, after, hole.epoch, at_s))
    return told


def _within(hole: Hole, known: Sequence[int]) -> tuple[int, int]:
    """The slice of `known` that lies in the hole."""
    return bisect_right(known, hole.after), bisect_right(known, hole.upto)


def _ends_known(hole: Hole, known: Sequence[int], end: int) -> bool:
    return end > 0 and known[end - 1] == hole.upto
