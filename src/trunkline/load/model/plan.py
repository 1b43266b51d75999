"""What a run is: stages, traffic, disturbances, own message flows. Plain data that travels to every worker. Pure.

Rules: lengths of time in seconds, shares from 0 to 1. Stages give the number of connections, `Traffic` that of
messages.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(ge=0, le=1_000_000)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=10_000_000)]
PerSecond = Annotated[float, Meta(ge=0, le=10_000_000)]

Protocol = Literal["auto", "echo", "feed", "steps", "python"]
"""How clients talk. auto: found out by a first connection; echo: each message comes back as it was; feed: the whole
protocol of a Trunkline node, channels and all; steps: messages and answers written in the scenario; python: a function
of the user's own."""


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the run: the number of connections goes in a straight line to `connections` within `duration_s`.

    A stage with the count of the one before holds it. Zero seconds: all at once.
    """

    duration_s: Seconds
    connections: Count
    name: Annotated[str, Meta(max_length=40)] = ""


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which messages are sent, whatever the number of connections."""

    rate: PerSecond = 0.0  # messages a second over all connections together
    rate_each: PerSecond = 0.0  # messages a second of each open connection, on top of `rate`
    # Of the payload (feed: of the publication's data), padding included.
    message_bytes: Annotated[int, Meta(ge=40, le=16 << 20)] = 64
    arrivals: Literal["even", "poisson"] = "even"  # even: at equal distances; poisson: at random ones with that mean
    # How many channels the run uses; 0: one for ten connections at the greatest count.
    channels: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    subscribe_each: Annotated[int, Meta(ge=1, le=1000)] = 1  # channels that each connection subscribes to
    slow_share: Share = 0.0  # share of connections that read slowly, and send nothing
    slow_bytes_per_s: Annotated[int, Meta(ge=1)] = 2_000  # how much each of those reads
    abuse_share: Share = 0.0  # share of connections that send far more than they may
    abuse_rate_each: PerSecond = 0.0  # what each of those sends, in messages a second, on top


class Disturbance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Connections that are ended on purpose and come back."""

    at_s: Seconds  # when, from the start of the run
    share: Share = 1.0  # of the connections open then, drawn at random
    action: Literal["drop", "close"] = "drop"  # drop: without a close frame, as when a network fails; close: in order
    away_s: Seconds = 0.0  # how long each stays away; a feed client then recovers what it missed
    spread_s: Seconds = 0.0  # over how long the cuts are spread; 0: all in one moment


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a message flow of the user's own; a connection goes through all of them, again and again."""

    # The text to send. `{n}` becomes the number of the round, `{connection}` the connection's, `{run}` the run's name,
    # `{stamp}` the intended time of sending; other braces stand for themselves.
    send: Annotated[str, Meta(max_length=1 << 20)] = ""
    # What the answer has to be before the next step: the value of its `type`, or `/…/` for a regular expression that
    # must be found in the text. Empty: none is awaited.
    expect: Annotated[str, Meta(max_length=1000)] = ""
    # How long to wait for the answer; later is an error, and the flow goes on.
    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    pause_s: Seconds = 1.0  # from this step's intended time to the next one's, however long the answer took


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run as it is written down; built-in ones are in `scenario/stock`, own ones in a file of the user."""

    name: Annotated[str, Meta(min_length=1, max_length=40)]
    stages: Annotated[tuple[Stage, ...], Meta(min_length=1, max_length=1000)]
    protocol: Protocol = "auto"
    traffic: Traffic = Traffic()
    disturbances: tuple[Disturbance, ...] = ()
    steps: tuple[Step, ...] = ()
    flow: str = ""  # for protocol python: the file of the function
    thresholds: tuple[str, ...] = ()  # what must hold, as `delivery_p99<50ms`; added to the default ones
    expected_errors: tuple[str, ...] = ()  # error codes of the server that are wanted and do not count as errors
    reconnect: bool = True  # whether a connection that the server ended comes back
    description: str = ""

    @property
    def duration_s(self) -> float:
        """How long it takes in all."""
        return sum(stage.duration_s for stage in self.stages)

    @property
    def peak(self) -> int:
        """The greatest number of connections."""
        return max(stage.connections for stage in self.stages)

    @property
    def channel_count(self) -> int:
        """How many channels a feed uses."""
        return self.traffic.channels or max(1, self.peak // 10)


class Target(msgspec.Struct, frozen=True):
    """What the load goes to."""

    url: str  # ws:// or wss://, with path and query
    headers: tuple[tuple[str, str], ...] = ()  # further request headers (they may be secret and are shown nowhere)
    token: str = ""  # sent as `Authorization: Bearer`, and in `refresh`; the coordinator may replace it (secret too)
    subprotocols: tuple[str, ...] = ()
    verify_tls: bool = True
    ca_file: str = ""  # certificates to trust instead of the system's
    connect_timeout_s: float = 10.0  # for connect, TLS and handshake together
    sources: int = 0  # how many addresses 127.x.y.z to connect from, on loopback; 0: the system's choice
