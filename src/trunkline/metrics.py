"""Every series, declared once: name, kind, help, labels, unit and buckets.

Rules:

- No other module writes a series' name in a string. Rules, dashboards and docs are made from `SERIES`.
- The hot path counts on plain attributes (`meter.messages_received += 1`); the exposition format is made at the scrape.
- Labels hold words from small fixed sets, never ids or addresses.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

Kind = Literal["counter", "gauge", "histogram"]

LATENCY_BUCKETS: Final = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
)  # fmt: skip
DURATION_BUCKETS: Final = (0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0)


class Series(NamedTuple):
    """One declared series.

    Attributes:
        name: as scraped; a counter's name ends in `_total`.
        kind: counter, gauge or histogram.
        help: one sentence.
        labels: label names, none for most.
        unit: what the number counts or measures.
        buckets: upper bounds of a histogram, in `unit`.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()


SERIES: Final[tuple[Series, ...]] = (
    Series("ws_connections_total", "counter", "WebSocket connections opened since the start.", unit="connections"),
    Series("ws_connections_failed_total", "counter", "Handshakes refused or broken off, by reason.", ("reason",)),
    Series("ws_disconnects_total", "counter", "Connections ended, by reason and by who ended them.",
           ("reason", "initiated_by")),
    Series("ws_messages_sent_total", "counter", "Messages handed to clients' sockets.", unit="messages"),
    Series("ws_messages_received_total", "counter", "Data messages received from clients.", unit="messages"),
    Series("ws_bytes_sent_total", "counter", "Bytes written to clients after the handshake.", unit="bytes"),
    Series("ws_bytes_received_total", "counter", "Bytes read from clients after the handshake.", unit="bytes"),
    Series("ws_slow_clients_disconnected_total", "counter", "Clients closed because they did not keep up."),
    Series("ws_rate_limited_messages_total", "counter", "Messages refused because the client was over its rate."),
    Series("ws_replay_requests_total", "counter", "Replay and recover requests, by result.", ("result",)),
    Series("ws_publications_dropped_total", "counter", "Publications not delivered to a subscriber, by reason.",
           ("reason",)),
    Series("ws_errors_total", "counter", "Error messages sent to clients, by code.", ("code",)),
    Series("ws_capacity_rejections_total", "counter", "Handshakes shed, by reason.", ("reason",)),
    Series("ws_nats_messages_received_total", "counter", "Publications received from the bus.", unit="messages"),
    Series("ws_connections_active", "gauge", "WebSocket connections open now.", unit="connections"),
    Series("ws_connections_max", "gauge", "Connections this node will take.", unit="connections"),
    Series("ws_memory_bytes", "gauge", "Resident memory of the process.", unit="bytes"),
    Series("ws_memory_limit_bytes", "gauge", "Memory limit of the process; 0 when there is none.", unit="bytes"),
    Series("ws_cpu_usage_percent", "gauge", "CPU used, of what this process may use.", unit="percent"),
    Series("ws_tasks_active", "gauge", "asyncio tasks alive.", unit="tasks"),
    Series("ws_nats_connected", "gauge", "1 while the bus is connected."),
    Series("ws_outbox_bytes", "gauge", "Bytes waiting for clients that read slowly.", unit="bytes"),
    Series("ws_slow_clients", "gauge", "Clients whose outbox holds bytes now.", unit="clients"),
    Series("ws_event_loop_lag_seconds", "gauge", "How late the event loop ran its last tick.", unit="seconds"),
    Series("ws_draining", "gauge", "1 while the node is draining."),
    Series("ws_channels_active", "gauge", "Channels with a subscriber on this node.", unit="channels"),
    Series("ws_subscriptions_active", "gauge", "Subscriptions of all clients.", unit="subscriptions"),
    Series("ws_start_time_seconds", "gauge", "When the node started, in seconds since 1970.", unit="seconds"),
    Series("ws_message_latency_seconds", "histogram", "From reading a message to having handled it, in one read of 8.",
           unit="seconds", buckets=LATENCY_BUCKETS),
    Series("ws_delivery_latency_seconds", "histogram", "From the bus taking a publication to writing it out.",
           unit="seconds", buckets=LATENCY_BUCKETS),
    Series("ws_connection_duration_seconds", "histogram", "How long ended connections lasted.",
           unit="seconds", buckets=DURATION_BUCKETS),
    Series("ws_handshake_seconds", "histogram", "From the request's last byte to the 101.",
           unit="seconds", buckets=LATENCY_BUCKETS),
    Series("ws_build_info", "gauge", "Always 1; tells version, node and colour.", ("version", "node", "colour")),
)  # fmt: skip

BALANCER_SERIES: Final[tuple[Series, ...]] = (
    Series("ws_balancer_picks_total", "counter", "Backends chosen for new connections, by why that one.",
           ("backend", "reason")),
    Series("ws_balancer_refusals_total", "counter", "Clients turned away before a backend was asked, by reason.",
           ("reason",)),
    Series("ws_balancer_failures_total", "counter", "Picks that came to nothing through the backend's fault.",
           ("backend", "why")),
    Series("ws_balancer_retries_total", "counter", "Handshakes that were tried at another backend."),
    Series("ws_balancer_ejections_total", "counter", "Times a backend was taken out, by what it entered.",
           ("backend", "state")),
    Series("ws_balancer_reports_total", "counter", "Load reports asked for or heard, by result.", ("result",)),
    Series("ws_balancer_moves_total", "counter", "Clients asked to move to even out the load.", ("backend",)),
    Series("ws_balancer_handshakes_total", "counter", "Handshakes answered with 101 through the relay."),
    Series("ws_balancer_http_requests_total", "counter", "Plain HTTP requests passed on, by class of the answer.",
           ("status",)),
    Series("ws_balancer_backend_connections", "gauge", "Connections a backend is believed to have.",
           ("backend", "group", "pool"), unit="connections"),
    Series("ws_balancer_backend_relayed", "gauge", "Connections relayed to a backend now.", ("backend",),
           unit="connections"),
    Series("ws_balancer_backend_reserved", "gauge", "Picks that have not been seen at the backend yet.", ("backend",),
           unit="connections"),
    Series("ws_balancer_backend_capacity", "gauge", "Connections a backend takes; absent when it says nothing.",
           ("backend",), unit="connections"),
    Series("ws_balancer_backend_up", "gauge", "1 while a backend gets new connections.", ("backend",)),
    Series("ws_balancer_backend_report_age_seconds", "gauge", "Age of a backend's newest load report.", ("backend",),
           unit="seconds"),
    Series("ws_balancer_connections_active", "gauge", "Connections relayed now.", unit="connections"),
    Series("ws_balancer_imbalance_ratio", "gauge", "Fullest backend beside the mean; 1 is even.", ("group", "pool")),
    Series("ws_balancer_nats_connected", "gauge", "1 while the balancer hears nodes and other balancers over NATS."),
    Series("ws_balancer_place_seconds", "histogram", "Time to choose a backend.",
           unit="seconds", buckets=LATENCY_BUCKETS),
    Series("ws_balancer_handshake_seconds", "histogram", "From a client's request to the backend's 101.",
           unit="seconds", buckets=LATENCY_BUCKETS),
    Series("ws_balancer_connection_duration_seconds", "histogram", "How long ended relayed connections lasted.",
           unit="seconds", buckets=DURATION_BUCKETS),
    Series("ws_balancer_steering_answers_total", "counter", "Traefik's questions, by answer.", ("answer",)),
    Series("ws_balancer_steering_seconds", "histogram", "From Traefik's question to the answer.",
           unit="seconds", buckets=LATENCY_BUCKETS),
    Series("ws_balancer_build_info", "gauge", "Always 1; tells version and mode.", ("version", "mode")),
)  # fmt: skip
"""What a balancer exposes. `backend` is a URL from the operator's own sources, never anything a client chose."""

BY_NAME: Final = {series.name: series for series in (*SERIES, *BALANCER_SERIES)}

ALIASES: Final[dict[str, dict[str, str]]] = {
    "websocket": {
        "websocket_connections_total": "ws_connections_active",
        "websocket_messages_total": "ws_messages_received_total+ws_messages_sent_total",
        "websocket_message_latency_seconds": "ws_message_latency_seconds",
        "websocket_connection_duration_seconds": "ws_connection_duration_seconds",
        "websocket_errors_total": "ws_errors_total",
    }
}
"""Other names for the same numbers, for dashboards that exist already.

`websocket_connections_total` is a gauge there.
"""


class Histogram:
    """A histogram for the hot path: one bisect an observation.

    Args:
        buckets: upper bounds, growing.
    """

    __slots__ = ("buckets", "counts", "sum")

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.buckets = buckets
        self.counts = [0] * (len(buckets) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value` (in the series' unit) `times` times."""
        self.counts[bisect_left(self.buckets, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)

    def quantile(self, q: float) -> float:
        """The upper bound of the bucket that holds quantile `q` (0 to 1); 0.0 with no observations."""
        wanted = q * self.count
        if wanted == 0:
            return 0.0
        seen = 0
        for bound, times in zip(self.buckets, self.counts, strict=False):
            seen += times
            if seen >= wanted:
                return bound
        return self.buckets[-1]

    def cumulative(self) -> Iterator[tuple[str, float]]:
        """(upper bound as text, cumulative count) for the exposition, +Inf last."""
        seen = 0
        for bound, times in zip(self.buckets, self.counts, strict=False):
            seen += times
            yield repr(bound), float(seen)
        yield "+Inf", float(self.count)


class Labelled:
    """A counter with labels: one number for each set of label values."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str, times: int = 1) -> None:
        """Count under `labels`, in the order the series declares them."""
        self.values[labels] = self.values.get(labels, 0) + times


class LabelledGauge:
    """A gauge with labels, filled at a scrape."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def set(self, value: float, *labels: str) -> None:
        """Say that it is `value` under `labels`, in the order the series declares them."""
        self.values[labels] = value


Value = float | Labelled | LabelledGauge | Histogram


class Meter:
    """The live counts of one node. Gauges are read at the scrape, from a `Gauges`."""

    __slots__ = (
        "bus_messages_received",
        "bytes_received",
        "bytes_sent",
        "capacity_rejections",
        "connection_duration",
        "connections",
        "connections_failed",
        "delivery_latency",
        "disconnects",
        "errors",
        "handshake",
        "message_latency",
        "messages_received",
        "messages_sent",
        "publications_dropped",
        "rate_limited",
        "reads",
        "replay_requests",
        "slow_clients_disconnected",
    )  # fmt: skip

    def __init__(self) -> None:
        self.connections = 0
        self.messages_sent = 0
        self.messages_received = 0
        self.reads = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.slow_clients_disconnected = 0
        self.rate_limited = 0
        self.bus_messages_received = 0
        self.connections_failed = Labelled()
        self.disconnects = Labelled()
        self.replay_requests = Labelled()
        self.publications_dropped = Labelled()
        self.errors = Labelled()
        self.capacity_rejections = Labelled()
        self.message_latency = Histogram(LATENCY_BUCKETS)
        self.delivery_latency = Histogram(LATENCY_BUCKETS)
        self.connection_duration = Histogram(DURATION_BUCKETS)
        self.handshake = Histogram(LATENCY_BUCKETS)


class Gauges(NamedTuple):
    """What is true at the moment of a scrape."""

    connections_active: int
    connections_max: int
    memory_bytes: int
    memory_limit_bytes: int
    cpu_usage_percent: float
    tasks_active: int
    nats_connected: bool
    outbox_bytes: int
    slow_clients: int
    event_loop_lag_seconds: float
    draining: bool
    channels_active: int
    subscriptions_active: int
    build: tuple[str, str, str]
    start_time_seconds: float = 0.0


def families(meter: Meter, gauges: Gauges, aliases: tuple[str, ...] = ()) -> Iterator[Metric]:
    """All series of a node as Prometheus metric families, aliases last."""
    plain: dict[str, float] = {
        "ws_connections_total": meter.connections,
        "ws_messages_sent_total": meter.messages_sent,
        "ws_messages_received_total": meter.messages_received,
        "ws_bytes_sent_total": meter.bytes_sent,
        "ws_bytes_received_total": meter.bytes_received,
        "ws_slow_clients_disconnected_total": meter.slow_clients_disconnected,
        "ws_rate_limited_messages_total": meter.rate_limited,
        "ws_nats_messages_received_total": meter.bus_messages_received,
    }
    plain.update({f"ws_{name}": float(value) for name, value in gauges._asdict().items() if name != "build"})
    labelled = {
        "ws_connections_failed_total": meter.connections_failed,
        "ws_disconnects_total": meter.disconnects,
        "ws_replay_requests_total": meter.replay_requests,
        "ws_publications_dropped_total": meter.publications_dropped,
        "ws_errors_total": meter.errors,
        "ws_capacity_rejections_total": meter.capacity_rejections,
    }
    histograms = {
        "ws_message_latency_seconds": meter.message_latency,
        "ws_delivery_latency_seconds": meter.delivery_latency,
        "ws_connection_duration_seconds": meter.connection_duration,
        "ws_handshake_seconds": meter.handshake,
    }
    info = LabelledGauge()
    info.set(1, *gauges.build)
    yield from exposition(SERIES, {**plain, **labelled, **histograms, "ws_build_info": info})
    if "websocket" in aliases:
        yield GaugeMetricFamily(
            "websocket_connections_total", "Active connections (a gauge).", value=gauges.connections_active
        )
        yield CounterMetricFamily(
            "websocket_messages_total",
            "Messages received and sent.",
            value=meter.messages_received + meter.messages_sent,
        )
        yield _histogram("websocket_message_latency_seconds", "As ws_message_latency_seconds.", meter.message_latency)
        yield _histogram(
            "websocket_connection_duration_seconds", "As ws_connection_duration_seconds.", meter.connection_duration
        )
        yield CounterMetricFamily(
            "websocket_errors_total", "All error messages sent.", value=sum(meter.errors.values.values())
        )


def exposition(declared: Sequence[Series], values: Mapping[str, Value]) -> Iterator[Metric]:
    """Series as Prometheus metric families.

    Args:
        declared: the series, in the order they come out.
        values: the value of each by name: a number, or what fits its labels and kind.
    """
    for series in declared:
        value = values[series.name]
        if isinstance(value, Histogram):
            yield _histogram(series.name, series.help, value)
            continue
        kind = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
        if isinstance(value, Labelled | LabelledGauge):
            family = kind(series.name, series.help, labels=series.labels)
            for labels, number in value.values.items():
                family.add_metric(list(labels), number)
            yield family
        else:
            yield kind(series.name, series.help, value=value)


def _histogram(name: str, documentation: str, histogram: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, documentation, buckets=list(histogram.cumulative()), sum_value=histogram.sum)
