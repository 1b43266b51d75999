"""What a traffic table may say of a fleet, and how it is shown. Pure.

Rules:

- An order is refused when a colour that it gives connections has no backend that is ready, or when a pool that has one
  now would have none: its clients would be refused from the next moment on.
- A colour is what backends report, or their sources name; a backend without one is held by every table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from trunkline.balancer.peers import GONE_S, Peer
from trunkline.placement.pool import Backend
from trunkline.placement.shares import Shares
from trunkline.protocol.traffic import BalancerTraffic, TrafficOrder, TrafficState, TrafficTable


def next_table(order: TrafficOrder, present: TrafficTable | None, changed_at: str) -> TrafficTable:
    """The table that an order makes of the present one."""
    generation = 1 if present is None else present.generation + 1
    return TrafficTable(generation, order.weights, changed_at, order.changed_by)


def unready(weights: Mapping[str, float], backends: Iterable[Backend], now: float) -> str:
    """Why these weights would leave clients without a backend, in words; empty when they would not."""
    ready = [backend for backend in backends if is_ready(backend, now)]
    there = sorted({backend.group for backend in ready if backend.group})
    have = f"ready are: {', '.join(there)}" if there else "no colour has one"
    for colour, weight in weights.items():
        if weight > 0 and colour not in there:
            return f"the colour {colour!r} has no ready backend; {have}"
    for pool in dict.fromkeys(backend.pool for backend in ready):
        if not any(weights.get(backend.group, 0) > 0 for backend in ready if backend.pool == pool):
            where = f"the pool {pool!r}" if pool else "the fleet"
            return f"{where} would have no ready backend of a colour with a weight above 0; {have}"
    return ""


def is_ready(backend: Backend, now: float) -> bool:
    """Whether a backend could take connections, were its colour given any."""
    return backend.spec.weight > 0 and not backend.draining and backend.condition.usable(now)


def state_of(
    table: TrafficTable | None,
    shares: Shares,
    backends: Iterable[Backend],
    own: tuple[str, str],
    peers: Mapping[str, Peer],
    now: float,
    stored: str,
) -> TrafficState:
    """What the balancer `own` (its id and place) shows at `now`: while there is no table, the shares of the setting.

    `peers` are the other balancers by id, and `stored` says where the table is kept.
    """
    colours = {backend.group for backend in backends if backend.group}
    generation = 0 if table is None else table.generation
    others = (
        BalancerTraffic(name, peer.generation, round(now - peer.at, 1), peer.place) for name, peer in peers.items()
    )
    return TrafficState(
        generation=generation,
        weights=dict(shares.weights),
        held=tuple(sorted(colour for colour in colours if shares.holds(colour))),
        balancers=(BalancerTraffic(own[0], generation, 0.0, own[1]), *others),
        changed_at="" if table is None else table.changed_at,
        changed_by="" if table is None else table.changed_by,
        stored=stored,
    )


def peers_by_state(state: TrafficState, own: str) -> dict[str, int]:
    """How many other balancers apply the same table, apply another one, and are silent."""
    counts = {"alike": 0, "differing": 0, "silent": 0}
    for peer in state.balancers:
        if peer.id != own:
            alike = "alike" if peer.generation == state.generation else "differing"
            counts["silent" if peer.silent_s > GONE_S else alike] += 1
    return counts
