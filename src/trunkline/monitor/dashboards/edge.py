"""The edge: where the balancer puts connections and why, and what Traefik truly says of WebSockets."""

from __future__ import annotations

from trunkline.monitor.dashboards.panels import (
    CAPACITY,
    GREEN,
    RED,
    YELLOW,
    YES_IS_GOOD,
    Board,
    Panel,
    Query,
    Row,
    happening,
    of,
    one,
    per_minute,
    quantile,
    quantiles,
    rate,
    total,
)

BACKEND_WORDS = ((0.0, "down", RED), (1.0, "up", GREEN))
NOT_WEBSOCKET = 'protocol!="websocket"'
FAILED = 'code=~"5.."'

BALANCE = Row(
    "Balance",
    (
        Panel(
            title="Imbalance",
            about="The fullest backend beside the mean of its group; 1 is even. Above 1.25 for long, clients are "
            "asked to move if rebalancing is on.",
            unit="none",
            queries=one(of("ws_balancer_imbalance_ratio"), "{{group}} {{pool}} {{instance}}"),
            limits=((None, GREEN), (1.25, YELLOW), (1.5, RED)),
            least=1,
        ),
        Panel(
            title="Connections by backend",
            about="Connections each backend is believed to have: its last report and what was placed since.",
            unit="short",
            queries=one(f"max by (backend) ({of('ws_balancer_backend_connections')})", "{{backend}}"),
        ),
        Panel(
            title="Capacity used by backend",
            about="Connections as a share of what the backend says it takes.",
            unit="percent",
            queries=one(
                f"100 * max by (backend) ({of('ws_balancer_backend_connections')})"
                f" / max by (backend) ({of('ws_balancer_backend_capacity')})",
                "{{backend}}",
            ),
            limits=CAPACITY,
            most=100,
        ),
        Panel(
            title="Backends up",
            about="When each backend got new connections, as each balancer sees it.",
            unit="none",
            queries=one(of("ws_balancer_backend_up"), "{{backend}} {{instance}}"),
            shape="states",
            limits=YES_IS_GOOD,
            words=BACKEND_WORDS,
        ),
        Panel(
            title="Age of load reports",
            about="How old what is known of a backend is. Old reports make placement blind.",
            unit="s",
            queries=one(of("ws_balancer_backend_report_age_seconds"), "{{backend}} {{instance}}"),
        ),
        Panel(
            title="Placed, not yet seen",
            about="Picks that have not shown up in the backend's own count yet.",
            unit="short",
            queries=one(of("ws_balancer_backend_reserved"), "{{backend}} {{instance}}"),
        ),
        Panel(
            title="Picks by backend",
            about="New connections per second, by the backend chosen.",
            unit="cps",
            queries=one(total(rate("ws_balancer_picks_total"), "backend"), "{{backend}}"),
            shape="stack",
        ),
        Panel(
            title="Picks by reason",
            about="New connections per second, by why that backend was chosen.",
            unit="cps",
            queries=one(total(rate("ws_balancer_picks_total"), "reason"), "{{reason}}"),
            shape="stack",
        ),
        Panel(
            title="Clients asked to move per minute",
            about="Clients asked to move to even out the load, by the backend they leave.",
            unit="cpm",
            queries=one(per_minute("ws_balancer_moves_total", "backend"), "{{backend}}"),
            shape="stack",
        ),
    ),
)

TROUBLE = Row(
    "Refusals and failures",
    (
        Panel(
            title="Refusals",
            about="Clients turned away per second before a backend was asked, by reason.",
            unit="cps",
            queries=one(happening(total(rate("ws_balancer_refusals_total"), "reason")), "{{reason}}"),
            shape="stack",
        ),
        Panel(
            title="Failures by backend",
            about="Picks per second that came to nothing through the backend's fault.",
            unit="cps",
            queries=one(total(rate("ws_balancer_failures_total"), "backend", "why"), "{{backend}} {{why}}"),
            shape="stack",
        ),
        Panel(
            title="Retries",
            about="Handshakes per second that were tried at another backend. Clients do not notice them, but wait.",
            unit="cps",
            queries=one(total(rate("ws_balancer_retries_total")), "retries"),
        ),
        Panel(
            title="Ejections per minute",
            about="Times a backend was taken out, by what it entered.",
            unit="cpm",
            queries=one(
                happening(per_minute("ws_balancer_ejections_total", "backend", "state")), "{{backend}} {{state}}"
            ),
            shape="stack",
        ),
        Panel(
            title="Load reports by result",
            about="Load reports asked for or heard per second. Without good ones the balancer guesses.",
            unit="cps",
            queries=one(total(rate("ws_balancer_reports_total"), "result"), "{{result}}"),
            shape="stack",
        ),
        Panel(
            title="Balancers on the bus",
            about="Whether each balancer hears nodes and other balancers over NATS.",
            unit="none",
            queries=one(of("ws_balancer_nats_connected"), "{{instance}}"),
            shape="states",
            limits=YES_IS_GOOD,
            words=((0.0, "disconnected", RED), (1.0, "connected", GREEN)),
        ),
    ),
)

RELAY = Row(
    "Relay and steering",
    (
        Panel(
            title="Relayed connections",
            about="WebSockets that each balancer relays now; 0 for a balancer that only steers.",
            unit="short",
            queries=one(of("ws_balancer_connections_active"), "{{instance}}"),
        ),
        Panel(
            title="Relayed by backend",
            about="Relayed connections of each backend.",
            unit="short",
            queries=one(total(of("ws_balancer_backend_relayed"), "backend"), "{{backend}}"),
            shape="stack",
        ),
        Panel(
            title="Handshakes and requests",
            about="Handshakes relayed and plain HTTP requests passed on, per second.",
            unit="cps",
            queries=(
                Query(total(rate("ws_balancer_handshakes_total")), "handshakes"),
                Query(total(rate("ws_balancer_http_requests_total"), "status"), "HTTP {{status}}"),
            ),
        ),
        Panel(
            title="Time to place",
            about="Time to choose a backend.",
            unit="s",
            queries=quantiles("ws_balancer_place_seconds"),
        ),
        Panel(
            title="Time to shake hands",
            about="From a client's request to the backend's 101, through the relay.",
            unit="s",
            queries=quantiles("ws_balancer_handshake_seconds"),
        ),
        Panel(
            title="Duration of relayed connections",
            about="How long the relayed connections lasted that ended meanwhile.",
            unit="s",
            queries=quantiles("ws_balancer_connection_duration_seconds"),
        ),
        Panel(
            title="Steering answers",
            about="Traefik's questions per second, by answer.",
            unit="cps",
            queries=one(total(rate("ws_balancer_steering_answers_total"), "answer"), "{{answer}}"),
            shape="stack",
        ),
        Panel(
            title="Time to answer Traefik",
            about="From Traefik's question to the answer; every new connection waits that long.",
            unit="s",
            queries=quantiles("ws_balancer_steering_seconds"),
        ),
        Panel(
            title="Balancer versions",
            about="Balancers by version and mode.",
            unit="short",
            queries=one(f"count by (version, mode) ({of('ws_balancer_build_info')})", "{{version}} {{mode}}"),
            shape="stack",
        ),
    ),
)

TRAEFIK = Row(
    "Traefik",
    (
        Panel(
            title="Open connections at Traefik",
            about="TCP connections by entry point, WebSockets and plain HTTP together. Traefik has no count of "
            "WebSockets by service: the nodes have it.",
            unit="short",
            queries=one(total(of("traefik_open_connections"), "entrypoint", "protocol"), "{{entrypoint}} {{protocol}}"),
        ),
        Panel(
            title="Servers up at Traefik",
            about="Servers of services with a health check, as Traefik sees them.",
            unit="none",
            queries=one(of("traefik_service_server_up"), "{{service}} {{url}}"),
            shape="states",
            limits=YES_IS_GOOD,
            words=BACKEND_WORDS,
        ),
        Panel(
            title="WebSockets ended",
            about="WebSockets that ended per second. Traefik counts a WebSocket only then, and as code 0: such a "
            "count is no error.",
            unit="cps",
            queries=one(
                total(rate("traefik_service_requests_total", 'code="0"', 'protocol="websocket"'), "service"),
                "{{service}}",
            ),
        ),
        Panel(
            title="HTTP requests by code",
            about="Plain HTTP requests per second by status. WebSockets are left out, for they have none.",
            unit="cps",
            queries=one(total(rate("traefik_service_requests_total", NOT_WEBSOCKET), "code"), "{{code}}"),
            shape="stack",
        ),
        Panel(
            title="HTTP errors, share",
            about="Plain HTTP requests answered with 5xx, of all. WebSockets are left out.",
            unit="percent",
            queries=one(
                f"100 * ({total(rate('traefik_service_requests_total', NOT_WEBSOCKET, FAILED))} or vector(0))"
                f" / ({total(rate('traefik_service_requests_total', NOT_WEBSOCKET))} > 0)",
                "5xx",
            ),
            limits=((None, GREEN), (1.0, YELLOW), (5.0, RED)),
            most=100,
        ),
        Panel(
            title="HTTP latency",
            about="Time of plain HTTP requests by service. The life of a WebSocket is no latency and is left out.",
            unit="s",
            queries=one(
                quantile(0.95, "traefik_service_request_duration_seconds", "service", matchers=(NOT_WEBSOCKET,)),
                "p95 {{service}}",
            ),
        ),
        Panel(
            title="Configurations loaded per minute",
            about="How often Traefik took a new configuration. A load resets its own counts of connections.",
            unit="cpm",
            queries=one(per_minute("traefik_config_reloads_total", "instance"), "{{instance}}"),
        ),
        Panel(
            title="Time since Traefik's last configuration",
            about="How long ago Traefik took a configuration that it could use.",
            unit="s",
            queries=one(f"time() - {of('traefik_config_last_reload_success')}", "{{instance}}"),
        ),
        Panel(
            title="Balancers and Traefik up",
            about="Those that answered the last scrape.",
            unit="none",
            queries=one(of("up"), "{{job}} {{instance}}"),
            shape="states",
            limits=((None, RED), (1.0, GREEN)),
            words=BACKEND_WORDS,
        ),
    ),
)

BOARD = Board(
    uid="trunkline-edge",
    title="Trunkline: edge and balance",
    about="Where connections are placed and why, what fails, and what Traefik says of it.",
    tags=("websocket", "edge"),
    root='{__name__=~"ws_balancer_build_info|traefik_config_reloads_total"}',
    rows=(BALANCE, TROUBLE, RELAY, TRAEFIK),
)
