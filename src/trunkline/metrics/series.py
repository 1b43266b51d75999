"""Every series, declared once: name, kind, help, labels with their values, unit and buckets. Pure.

Rules:

- No other module writes a series' name in a string. Rules, dashboards and docs are made from `SERIES`.
- Label values come from small fixed sets, never ids or addresses; `backend` is a URL of the operator's own sources.
- A counter whose label values are known stands at 0 under each of them from the start: Prometheus' `rate()` and
  `increase()` see no step from nothing, and would miss the first event of its kind, which matters most.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, get_args

from trunkline.protocol import close_codes, wire
from trunkline.protocol.deploys import DeployState

Kind = Literal["counter", "gauge", "histogram"]

LATENCY_BUCKETS: Final = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
)  # fmt: skip
RETURN_BUCKETS: Final = (
    0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 300.0,
)  # fmt: skip
DURATION_BUCKETS: Final = (0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0)

_SHED = ("starting", "draining", "full", "lag", "accept_rate")
_REFUSED = (
    *_SHED, "address_rate", "admit_timeout", "bad_handshake", "bad_request", "bad_version", "handshake_timeout",
    "internal", "keys_unavailable", "match_full", "not_an_upgrade", "not_found", "origin", "unauthorized",
    "unknown_host",
)  # fmt: skip
_TURNED_AWAY = (
    "address_full", "all_down", "all_tried", "backend_failed", "backend_refused", "bad_handshake",
    "bad_proxy_header", "bad_request", "bad_version", "body_incomplete", "body_too_long", "edge_full", "full",
    "head_timeout", "head_too_long", "internal", "no_backend", "pending_full", "place_timeout", "rate_limited",
    "unknown_host",
)  # fmt: skip


class Series(NamedTuple):
    """One declared series.

    Attributes:
        name: as scraped; a counter's name ends in `_total`.
        buckets: upper bounds of a histogram, in `unit`.
        values: those of each label when all of them are known, else nothing; an application may add its own.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()


SERIES: Final[tuple[Series, ...]] = (
    Series("ws_connections_total", "counter", "WebSocket connections opened since the start.", unit="connections"),
    Series("ws_connections_failed_total", "counter", "Handshakes refused or broken off, by reason.", ("reason",),
           values=(_REFUSED,)),
    Series("ws_pending_dropped_total", "counter", "Idle TCP connections cut to make room, by port.", ("port",),
           unit="connections", values=(("data", "admin"),)),
    Series("ws_disconnects_total", "counter", "Connections ended, by reason and by who ended them.",
           ("reason", "initiated_by"), values=(close_codes.LABELS, ("client", "server"))),
    Series("ws_messages_sent_total", "counter", "Messages handed to clients' sockets.", unit="messages"),
    Series("ws_messages_received_total", "counter", "Data messages received from clients.", unit="messages"),
    Series("ws_bytes_sent_total", "counter", "Bytes written to clients after the handshake.", unit="bytes"),
    Series("ws_bytes_received_total", "counter", "Bytes read from clients after the handshake.", unit="bytes"),
    Series("ws_slow_clients_disconnected_total", "counter", "Clients closed because they did not keep up."),
    Series("ws_rate_limited_messages_total", "counter", "Messages refused because the client was over its rate."),
    Series("ws_replay_requests_total", "counter", "Replay and recover requests, by result.", ("result",),
           values=(("complete", "recovered", "epoch_changed", "expired", "no_history"),)),
    Series("ws_publications_dropped_total", "counter", "Publications not delivered to a subscriber, by reason.",
           ("reason",), values=(("slow_client", "missed", "expired", "epoch_changed"),)),
    Series("ws_errors_total", "counter", "Error messages sent to clients, by code.", ("code",),
           values=(wire.ERROR_CODES,)),
    Series("ws_capacity_rejections_total", "counter", "Handshakes shed, by reason.", ("reason",), values=(_SHED,)),
    Series("ws_nats_messages_received_total", "counter", "Publications received from the bus.", unit="messages"),
    Series("ws_connections_active", "gauge", "WebSocket connections open now.", unit="connections"),
    Series("ws_connections_max", "gauge", "Connections this node will take.", unit="connections"),
    Series("ws_memory_bytes", "gauge", "Resident memory of the process.", unit="bytes"),
    Series("ws_memory_limit_bytes", "gauge", "Memory limit of the process; 0 when there is none.", unit="bytes"),
    Series("ws_cpu_usage_percent", "gauge", "CPU used, of what this process may use.", unit="percent"),
    Series("ws_tasks_active", "gauge", "asyncio tasks alive.", unit="tasks"),
    Series("ws_nats_connected", "gauge", "1 while the bus is connected."),
    Series("ws_bus_not_storing", "gauge", "1 while the bus is connected and does not store publications."),
    Series("ws_outbox_bytes", "gauge", "Bytes waiting for clients that read slowly.", unit="bytes"),
    Series("ws_slow_clients", "gauge", "Clients whose outbox holds bytes now.", unit="clients"),
    Series("ws_event_loop_lag_seconds", "gauge", "How late the event loop ran its last tick.", unit="seconds"),
    Series("ws_draining", "gauge", "1 while the node is draining."),
    Series("ws_channels_active", "gauge", "Channels with a subscriber on this node.", unit="channels"),
    Series("ws_subscriptions_active", "gauge", "Subscriptions of all clients.", unit="subscriptions"),
    Series("ws_start_time_seconds", "gauge", "When the node started, in seconds since 1970.", unit="seconds"),
    Series("ws_reload_successful", "gauge", "1 when the last reload of settings was taken over, or there was none."),
    Series("ws_reload_success_time_seconds", "gauge", "When settings last came to count, in seconds since 1970.",
           unit="seconds"),
    Series("ws_message_latency_seconds", "histogram", "From reading a message to having handled it, in one read of 8.",
           unit="seconds", buckets=LATENCY_BUCKETS),
    Series("ws_delivery_latency_seconds", "histogram", "From the bus taking a publication to writing it out.",
           unit="seconds", buckets=LATENCY_BUCKETS),
    Series("ws_connection_duration_seconds", "histogram", "How long ended connections lasted.",
           unit="seconds", buckets=DURATION_BUCKETS),
    Series("ws_handshake_seconds", "histogram", "From the request's last byte to the 101.",
           unit="seconds", buckets=LATENCY_BUCKETS),
    Series("ws_clients_asked_to_move_total", "counter", "Clients that were asked to reconnect: moved, drained.",
           unit="clients"),
    Series("ws_connections_cut_total", "counter", "Connections cut at the deadline of a stop.", unit="connections"),
    Series("ws_sessions_resumed_total", "counter", "Sessions that came back after a goodbye, by who had said it.",
           ("from_colour",)),
    Series("ws_reconnect_seconds", "histogram", "From a goodbye to the session's return.",
           unit="seconds", buckets=RETURN_BUCKETS),
    Series("ws_build_info", "gauge", "Always 1; shows version, node and colour.", ("version", "node", "colour")),
)  # fmt: skip

BALANCER_SERIES: Final[tuple[Series, ...]] = (
    Series("ws_balancer_picks_total", "counter", "Backends chosen for new connections, by why that one.",
           ("backend", "reason")),
    Series("ws_balancer_refusals_total", "counter", "Clients turned away, by reason.", ("reason",),
           values=(_TURNED_AWAY,)),
    Series("ws_balancer_pending_dropped_total", "counter", "Idle TCP connections cut to make room, by port.",
           ("port",), unit="connections", values=(("data", "admin"),)),
    Series("ws_balancer_failures_total", "counter", "Picks that came to nothing through the backend's fault.",
           ("backend", "why")),
    Series("ws_balancer_retries_total", "counter", "Handshakes that were tried at another backend."),
    Series("ws_balancer_ejections_total", "counter", "Times a backend was taken out, by what it entered.",
           ("backend", "state")),
    Series("ws_balancer_reports_total", "counter", "Load reports requested or received, by result.", ("result",),
           values=(("polled", "pushed", "failed"),)),
    Series("ws_balancer_moves_total", "counter", "Clients moved to even out the load.", ("backend",)),
    Series("ws_balancer_handshakes_total", "counter", "Handshakes answered with 101 through the relay."),
    Series("ws_balancer_http_requests_total", "counter", "Plain HTTP requests passed on, by class of the answer.",
           ("status",), values=(("1xx", "2xx", "3xx", "4xx", "5xx"),)),
    Series("ws_balancer_backend_connections", "gauge", "Connections a backend is believed to have.",
           ("backend", "group", "pool"), unit="connections"),
    Series("ws_balancer_backend_relayed", "gauge", "Connections relayed to a backend now.", ("backend",),
           unit="connections"),
    Series("ws_balancer_backend_reserved", "gauge", "Picks that have not been seen at the backend yet.", ("backend",),
           unit="connections"),
    Series("ws_balancer_backend_capacity", "gauge", "Connections a backend takes; absent when it reports none.",
           ("backend",), unit="connections"),
    Series("ws_balancer_backend_up", "gauge", "1 while a backend can get new connections.", ("backend",)),
    Series("ws_balancer_backend_report_age_seconds", "gauge", "Age of a backend's newest load report.", ("backend",),
           unit="seconds"),
    Series("ws_balancer_connections_active", "gauge", "Connections relayed now.", unit="connections"),
    Series("ws_balancer_imbalance_ratio", "gauge", "Fullest backend beside the mean; 1 is even.", ("group", "pool")),
    Series("ws_balancer_traffic_weight", "gauge", "Weight of a colour's new connections; 0: held, it gets none.",
           ("group",)),
    Series("ws_balancer_traffic_generation", "gauge", "Generation of the traffic table that is applied; 0: none."),
    Series("ws_balancer_peers", "gauge", "Other balancers, by whether they are heard and apply the same table.",
           ("state",), values=(("alike", "differing", "silent"),)),
    Series("ws_balancer_nats_connected", "gauge", "1 while the balancer hears nodes and other balancers over NATS."),
    Series("ws_balancer_reload_successful", "gauge",
           "1 when the last reload of settings was taken over, or there was none."),
    Series("ws_balancer_reload_success_time_seconds", "gauge",
           "When settings last came to count, in seconds since 1970.", unit="seconds"),
    Series("ws_balancer_place_seconds", "histogram", "Time to choose a backend.",
           unit="seconds", buckets=LATENCY_BUCKETS),
    Series("ws_balancer_handshake_seconds", "histogram", "From a client's request to the backend's 101.",
           unit="seconds", buckets=LATENCY_BUCKETS),
    Series("ws_balancer_connection_duration_seconds", "histogram", "How long ended relayed connections lasted.",
           unit="seconds", buckets=DURATION_BUCKETS),
    Series("ws_balancer_steering_answers_total", "counter", "Traefik's questions, by answer.", ("answer",),
           values=(("picked", "open", "refused", "stranger"),)),
    Series("ws_balancer_steering_seconds", "histogram", "From Traefik's question to the answer.",
           unit="seconds", buckets=LATENCY_BUCKETS),
    Series("ws_deploy_state", "gauge", "1 for the state of the present or last deploy, 0 for all others.", ("state",),
           values=(get_args(DeployState),)),
    Series("ws_deploy_lease_age_seconds", "gauge", "Time since a deploy's lease was renewed; absent without a deploy.",
           unit="seconds"),
    Series("ws_balancer_build_info", "gauge", "Always 1; shows version and mode.", ("version", "mode")),
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
    },
    "go": {"ws_goroutines_active": "ws_tasks_active"},
}
"""Other names for the same numbers, for dashboards that exist already.

`websocket_connections_total` is a gauge there.
"""
