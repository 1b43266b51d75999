"""Chooses the backend of a connection: pool, then sticky cookie, then canary group, then version, then policy. Pure.

Rules:

- A backend can take a connection when it has a weight, does not drain, is not held (`Shares`), works (`Condition`), was
  not tried for this connection, and is below its capacity.
- Backends of a higher tier are backups: they are chosen from while none of a lower one can take the connection.
- A sticky client goes back to its backend while that can take it, else to its group, else it is new.
- A choice that is not reserved is forgotten by all but the round robins.
- A refusal has one of four reasons, and when to come back, with jitter, so that not all come at once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from trunkline.placement import affinity, sticky
from trunkline.placement.fleet import Fleet
from trunkline.placement.hashing import point_of, score
from trunkline.placement.placing import Ask, Pick, Refusal
from trunkline.placement.policies import CHOOSERS, least_connections
from trunkline.placement.pool import FULL, Backend, Lane, Pool
from trunkline.placement.versions import around, preferred

RETRY_AFTER_S: Final = (1.0, 5.0)


def place(fleet: Fleet, ask: Ask, now: float, rng: random.Random) -> Pick | Refusal:
    """Choose a backend and reserve a place on it; a request without a key reserves nothing."""
    found = _choose(fleet, ask, now, rng)
    if found is None:
        return _refuse(fleet, ask, now, rng)
    backend, reason = found
    if ask.policy == "affinity" and ask.affinity is not None:
        fleet.homes.settle(ask.pool, ask.affinity, backend.url, now)
    reservation = fleet.reserve(backend.url, ask.key, now) if ask.key else 0
    cookie = _cookie(fleet, ask, backend)
    return Pick(backend.url, reservation, reason, cookie, backend.group, backend.spec.server_name)


def _choose(fleet: Fleet, ask: Ask, now: float, rng: random.Random) -> tuple[Backend, str] | None:
    pool = fleet.pools.get(ask.pool)
    if pool is None:
        return None
    pool.refresh(now)
    found = _ordinary(fleet, pool, ask, now, rng) if pool.takers.members else None
    if found is not None:
        return found
    if pool.backup is not None:
        for backup in pool.backup.tiers():
            backup.refresh(now)
            if backup.takers.members and (found := _ordinary(fleet, backup, ask, now, rng)) is not None:
                return found
    return _last_resort(fleet, _takers(pool), ask, now, rng)


def _takers(pool: Pool) -> list[Backend]:
    return [backend for tier in pool.tiers() for backend in tier.takers.members]


def _last_resort(
    fleet: Fleet, takers: Sequence[Backend], ask: Ask, now: float, rng: random.Random
) -> tuple[Backend, str] | None:
    """When every backend is out, one of them all the same: one whose checks are good before one that is down.

    It is likelier that the checks are wrong, or that what they depend on (a bus, a database) is away, than that all
    backends have gone at the same moment; and failures while the checks are good may be the clients' own. A client that
    finds none is refused after one try. Clients of a key still belong together, and sticky ones to their backend: the
    fleet may serve them all for as long as its checks are wrong.
    """
    if ask.tried or any(backend.condition.usable(now) for backend in takers):
        return None
    room = [each for each in takers if each.load != FULL]
    candidates = [each for each in room if each.condition.state != "down"] or room
    if not candidates:
        return None
    if fleet.settings.sticky_cookie and ask.sticky is not None and (wanted := sticky.parse(ask.sticky)) is not None:
        for backend in candidates:
            if backend.id == wanted.backend:
                return backend, "last_resort"
    if ask.policy == "affinity" and ask.affinity is not None:
        home, point = fleet.homes.of(ask.pool, ask.affinity, now), point_of(ask.affinity)
        return max(
            candidates, key=lambda each: (each.url == home, score(point, each.seed, each.spec.weight))
        ), "last_resort"
    least = min(backend.load for backend in candidates)
    return rng.choice([backend for backend in candidates if backend.load == least]), "last_resort"


def _ordinary(fleet: Fleet, pool: Pool, ask: Ask, now: float, rng: random.Random) -> tuple[Backend, str] | None:
    if ask.sticky is not None and fleet.settings.sticky_cookie:
        found = _by_cookie(fleet, pool, ask, now, rng)
        if found is not None:
            return found
    lane: Lane | None = pool.takers
    if pool.split:
        # All clients of a key belong to one group, that of the first.
        home = _home(fleet, ask, now)
        lane = pool.lanes.get(home.group) if home is not None and home.ready(now, ask.tried) else None
        lane = lane or fleet.turns(ask.pool).next(pool, now, ask.tried)
    return None if lane is None else _in_lane(fleet, lane, ask, now, rng)


def _home(fleet: Fleet, ask: Ask, now: float) -> Backend | None:
    if ask.policy != "affinity" or ask.affinity is None:
        return None
    return fleet.backends.get(fleet.homes.of(ask.pool, ask.affinity, now) or "")


def _by_cookie(fleet: Fleet, pool: Pool, ask: Ask, now: float, rng: random.Random) -> tuple[Backend, str] | None:
    wanted = sticky.parse(ask.sticky or "")
    if wanted is None:
        return None
    backend = pool.by_id.get(wanted.backend)
    if backend is not None and backend.ready(now, ask.tried):
        return backend, "sticky"
    # A cookie of Traefik's names no group; while the backend is known, its group is.
    lane = pool.lanes.get(wanted.group or (backend.group if backend is not None else ""))
    return None if lane is None else _in_lane(fleet, lane, ask, now, rng)


def _in_lane(fleet: Fleet, lane: Lane, ask: Ask, now: float, rng: random.Random) -> tuple[Backend, str] | None:
    spilled = False
    if ask.policy == "affinity" and ask.affinity is not None:
        backend, spilled = _by_key(fleet, lane, ask, ask.affinity, now)
    else:
        newest = preferred(lane, now, ask.tried)
        backend = CHOOSERS.get(ask.policy, least_connections)(newest, now, ask.tried, rng)
    if backend is None:
        return None
    if ask.tried:
        return backend, "retry"
    if not lane.has_ready(now, (), besides=backend):
        return backend, "only"
    if spilled:
        return backend, "affinity_spill"
    # Affinity without a key is least connections, by name too.
    return backend, "least_connections" if ask.policy == "affinity" and ask.affinity is None else ask.policy


def _by_key(fleet: Fleet, lane: Lane, ask: Ask, key: str, now: float) -> tuple[Backend | None, bool]:
    bound = fleet.settings.affinity_bound
    home = fleet.homes.of(ask.pool, key, now)
    if home is not None and (peers := around(lane, home)) is not None:
        # Beside the empty nodes of a new version any home would be too full.
        found = affinity.choose(peers, key, bound, now, ask.tried, home)
        if found[0] is not None and found[0].url == home:
            return found
    return affinity.choose(preferred(lane, now, ask.tried), key, bound, now, ask.tried, home)


def _cookie(fleet: Fleet, ask: Ask, backend: Backend) -> str | None:
    if not fleet.settings.sticky_cookie:
        return None
    value = sticky.render(backend.id, backend.group if fleet.shares.split else "")
    return None if value == ask.sticky else value


def _refuse(fleet: Fleet, ask: Ask, now: float, rng: random.Random) -> Refusal:
    pool = fleet.pools.get(ask.pool)
    wait_s = rng.uniform(*RETRY_AFTER_S)
    if pool is None or not pool.members:
        where = f"the pool {ask.pool!r}" if ask.pool else "the fleet"
        return Refusal(503, "no_backend", f"There is no backend in {where}.", wait_s)
    working = [backend for backend in _takers(pool) if backend.condition.usable(now)]
    if not working:
        count = sum(len(tier.members) for tier in pool.tiers())
        return Refusal(503, "all_down", f"None of {count} backends takes connections: down, draining or held.", wait_s)
    untried = [backend for backend in working if backend.url not in ask.tried]
    if not untried:
        return Refusal(502, "all_tried", f"{len(ask.tried)} backends were tried and none answered well.", wait_s)
    full = sum(backend.load == FULL for backend in untried)
    return Refusal(503, "full", f"All {full} backends that work are at their capacity.", wait_s)
