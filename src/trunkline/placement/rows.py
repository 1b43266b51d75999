"""One backend as pages and metrics show it. Pure."""

from __future__ import annotations

import msgspec


class BackendRow(msgspec.Struct, frozen=True):
    """One backend as it is seen now.

    Attributes:
        url: its name and place.
        name: what people call it, empty for its URL.
        group: its canary group or colour, empty for none.
        pool: the pool that routes name, empty for the common one.
        source: where it was found.
        connections: connections it is believed to have.
        reported: what its last report said, None without one.
        report_age_s: age of that report in seconds.
        relayed: connections this balancer relays to it.
        reserved: picks that were not seen there yet.
        state: what may happen to it now: up, draining, down, ejected, open, half_open, full.
        why: why it is not up.
        weight: its share.
        capacity: connections it takes, None when unknown.
        pod: podName, podIP and nodeName of its report.
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
    state: str
    why: str
    weight: float
    capacity: int | None
    pod: tuple[str | None, str | None, str | None] = (None, None, None)
