"""Backends as pages and metrics show them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trunkline.placement.pool import FULL, Backend
from trunkline.placement.states import OUT, SHOWN, Shown
from trunkline.protocol.control import LoadReport


class BackendRow(msgspec.Struct, frozen=True):
    """One backend as it is seen now.

    Attributes:
        group: its canary group or colour, empty for none.
        pool: the pool that routes name, empty for the common one.
        reported: connections in its last report, None without one.
        report_age_s: age of that report in seconds.
        relayed: connections this balancer relays to it.
        reserved: picks that were not seen there yet.
        state: the first of `states.SHOWN` that applies.
        capacity: connections it takes, None when unknown.
        version: the release that it reports, empty for none.
        pods: the newest report of each pod behind it; none of a silent backend.
        node_name: machine of a cluster that it runs on, as its source knows it.
        held: its group gets no new connections.
        usable: whether it could take a connection, were its group not held.
    """

    url: str
    name: str
    group: str
    pool: str
    source: str
    connections: int
    reported: int | None
    report_age_s: float | None
    relayed: int
    reserved: int
    state: Shown
    why: str
    weight: float
    capacity: int | None
    version: str = ""
    pods: tuple[LoadReport, ...] = ()
    node_name: str = ""
    held: bool = False
    usable: bool = True


def row_of(backend: Backend, now: float) -> BackendRow:
    """One backend as it is at `now`, seconds."""
    spec, report = backend.spec, backend.report
    state, why = shown(backend)
    return BackendRow(
        url=backend.url,
        name=spec.name,
        group=backend.group,
        pool=spec.pool,
        source=spec.source,
        # What a silent one reported is not believed; what is relayed there is seen.
        connections=backend.ledger.held if spec.silent else backend.estimate,
        reported=None if report is None else report.agentsConnections,
        report_age_s=None if report is None else max(0.0, now - backend.reported_at),
        relayed=backend.ledger.relayed,
        reserved=len(backend.ledger.pending),
        state=state,
        why=why,
        weight=spec.weight,
        capacity=backend.capacity,
        version=backend.version,
        pods=() if report is None or spec.silent else backend.pods.reports,
        node_name=spec.node_name,
        held=backend.held,
        usable=spec.weight > 0 and not backend.draining and backend.ready(now, ()),
    )


def shown(backend: Backend) -> tuple[Shown, str]:
    """The state that is shown of a backend, and why it is in it."""
    condition = backend.condition
    reasons: dict[Shown, str] = {condition.state: condition.why}
    if backend.draining:
        reasons["draining"] = "its source takes it out" if backend.spec.draining else "its report says so"
    if backend.load == FULL:
        reasons["full"] = f"{backend.estimate} of {backend.capacity} connections"
    state = next(state for state in SHOWN if state in reasons)
    return state, _note(backend) if state == "up" else reasons[state]


def _note(backend: Backend) -> str:
    """What an operator should know of a backend that is up."""
    if backend.ledger.doubted:
        return "its reports never change although picks go there"
    if backend.spec.tier:
        return "a backup: for when no backend of a lower SRV priority can take a connection"
    if backend.spec.weight <= 0:
        return "weight 0: no new connections"
    if backend.held:
        return "held: its group gets no new connections"
    return backend.condition.kept or (backend.report_failure and f"no load report: {backend.report_failure}")


def imbalance(backends: Iterable[Backend]) -> dict[tuple[str, str], float]:
    """By pool and group the load of the fullest backend beside the mean, 1 when even.

    Of backends that take more and work: what is down cannot be evened out, backups wait, and each pool is apart; those
    beside a newer version are left to run empty.
    """
    counts: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for backend in backends:
        if backend.takes and not backend.outdated and not backend.spec.tier and backend.condition.state not in OUT:
            counts.setdefault((backend.pool, backend.group), []).append((backend.estimate, backend.full_share))
    found = {}
    for group, each in counts.items():
        total = sum(count for count, _ in each)
        mean = total / sum(share for _, share in each)
        found[group] = max(count / share for count, share in each) / mean if total else 1.0
    return found
