"""What is counted, and which families come out of it at a scrape; the names are in `trunkline.metrics.series`. Pure.

Rule: the hot path counts on plain attributes (`meter.messages_received += 1`); families are made at the scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from trunkline.metrics.series import DURATION_BUCKETS, LATENCY_BUCKETS, RETURN_BUCKETS, SERIES, Kind, Series
from trunkline.metrics.text import Family, Sample


class Histogram:
    """A histogram for the hot path, with growing upper bounds: one bisect an observation."""

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
    """A counter or gauge with one number for each set of label values, in the order the series declares the labels."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def add(self, *labels: str, times: int = 1) -> None:
        """Count under `labels`."""
        self.values[labels] = self.values.get(labels, 0) + times

    def set(self, value: float, *labels: str) -> None:
        """Set the value under `labels`."""
        self.values[labels] = value


Value = float | Labelled | Histogram


class Meter:
    """The live counts of one node. Gauges are read at the scrape, from a `Gauges`.

    Attributes:
        asked_nameless: of those asked to move, clients that know no session, or of which no other node could be told.
        not_recovered: channels of which a client heard that they cannot be recovered.
        gaps: `gap` messages sent.
        faults: faults of the application and of the server that were caught and logged.
    """

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
        self.asked_to_move = 0
        self.asked_nameless = 0
        self.cut = 0
        self.not_recovered = 0
        self.gaps = 0
        self.faults = 0
        self.connections_failed = Labelled()
        self.pending_dropped = Labelled()
        self.disconnects = Labelled()
        self.replay_requests = Labelled()
        self.publications_dropped = Labelled()
        self.errors = Labelled()
        self.capacity_rejections = Labelled()
        self.message_latency = Histogram(LATENCY_BUCKETS)
        self.delivery_latency = Histogram(LATENCY_BUCKETS)
        self.connection_duration = Histogram(DURATION_BUCKETS)
        self.handshake = Histogram(LATENCY_BUCKETS)
        self.resumed = Labelled()
        self.reconnect = Histogram(RETURN_BUCKETS)


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
    bus_not_storing: bool = False
    reload_successful: bool = True
    reload_success_time_seconds: float = 0.0


def families(meter: Meter, gauges: Gauges, aliases: tuple[str, ...] = ()) -> Iterator[Family]:
    """All series of a node in Prometheus' families, aliases last."""
    info = Labelled()
    info.set(1, *gauges.build)
    values: dict[str, Value] = {
        **{f"ws_{name}": float(value) for name, value in gauges._asdict().items() if name != "build"},
        "ws_connections_total": meter.connections,
        "ws_messages_sent_total": meter.messages_sent,
        "ws_messages_received_total": meter.messages_received,
        "ws_bytes_sent_total": meter.bytes_sent,
        "ws_bytes_received_total": meter.bytes_received,
        "ws_slow_clients_disconnected_total": meter.slow_clients_disconnected,
        "ws_rate_limited_messages_total": meter.rate_limited,
        "ws_nats_messages_received_total": meter.bus_messages_received,
        "ws_connections_failed_total": meter.connections_failed,
        "ws_pending_dropped_total": meter.pending_dropped,
        "ws_disconnects_total": meter.disconnects,
        "ws_replay_requests_total": meter.replay_requests,
        "ws_publications_dropped_total": meter.publications_dropped,
        "ws_errors_total": meter.errors,
        "ws_capacity_rejections_total": meter.capacity_rejections,
        "ws_message_latency_seconds": meter.message_latency,
        "ws_delivery_latency_seconds": meter.delivery_latency,
        "ws_connection_duration_seconds": meter.connection_duration,
        "ws_handshake_seconds": meter.handshake,
        "ws_clients_asked_to_move_total": meter.asked_to_move,
        "ws_connections_cut_total": meter.cut,
        "ws_sessions_resumed_total": meter.resumed,
        "ws_reconnect_seconds": meter.reconnect,
        "ws_build_info": info,
    }
    yield from exposition(SERIES, values)
    if "websocket" in aliases:
        messages = meter.messages_received + meter.messages_sent
        errors = sum(meter.errors.values.values())
        yield _plain("websocket_connections_total", "gauge", "Active connections (a gauge).", gauges.connections_active)
        yield _plain("websocket_messages_total", "counter", "Messages received and sent.", messages)
        yield _histogram("websocket_message_latency_seconds", "As ws_message_latency_seconds.", meter.message_latency)
        yield _histogram(
            "websocket_connection_duration_seconds", "As ws_connection_duration_seconds.", meter.connection_duration
        )
        yield _plain("websocket_errors_total", "counter", "All error messages sent.", errors)
    if "go" in aliases:
        yield _plain("ws_goroutines_active", "gauge", "As ws_tasks_active.", gauges.tasks_active)


def exposition(declared: Sequence[Series], values: Mapping[str, Value]) -> Iterator[Family]:
    """The declared series in Prometheus' families; `values` has by name a number, or what fits its labels and kind."""
    for series in declared:
        name, value = series.name, values[series.name]
        if isinstance(value, Histogram):
            yield _histogram(name, series.help, value)
        elif isinstance(value, Labelled):
            known = dict.fromkeys(product(*series.values), 0.0) if series.values else {}
            samples = [
                Sample(name, dict(zip(series.labels, labels, strict=False)), number)
                for labels, number in {**known, **value.values}.items()
            ]
            yield Family(name, series.kind, series.help, samples)
        else:
            yield _plain(name, series.kind, series.help, value)


def _plain(name: str, kind: Kind, help_text: str, value: float) -> Family:
    return Family(name, kind, help_text, [Sample(name, {}, value)])


def _histogram(name: str, help_text: str, histogram: Histogram) -> Family:
    samples = [Sample(f"{name}_bucket", {"le": bound}, times) for bound, times in histogram.cumulative()]
    samples += [Sample(f"{name}_count", {}, histogram.count), Sample(f"{name}_sum", {}, histogram.sum)]
    return Family(name, "histogram", help_text, samples)
