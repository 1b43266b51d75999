"""Prefers the newest release among the backends of a lane. Pure.

A rolling update that moves clients to nodes of the old release moves them again when those end. So, within what the
traffic table allows:

- A connection goes to the newest version that has a backend ready for it; when all of those are full, out or tried, to
  the next one.
- The order is that of the fleet's store (`VersionOrder`). A version that the order does not have yet is the newest.
- Backends of one version are equal. One without a version, as a foreign backend, is equal to the newest.
- A key of the affinity policy stays at its home while that can take it, whatever its version; a sticky client too.
- While the order is not known all versions are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from trunkline.placement.pool import Backend, Lane, Pool

UNNUMBERED: Final = float("inf")


def arrange(pool: Pool, numbers: Mapping[str, int] | None) -> None:
    """Tell the versions of a pool apart; `numbers` orders them, None while no order is known."""
    for backend in pool.members:
        backend.outdated = False
    if numbers is None:
        return
    for lane in pool.lanes.values() if pool.lanes else (pool.takers,):
        by_number: dict[float, list[Backend]] = {}
        for backend in lane.members:
            if backend.version:
                by_number.setdefault(numbers.get(backend.version, UNNUMBERED), []).append(backend)
        if len(by_number) < 2:
            continue
        newest, *older = sorted(by_number, reverse=True)
        plain = [backend for backend in lane.members if not backend.version]
        lane.versions = (Lane(by_number[newest] + plain), *(Lane(by_number[number]) for number in older))
        for number in older:
            for backend in by_number[number]:
                backend.outdated = True


def preferred(lane: Lane, now: float, tried: Sequence[str]) -> Lane:
    """The part of a lane that a new connection goes to."""
    for each in lane.versions:
        if each.has_ready(now, tried):
            return each
    return lane


def around(lane: Lane, url: str) -> Lane | None:
    """The part of a lane in which the backend at `url` is, None when it is not there or versions are not told apart."""
    for each in lane.versions:
        if any(backend.url == url for backend in each.members):
            return each
    return None
