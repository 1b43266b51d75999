"""The fleet of nodes: connections, messages, latency, what goes wrong, and what it costs."""

from __future__ import annotations

from trunkline.monitor.dashboards.panels import (
    BLUE,
    CAPACITY,
    CPU,
    GREEN,
    MEMORY,
    RED,
    YELLOW,
    YES_IS_GOOD,
    YES_IS_NEWS,
    Board,
    Panel,
    Query,
    Row,
    buckets,
    happening,
    of,
    one,
    per_minute,
    quantiles,
    rate,
    total,
    with_node,
)
from trunkline.settings.monitor import MonitorSettings

# A node that drains takes no new connection, so its room does not count.
ROOM = total(f"{of('ws_connections_max')} unless on (instance) {of('ws_draining')} == 1")
SHARE_OF_CAPACITY = f"100 * {total(of('ws_connections_active'))} / ({ROOM} > 0)"
BUS_WORDS = ((0.0, "disconnected", RED), (1.0, "connected", GREEN))

OVERVIEW = Row(
    "At a glance",
    (
        Panel(
            title="Capacity used",
            about="Open connections as a share of what all nodes take that are not draining. Yellow from 80 %, red "
            "from 95 %: of 2,184 connections these are 1,747 and 2,075, of 10,000 they are 8,000 and 9,500.",
            unit="percent",
            queries=one(SHARE_OF_CAPACITY),
            shape="gauge",
            width=4,
            limits=CAPACITY,
            most=100,
        ),
        Panel(
            title="Open connections",
            about="WebSocket connections open now, on all nodes.",
            unit="short",
            queries=one(total(of("ws_connections_active"))),
            shape="stat",
            width=4,
            limits=((None, BLUE),),
        ),
        Panel(
            title="Nodes up",
            about="Nodes that answered the last scrape. Compare it with how many you run.",
            unit="short",
            queries=one(total(of("up"))),
            shape="stat",
            width=3,
            limits=((None, RED), (1.0, GREEN)),
        ),
        Panel(
            title="Bus",
            about="Whether every node is connected to the bus. Without it a node delivers only what its own clients "
            "publish, or nothing.",
            unit="none",
            queries=one(f"min({of('ws_nats_connected')})"),
            shape="stat",
            width=3,
            limits=YES_IS_GOOD,
            words=BUS_WORDS,
        ),
        Panel(
            title="Draining nodes",
            about="Nodes that ask their clients to move, for a deploy or a shutdown.",
            unit="short",
            queries=one(total(of("ws_draining"))),
            shape="stat",
            width=3,
            limits=YES_IS_NEWS,
        ),
        Panel(
            title="Alerts firing",
            about="Critical alerts and warnings of Trunkline that fire now, of every dashboard.",
            unit="short",
            queries=one(
                'count(ALERTS{alertstate="firing",alertname=~"Trunkline.*",severity=~"critical|warning"}) or vector(0)'
            ),
            shape="stat",
            width=3,
            limits=((None, GREEN), (1.0, RED)),
        ),
        Panel(
            title="Messages now",
            about="Messages received from and sent to clients, per second.",
            unit="cps",
            queries=(
                Query(total(rate("ws_messages_received_total")), "received"),
                Query(total(rate("ws_messages_sent_total")), "sent"),
            ),
            shape="stat",
            width=4,
            limits=((None, BLUE),),
        ),
    ),
    height=6,
)

CONNECTIONS = Row(
    "Connections",
    (
        Panel(
            title="Connections over time",
            about="Open connections on all nodes beside what they take together.",
            unit="short",
            queries=(
                Query(total(of("ws_connections_active")), "open"),
                Query(ROOM, "capacity"),
            ),
        ),
        Panel(
            title="Connections by node",
            about="Open connections of each node. Even lines are good; one that falls while others rise is a node "
            "that drains or was lost.",
            unit="short",
            queries=one(with_node(of("ws_connections_active")), "{{node}} {{instance}}"),
        ),
        Panel(
            title="Connections by colour",
            about="Open connections of each deploy group. A deploy shows as one area that gives way to the other.",
            unit="short",
            queries=one(total(with_node(of("ws_connections_active")), "colour"), "{{colour}}"),
            shape="stack",
        ),
        Panel(
            title="Capacity used by node",
            about="Open connections of each node as a share of what it takes. From 80 % on add nodes, at 100 % it "
            "refuses handshakes.",
            unit="percent",
            queries=one(f"100 * {of('ws_connections_active')} / {of('ws_connections_max')}", "{{instance}}"),
            limits=CAPACITY,
            most=100,
        ),
        Panel(
            title="Opened and ended",
            about="Connections opened and ended per second. Both high at once is a storm of reconnects.",
            unit="cps",
            queries=(
                Query(total(rate("ws_connections_total")), "opened"),
                Query(total(rate("ws_disconnects_total")), "ended"),
            ),
        ),
        Panel(
            title="Disconnects by reason",
            about="Connections ended per second, by reason and by who ended them.",
            unit="cps",
            queries=one(
                happening(total(rate("ws_disconnects_total"), "reason", "initiated_by")),
                "{{reason}} by {{initiated_by}}",
            ),
            shape="stack",
        ),
        Panel(
            title="Failed handshakes by reason",
            about="Handshakes refused or broken off per second. A wrong token or origin is the client's doing.",
            unit="cps",
            queries=one(happening(total(rate("ws_connections_failed_total"), "reason")), "{{reason}}"),
            shape="stack",
        ),
        Panel(
            title="Handshakes shed",
            about="Handshakes that nodes refused to protect themselves, per second and by reason. Above 0, clients "
            "wait and come back.",
            unit="cps",
            queries=one(happening(total(rate("ws_capacity_rejections_total"), "reason")), "{{reason}}"),
            shape="stack",
        ),
        Panel(
            title="Handshake time",
            about="From the last byte of the request to the 101, application hooks and tokens included.",
            unit="s",
            queries=quantiles("ws_handshake_seconds"),
        ),
        Panel(
            title="Connection duration",
            about="How long the connections lasted that ended meanwhile. Short ones in number point at clients that "
            "cannot stay.",
            unit="s",
            queries=quantiles("ws_connection_duration_seconds"),
        ),
        Panel(
            title="Draining",
            explains=("TrunklineDrainingTooLong",),
            about="When each node drained.",
            unit="none",
            queries=one(of("ws_draining"), "{{instance}}"),
            shape="states",
            limits=YES_IS_NEWS,
            words=((0.0, "serving", GREEN), (1.0, "draining", YELLOW)),
        ),
        Panel(
            title="Channels and subscriptions",
            about="Channels with a subscriber, counted on each node, and the subscriptions of all clients.",
            unit="short",
            queries=(
                Query(total(of("ws_channels_active")), "channels"),
                Query(total(of("ws_subscriptions_active")), "subscriptions"),
            ),
        ),
    ),
)

MESSAGES = Row(
    "Messages",
    (
        Panel(
            title="Message rate",
            about="Messages received from clients, sent to clients, and publications received from the bus.",
            unit="cps",
            queries=(
                Query(total(rate("ws_messages_received_total")), "received"),
                Query(total(rate("ws_messages_sent_total")), "sent"),
                Query(total(rate("ws_nats_messages_received_total")), "from the bus"),
            ),
        ),
        Panel(
            title="Byte rate",
            about="Bytes read from and written to clients, after the handshake.",
            unit="Bps",
            queries=(
                Query(total(rate("ws_bytes_received_total")), "received"),
                Query(total(rate("ws_bytes_sent_total")), "sent"),
            ),
        ),
        Panel(
            title="Message latency",
            about="From reading a message to having handled it; one read of eight is timed.",
            unit="s",
            queries=quantiles("ws_message_latency_seconds"),
            limits=((None, GREEN), (1.0, RED)),
        ),
        Panel(
            title="Delivery latency",
            about="From the bus taking a publication to writing it out to the subscriber, clocks of machines included.",
            unit="s",
            queries=quantiles("ws_delivery_latency_seconds"),
        ),
        Panel(
            title="Message latency, distribution",
            about="How many messages took how long. Two bands mean two kinds of work.",
            unit="s",
            queries=buckets("ws_message_latency_seconds"),
            shape="heatmap",
            least=None,
        ),
        Panel(
            title="Delivery latency, distribution",
            about="How many deliveries took how long.",
            unit="s",
            queries=buckets("ws_delivery_latency_seconds"),
            shape="heatmap",
            least=None,
        ),
    ),
)

TROUBLE = Row(
    "Clients in trouble",
    (
        Panel(
            title="Slow clients, share",
            about="Clients whose outbox holds bytes, as a share of all. A few are usual; many point at the network or "
            "at too many messages for them.",
            unit="percent",
            queries=one(f"100 * {of('ws_slow_clients')} / ({of('ws_connections_active')} > 0)", "{{instance}}"),
            limits=((None, GREEN), (10.0, RED)),
        ),
        Panel(
            title="Slow clients disconnected per minute",
            about="Clients that were closed because they did not keep up.",
            unit="cpm",
            queries=one(per_minute("ws_slow_clients_disconnected_total"), "disconnected"),
        ),
        Panel(
            title="Outbox",
            about="Bytes that wait for clients which read slowly. Growth without end ends in disconnects.",
            unit="bytes",
            queries=one(of("ws_outbox_bytes"), "{{instance}}"),
        ),
        Panel(
            title="Rate limited per minute",
            about="Messages refused because the client was over its rate.",
            unit="cpm",
            queries=one(per_minute("ws_rate_limited_messages_total"), "refused"),
        ),
        Panel(
            title="Replay requests per minute",
            about="Requests for missed messages, by result. Anything but complete or recovered is a gap that the "
            "client must close otherwise.",
            unit="cpm",
            queries=one(per_minute("ws_replay_requests_total", "result"), "{{result}}"),
            shape="stack",
        ),
        Panel(
            title="Publications dropped per minute",
            about="Publications that did not get to a subscriber, by reason.",
            unit="cpm",
            queries=one(per_minute("ws_publications_dropped_total", "reason"), "{{reason}}"),
            shape="stack",
        ),
        Panel(
            title="Errors by code",
            about="Error messages sent to clients per second, by the protocol's code. More than 10 per second is an "
            "application or a client gone wrong.",
            unit="cps",
            queries=one(happening(total(rate("ws_errors_total"), "code")), "{{code}}"),
            width=24,
            shape="stack",
        ),
    ),
)

PROCESS = Row(
    "Process",
    (
        Panel(
            title="CPU used",
            about="CPU of each node, of what the process may use: its quota where it has one.",
            unit="percent",
            queries=one(of("ws_cpu_usage_percent"), "{{instance}}"),
            limits=CPU,
            most=100,
        ),
        Panel(
            title="Memory used and limit",
            about="Resident memory of each node beside its limit; no line of a limit where there is none.",
            unit="bytes",
            queries=(
                Query(of("ws_memory_bytes"), "{{instance}}"),
                Query(f"{of('ws_memory_limit_bytes')} > 0", "limit of {{instance}}"),
            ),
        ),
        Panel(
            title="Memory, share of the limit",
            about="Yellow from 80 %, red from 90 %: of 512 MiB these are 410 and 461. Nothing where no limit is set.",
            unit="percent",
            queries=one(f"100 * {of('ws_memory_bytes')} / ({of('ws_memory_limit_bytes')} > 0)", "{{instance}}"),
            limits=MEMORY,
            most=100,
        ),
        Panel(
            title="Event-loop lag",
            about="How late the event loop of each node ran. Every client of the node waits that long.",
            unit="s",
            queries=one(of("ws_event_loop_lag_seconds"), "{{instance}}"),
            limits=((None, GREEN), (0.1, YELLOW), (0.5, RED)),
        ),
        Panel(
            title="asyncio tasks",
            about="Tasks alive in each node. They follow the connections; growth without them is a leak.",
            unit="short",
            queries=one(of("ws_tasks_active"), "{{instance}}"),
        ),
        Panel(
            title="Bus by node",
            about="When each node was connected to the bus.",
            unit="none",
            queries=one(of("ws_nats_connected"), "{{instance}}"),
            shape="states",
            limits=YES_IS_GOOD,
            words=BUS_WORDS,
        ),
        Panel(
            title="Versions",
            about="Nodes by version and colour. Two versions at once is a deploy, or one that was not finished.",
            unit="short",
            queries=one(f"count by (version, colour) ({of('ws_build_info')})", "{{version}} {{colour}}"),
            shape="stack",
            width=12,
        ),
        Panel(
            title="Running since",
            about="Time since each node started. A line that falls to 0 outside of a deploy is a crash.",
            unit="s",
            queries=one(f"time() - {of('ws_start_time_seconds')}", "{{instance}}"),
            width=12,
        ),
    ),
)

BURN_LIMITS = ((None, GREEN), (1.0, YELLOW), (6.0, YELLOW), (14.4, RED))


def _objectives(settings: MonitorSettings) -> Row:
    """How fast the two error budgets are spent. They are of the whole fleet: no variable narrows them."""
    handshakes, deliveries = settings.slo_handshake, settings.slo_delivery
    promises = (
        ("Handshakes", "ws_handshake_faults", handshakes, f"{100 * handshakes:g} % of handshakes succeed"),
        (
            "Deliveries",
            "ws_deliveries_late",
            deliveries,
            f"{100 * deliveries:g} % of publications are delivered within {settings.slo_delivery_ms} ms",
        ),
    )
    panels: list[Panel] = []
    for name, faults, objective, promise in promises:
        budget = f"{1 - objective:.6g}"
        panels += (
            Panel(
                title=f"{name}: error budget spent",
                about=f"Objective: {promise}. 1 spends the budget of 30 days in 30 days, 14.4 spends 2 % of it in an "
                "hour. Of the whole fleet.",
                unit="suffix:x",
                queries=tuple(
                    Query(f"fleet:{faults}:ratio_rate{window} / {budget}", f"over {window}")
                    for window in ("5m", "30m", "1h", "6h", "3d")
                ),
                width=9,
                limits=BURN_LIMITS,
            ),
            Panel(
                title=f"{name}: kept over 3 days",
                about=f"Objective: {promise}. Of the whole fleet.",
                unit="percent",
                queries=one(f"100 * (1 - fleet:{faults}:ratio_rate3d)"),
                shape="stat",
                width=3,
                limits=((None, RED), (100 * objective, GREEN)),
                least=None,
            ),
        )
    return Row("Objectives", tuple(panels))


def board(settings: MonitorSettings) -> Board:
    """The dashboard of the fleet.

    Args:
        settings: the objectives.
    """
    return Board(
        uid="trunkline-fleet",
        title="Trunkline: fleet",
        about="WebSocket nodes: connections, messages, latency, what goes wrong, and what it costs.",
        tags=("websocket",),
        root="ws_build_info",
        rows=(OVERVIEW, CONNECTIONS, MESSAGES, TROUBLE, _objectives(settings), PROCESS),
        narrowed_by=("colour", "ws_build_info"),
    )
