"""Which publications lie in the holes that subscribers were left with. Pure.

A hole's bounds give where publications are missing, the offsets of acknowledged ones how many those
are, because offsets are not dense. The one at a hole's end exists in any case (a later one's `prev` named it, or it was
acknowledged itself), so a hole is never empty, even if its publications are another client's or their
acknowledgements were lost with a connection.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from trunkline.load.model.messages import ChannelEpoch, Hole
from trunkline.load.model.tally import MAX_FINDINGS, Finding

EACH: Final = 100  # publications of one hole that are named one by one; the rest of it is one finding


Offsets = Mapping[ChannelEpoch, Sequence[int]]
"""Offsets of the acknowledged publications of each epoch of a channel, growing."""


def count(holes: Sequence[Hole], offsets: Offsets) -> int:
    """How many publications were lost, each once for every subscriber that missed it."""
    total = 0
    for hole in holes:
        known = offsets.get(hole.of, ())
        first, end = _within(hole, known)
        ends_known = end > 0 and known[end - 1] == hole.upto
        total += end - first + (not ends_known)
    return total


def findings(holes: Sequence[Hole], offsets: Offsets, at_s: float) -> list[Finding]:
    """Name what was lost, at most `MAX_FINDINGS`; what is beyond `EACH` of one hole is one finding together."""
    found: list[Finding] = []
    for hole in holes:
        known = offsets.get(hole.of, ())
        first, end = _within(hole, known)
        named = [hole.after, *known[first : min(end, first + EACH)]]
        if named[-1] != hole.upto:
            named.append(hole.upto)
        for after, offset in pairwise(named):
            if len(found) == MAX_FINDINGS:
                return found
            finding = Finding("lost", hole.channel, hole.connection, offset, after=after, epoch=hole.epoch, at_s=at_s)
            found.append(finding)
    return found


def _within(hole: Hole, known: Sequence[int]) -> tuple[int, int]:
    """The slice of `known` that lies in the hole."""
    return bisect_right(known, hole.after), bisect_right(known, hole.upto)
