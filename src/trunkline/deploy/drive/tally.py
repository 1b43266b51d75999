"""Counts of a node that a deploy keeps, in short, and what was added between two of them. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from trunkline.protocol.goodbyes import MoveCounts


class Tally(msgspec.Struct, frozen=True, array_like=True):
    """What of `MoveCounts` a record keeps: `resumed` from all colours, `gaps` with channels that were not recovered.

    `returned` is empty while nobody has returned, and `refused` has no entries of 0.
    """

    closed: int = 0
    asked: int = 0
    nameless: int = 0
    cut: int = 0
    resumed: int = 0
    recovered: int = 0
    gaps: int = 0
    returned: dict[str, int] = {}
    refused: dict[str, int] = {}


NOTHING: Final = Tally()


def tally(counts: MoveCounts) -> Tally:
    """The counts of a node in short."""
    return Tally(
        counts.closed, counts.asked, counts.nameless, counts.cut, sum(counts.resumed.values()), counts.recovered,
        counts.not_recovered + counts.gaps, counts.returned if any(counts.returned.values()) else {},
        {label: count for label, count in counts.refused.items() if count},
    )  # fmt: skip


def more(one: Tally, other: Tally) -> Tally:
    """Both together."""
    return _together(one, other, 1)


def less(newer: Tally, older: Tally) -> Tally:
    """What was added from the older one to the newer one."""
    return _together(newer, older, -1)


def _together(one: Tally, other: Tally, sign: int) -> Tally:
    returned, refused = Counter(one.returned), Counter(one.refused)
    for counter, added in ((returned, other.returned), (refused, other.refused)):
        for name, count in added.items():
            counter[name] += sign * count
    return Tally(
        one.closed + sign * other.closed, one.asked + sign * other.asked, one.nameless + sign * other.nameless,
        one.cut + sign * other.cut, one.resumed + sign * other.resumed, one.recovered + sign * other.recovered,
        one.gaps + sign * other.gaps, dict(returned), dict(refused),
    )  # fmt: skip
