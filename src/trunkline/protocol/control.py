"""Messages between our own processes and to operators: load report, health, stats, admin orders. Pure.

Rules: field names on the wire are a contract (dashboards, balancer and foreign backends use them). Readers ignore
unknown fields and need only those without a default, so that a backend which sends `agentsConnections` alone can take
connections.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec


class LoadReport(msgspec.Struct, frozen=True):
    """`GET /metric`: how full a backend is. The first four names are those that foreign backends use.

    Attributes:
        state: `draining` takes no new connections.
        colour: deploy group.
        capacity: most connections it takes.
        accept_per_s: handshakes it can take now.
        run: drawn at the start of the process; with another one, `opened` counts from 0 again.
        opened: WebSockets opened since the start.
        keys: Sec-WebSocket-Key of the newest of these, oldest first. Only in the answer to `/metric?after=N`, which
            wants those behind the first N: with them a balancer knows which of its picks have arrived.
        version: `server.version`: which release the backend runs, opaque.
    """

    agentsConnections: Annotated[int, msgspec.Meta(ge=0)]
    podName: str | None = None
    podIP: str | None = None
    nodeName: str | None = None
    state: Literal["up", "draining"] = "up"
    colour: str | None = None
    capacity: Annotated[int, msgspec.Meta(ge=0)] | None = None
    accept_per_s: float | None = None
    loop_lag_ms: float | None = None
    run: str | msgspec.UnsetType = msgspec.UNSET
    opened: Annotated[int, msgspec.Meta(ge=0)] | msgspec.UnsetType = msgspec.UNSET
    keys: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    version: str | None = None


class NodeReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node sends to all balancers: at the start, on a change, on request, and every two seconds.

    Attributes:
        url: where its connections go, e.g. http://10.0.0.7:3001.
        report: its load report, with the keys opened since its last message.
        leaving: its last message: it is about to end.
    """

    node: str
    url: str
    report: LoadReport
    leaving: bool = False


class PickNotice(msgspec.Struct, frozen=True, array_like=True):
    """One event of a balancer that its peers count too.

    Attributes:
        event: `p` picked, `f` the pick failed, `c` an opened connection has ended, `m` the clients of an affinity key
            were asked to move away.
        url: the backend.
        key: Sec-WebSocket-Key of the connection; of `m` the affinity key.
        affinity: of `p`, the affinity key that now lives at the backend; empty for none.
    """

    event: Literal["p", "f", "c", "m"]
    url: str
    key: str
    affinity: str = ""


class PickNotices(msgspec.Struct, frozen=True, omit_defaults=True):
    """The events of one balancer in order; its id is drawn at its start.

    Attributes:
        traffic: generation of the traffic table that it applies, 0 for none.
        place: machine and port, which its successor has too; empty when nobody knows the port before the start.
        leaving: its last message: it is about to end.
    """

    balancer: str
    notices: tuple[PickNotice, ...]
    traffic: int = 0
    place: str = ""
    leaving: bool = False


MOST_MOVED: Final = 100_000
LONGEST_MOVE_MS: Final = 600_000


class MoveOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Ask at most `count` clients of a node to reconnect, idle ones first (`POST /api/move`, and over NATS).

    Attributes:
        over_ms: time to spread them over.
        affinity: what keeps clients together, as `balancer.affinity` spells it; None: any clients.
        values: with `affinity`: only clients of these values, all of them whatever `count` is. With `affinity` and
            no values: only clients that nothing keeps together, at most `count`.
        rested_ms: only clients that have been connected for so long; whole `values` move all the same.
        reason: the reason that clients get with their goodbye.
    """

    count: Annotated[int, msgspec.Meta(ge=0, le=MOST_MOVED)]
    over_ms: Annotated[int, msgspec.Meta(ge=0, le=LONGEST_MOVE_MS)] = 1000
    affinity: str | None = None
    values: tuple[str, ...] = ()
    rested_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 0
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] = "rebalancing"


class Moved(msgspec.Struct, frozen=True):
    """Answer to it: how many clients are being moved."""

    moving: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class KeysAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request for the number of clients by value of `by` (`GET /api/keys`, and over NATS).

    `by` is `query:NAME` or `path:N` as the node sees them: it keeps no headers and cookies.
    """

    by: str


class KeyCounts(msgspec.Struct, frozen=True):
    """Answer to it: clients of each value, of 10,000 values at most, and whether there are more values."""

    counts: dict[str, int]
    more: bool = False


HealthStatus = Literal["healthy", "degraded", "unhealthy"]


class Check(msgspec.Struct, frozen=True):
    """One check of /health; which fields it has depends on what is checked.

    Attributes:
        status: of a bus, `connected` or `disconnected`.
        current: connections now; `max` at most.
        used_mb: resident memory in MiB.
        limit_mb: memory limit in MiB, None for none.
        percentage: how much of what may be used is in use, None without a limit.
        why: of a bus that is connected, why it does not store publications.
    """

    status: str | msgspec.UnsetType = msgspec.UNSET
    current: int | msgspec.UnsetType = msgspec.UNSET
    max: int | msgspec.UnsetType = msgspec.UNSET
    used_mb: float | msgspec.UnsetType = msgspec.UNSET
    limit_mb: float | msgspec.UnsetType | None = msgspec.UNSET
    percentage: float | msgspec.UnsetType | None = msgspec.UNSET
    healthy: bool = True
    why: str | msgspec.UnsetType = msgspec.UNSET


class Health(msgspec.Struct, frozen=True):
    """`GET /health`; the answer is 503 when unhealthy.

    Attributes:
        status: the worst of the checks.
        checks: `capacity`, `memory`, `cpu`, and the bus under its own name.
        warnings: what is near a limit.
        errors: what is over one or broken.
        uptime: seconds.
    """

    status: HealthStatus
    healthy: bool
    checks: dict[str, Check]
    warnings: list[str]
    errors: list[str]
    uptime: float


class Percentiles(msgspec.Struct, frozen=True):
    """Three percentiles of one quantity; None while nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None


class Stats(msgspec.Struct, frozen=True):
    """`GET /api/stats`: counts since the start; `last_error_time` in ms since 1970."""

    active_connections: int
    total_connections: int
    messages_received: int
    messages_sent: int
    connection_duration_seconds: Percentiles
    last_error: str | None = None
    last_error_time: int | None = None


class Instance(msgspec.Struct, frozen=True):
    """`GET /api/instance`: which process answers.

    Attributes:
        version: of Trunkline.
        started: seconds since 1970.
        state: `starting`, `up`, `draining` or `stopped`.
        endpoints: paths of its WebSocket endpoints.
        server_version: the setting `server.version`, empty for none.
    """

    name: str
    colour: str
    version: str
    pid: int
    started: float
    state: str
    bus: str
    app: str
    endpoints: list[str]
    server_version: str = ""


class PublishOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /api/publish`: put `data` (any JSON) into a channel."""

    channel: str
    data: msgspec.Raw


class PublishReceipt(msgspec.Struct, frozen=True):
    """Answer to it: where the publication landed, both None without history."""

    channel: str
    epoch: str | None
    offset: int | None


LONGEST_DRAIN_MS: Final = 86_400_000


class DrainOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /api/drain`: move all clients away over `over_ms`; None takes the setting `server.drain_ms`."""

    over_ms: Annotated[int, msgspec.Meta(ge=0, le=LONGEST_DRAIN_MS)] | None = None


class UndrainOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Have a node take connections again, over NATS (`DELETE /api/drain`); answered with `DrainState`."""


class DrainState(msgspec.Struct, frozen=True):
    """Answer to it, to `DELETE` and to `GET /api/drain`: the state now, and how many connections there are.

    Attributes:
        node: its name.
        connections: at the start of a drain those that are asked to move, else all.
        over_ms: of a drain that begins.
    """

    node: str
    state: Literal["starting", "up", "draining"]
    connections: int
    over_ms: int | None = None


class ConnectionInfo(msgspec.Struct, frozen=True):
    """A row of `GET /api/connections`.

    Attributes:
        session: what it keeps over reconnects.
        path: without the query.
        address: the client's address, as far as it can be trusted.
        subject: `sub` of its token, None without a token.
        idle_s: seconds since the client last sent anything.
        bytes_in: received from it.
        waiting_bytes: waiting in its outbox.
    """

    id: str
    session: str
    path: str
    address: str
    subject: str | None
    age_s: float
    idle_s: float
    channels: list[str]
    bytes_in: int
    bytes_out: int
    waiting_bytes: int


class ChannelInfo(msgspec.Struct, frozen=True):
    """A row of `GET /api/channels`, as this node sees it; `offset` is the newest it delivered, None without history."""

    name: str
    subscribers: int
    epoch: str | None
    offset: int | None


class Disconnected(msgspec.Struct, frozen=True):
    """Answer to `POST /api/connections/{id}/disconnect`: how many connections of that id were closed."""

    disconnected: int


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of an admin answer that refuses: an error code for programs, a sentence for people."""

    error: str
    message: str
    retry_after_s: float | None = None
