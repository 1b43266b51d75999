"""What a balancer changes of the order of versions, by what it sees of the fleet. Pure.

a version is  and                                                          then
------------  -----------------------------------------------------------  --------------------------------------------
not listed    a node reports it                                            listed, as the newest
listed        no node has reported it for `ABSENT_S`                       marked as gone
gone          a node reports it                                            listed, at its old place
gone          it has been marked for `OBJECTION_S`, and none reports it    not listed

Rules:

- A version that is gone and comes back is a new one: so a return to an older release works as an update does.
- A balancer may hear less of the fleet than another one. So it marks a version first, and whoever hears a node of it
  takes the mark away.
- Versions that are found together have one number: which of them came first is not known.
- Beyond `MOST_VERSIONS` the oldest that no node reports are forgotten, and then no more are listed.
- Times are of the balancer's own clock. What happened while it was not looking does not count as absence.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from trunkline.protocol.versions import MOST_VERSIONS, VERSION_CHARS, VersionOrder, VersionSeen

ABSENT_S: Final = 10.0
"""A node that crashed is often back by then; a rollback begins later."""

OBJECTION_S: Final = 5.0
"""Nodes report every two seconds."""

SETTLE_S: Final = 5.0
"""A balancer that finds no order listens for so long before it begins one, so that it has heard all nodes."""


class Watch:
    """What one balancer remembers of the versions it looks for, since it began to look at `now`."""

    def __init__(self, now: float) -> None:
        self._began_at = now
        self._present_at: dict[str, float] = {}
        self._gone_since: dict[str, float] = {}

    def revise(self, order: VersionOrder, present: Collection[str], now: float, timestamp: str) -> VersionOrder:
        """The order as it should be; the same one when nothing is to be changed.

        Args:
            order: as the store has it.
            present: versions that nodes report, those that drain included.
            now: seconds of a steady clock.
            timestamp: the time in UTC as RFC 3339 has it, for people.
        """
        listed = {each.version for each in order.seen}
        gone = {each.version for each in order.seen if each.gone}
        self._present_at = {
            version: now if version in present else self._present_at.get(version, now) for version in listed
        }
        self._gone_since = {version: self._gone_since.get(version, now) for version in gone}
        kept = [self._revised(each, present, now) for each in order.seen]
        seen = [each for each in kept if each is not None]
        if order.seen or now - self._began_at >= SETTLE_S:
            new = sorted(version for version in present if version not in listed and 0 < len(version) <= VERSION_CHARS)
            while seen and len(seen) + len(new) > MOST_VERSIONS and seen[0].version not in present:
                del seen[0]
            number = max((each.number for each in order.seen), default=0) + 1
            seen += [VersionSeen(version, number, timestamp) for version in new[: MOST_VERSIONS - len(seen)]]
        revised = VersionOrder(tuple(seen))
        return order if revised == order else revised

    def _revised(self, seen: VersionSeen, present: Collection[str], now: float) -> VersionSeen | None:
        if seen.version in present:
            return msgspec.structs.replace(seen, gone=False)
        absent = now - self._present_at[seen.version] >= ABSENT_S
        if not seen.gone:
            return msgspec.structs.replace(seen, gone=absent)
        return None if absent and now - self._gone_since[seen.version] >= OBJECTION_S else seen


def numbers(order: VersionOrder) -> dict[str, int]:
    """The number of each version: a newer one's is higher."""
    return {each.version: each.number for each in order.seen}
