"""The bus: NATS from prometheus-nats-exporter, and what our own nodes and balancers say of it where there is none.

nats-server has no metrics of its own for Prometheus. The exporter gives all it copies as gauges, counters too; `rate`
is right for those that only grow.
"""

from __future__ import annotations

from trunkline.monitor.dashboards.panels import (
    CAPACITY,
    GREEN,
    RED,
    YES_IS_GOOD,
    Board,
    Panel,
    Query,
    Row,
    of,
    one,
    quantiles,
    rate,
    total,
)

CONNECTED = ((0.0, "disconnected", RED), (1.0, "connected", GREEN))
STREAM = "{{stream_name}}"

OURS = Row(
    "As nodes and balancers see it",
    (
        Panel(
            title="Nodes on the bus",
            about="When each node was connected. While red, it delivers nothing from other nodes and recovers after.",
            unit="none",
            queries=one(of("ws_nats_connected"), "{{instance}}"),
            shape="states",
            limits=YES_IS_GOOD,
            words=CONNECTED,
        ),
        Panel(
            title="Balancers on the bus",
            about="When each balancer heard nodes and other balancers.",
            unit="none",
            queries=one(of("ws_balancer_nats_connected"), "{{instance}}"),
            shape="states",
            limits=YES_IS_GOOD,
            words=CONNECTED,
        ),
        Panel(
            title="Publications from the bus",
            about="Publications that each node received per second.",
            unit="cps",
            queries=one(rate("ws_nats_messages_received_total"), "{{instance}}"),
        ),
        Panel(
            title="From the bus to the client",
            about="From the bus taking a publication to writing it out.",
            unit="s",
            queries=quantiles("ws_delivery_latency_seconds"),
            width=24,
        ),
    ),
)

SERVER = Row(
    "NATS servers",
    (
        Panel(
            title="NATS connections",
            about="Clients of each server: nodes, balancers, load agents.",
            unit="short",
            queries=one(of("gnatsd_varz_connections"), "{{server_id}}"),
        ),
        Panel(
            title="NATS connections, share",
            about="Clients of each server, of what it takes.",
            unit="percent",
            queries=one(
                f"100 * {of('gnatsd_varz_connections')} / {of('gnatsd_varz_max_connections')}", "{{server_id}}"
            ),
            limits=CAPACITY,
            most=100,
        ),
        Panel(
            title="NATS subscriptions",
            about="Subscriptions at each server; a node has one for each channel with a subscriber.",
            unit="short",
            queries=one(of("gnatsd_varz_subscriptions"), "{{server_id}}"),
        ),
        Panel(
            title="NATS messages",
            about="Messages in and out per second.",
            unit="cps",
            queries=(
                Query(rate("gnatsd_varz_in_msgs"), "in {{server_id}}"),
                Query(rate("gnatsd_varz_out_msgs"), "out {{server_id}}"),
            ),
        ),
        Panel(
            title="NATS bytes",
            about="Bytes in and out per second.",
            unit="Bps",
            queries=(
                Query(rate("gnatsd_varz_in_bytes"), "in {{server_id}}"),
                Query(rate("gnatsd_varz_out_bytes"), "out {{server_id}}"),
            ),
        ),
        Panel(
            title="Slow consumers",
            about="Clients per minute that the server cut off because they did not read. A node that is cut off "
            "connects again and misses nothing, but its clients wait.",
            unit="cpm",
            queries=one(f"60 * {rate('gnatsd_varz_slow_consumers')}", "{{server_id}}"),
            limits=((None, GREEN), (1.0, RED)),
        ),
        Panel(
            title="NATS CPU",
            about="CPU of each server; 100 is one core.",
            unit="percent",
            queries=one(of("gnatsd_varz_cpu"), "{{server_id}}"),
        ),
        Panel(
            title="NATS memory",
            about="Resident memory of each server.",
            unit="bytes",
            queries=one(of("gnatsd_varz_mem"), "{{server_id}}"),
        ),
        Panel(
            title="Bytes that wait for clients",
            about="Bytes that NATS holds because a client of it reads slowly.",
            unit="bytes",
            queries=one(total(of("gnatsd_connz_pending_bytes"), "server_id"), "{{server_id}}"),
        ),
        Panel(
            title="Cluster routes",
            about="Routes of each server to others of its cluster; 0 for one that stands alone.",
            unit="short",
            queries=one(of("gnatsd_varz_routes"), "{{server_id}}"),
            width=12,
        ),
        Panel(
            title="Exporters up",
            about="NATS exporters, nodes and balancers that answered the last scrape.",
            unit="none",
            queries=one(of("up"), "{{job}} {{instance}}"),
            shape="states",
            width=12,
            limits=((None, RED), (1.0, GREEN)),
            words=((0.0, "down", RED), (1.0, "up", GREEN)),
        ),
    ),
)

JETSTREAM = Row(
    "JetStream",
    (
        Panel(
            title="Stream messages",
            about="Messages that each stream holds; history that clients can recover.",
            unit="short",
            queries=one(f"max by (stream_name) ({of('jetstream_stream_total_messages')})", STREAM),
        ),
        Panel(
            title="Stream bytes",
            about="Bytes that each stream holds.",
            unit="bytes",
            queries=one(f"max by (stream_name) ({of('jetstream_stream_total_bytes')})", STREAM),
        ),
        Panel(
            title="Stored per second",
            about="Messages that each stream took per second.",
            unit="cps",
            queries=one(f"max by (stream_name) ({rate('jetstream_stream_last_seq')})", STREAM),
        ),
        Panel(
            title="JetStream bytes of the server",
            about="Bytes that each server stores, of what it may.",
            unit="bytes",
            queries=(
                Query(of("jetstream_server_total_message_bytes"), "used {{server_name}}"),
                Query(of("jetstream_server_max_storage"), "allowed on disk {{server_name}}"),
            ),
        ),
        Panel(
            title="Messages that wait for a consumer",
            about="Messages of each stream that its consumers have not been given yet.",
            unit="short",
            queries=one(f"sum by (stream_name) ({of('jetstream_consumer_num_pending')})", STREAM),
        ),
        Panel(
            title="Consumers",
            about="Consumers of each stream.",
            unit="short",
            queries=one(f"max by (stream_name) ({of('jetstream_stream_consumer_count')})", STREAM),
        ),
    ),
)

BOARD = Board(
    uid="trunkline-nats",
    title="Trunkline: NATS",
    about="The bus: what nodes see of it, the servers, and JetStream.",
    tags=("nats",),
    root='{__name__=~"gnatsd_varz_connections|ws_nats_connected|ws_balancer_nats_connected"}',
    rows=(OURS, SERVER, JETSTREAM),
)
