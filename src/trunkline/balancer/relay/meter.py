"""What the edge counts and reports: numbers, and one event for each thing that happens to a connection. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from trunkline.metrics.exposition import Histogram, Labelled
from trunkline.metrics.series import DURATION_BUCKETS, LATENCY_BUCKETS

EventName = Literal["opened", "closed", "refused", "failed", "steered"]


class EdgeEvent(msgspec.Struct, frozen=True, gc=False):
    """Something happened to a connection.

    Attributes:
        event: `opened` (101), `closed`, `refused` (answered with an error, or a page of the backend instead of 101),
            `failed` (one backend could not take it; another may be tried), `steered` (Traefik got a pick).
        reason: of `opened` and `closed` why this backend was picked; else a fixed label.
        path: path of the request; never the query, which may hold tokens.
        duration_s: how long the connection was open, or the handshake took.
        status: HTTP status that the client got, 0 when it got none.
    """

    event: EventName
    backend: str
    reason: str
    address: str
    path: str
    duration_s: float
    status: int


OnEvent = Callable[[EdgeEvent], None]


class EdgeMeter:
    """Counts of an edge since its start.

    Attributes:
        requests: plain HTTP requests, by class of the status that the client got (`2xx`).
        refusals: requests that the edge refused, by reason.
        pending_dropped: idle connections cut to make room for new ones, by port.
        connect_seconds: from a handshake's last byte to the 101.
    """

    __slots__ = (
        "connect_seconds", "duration_seconds", "opened", "pending_dropped", "refusals", "requests", "retries",
    )  # fmt: skip

    def __init__(self) -> None:
        self.opened = 0
        self.retries = 0
        self.requests = Labelled()
        self.refusals = Labelled()
        self.pending_dropped = Labelled()
        self.connect_seconds = Histogram(LATENCY_BUCKETS)
        self.duration_seconds = Histogram(DURATION_BUCKETS)
