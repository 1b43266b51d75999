"""[balancer] and [traefik]: where backends come from, how connections are placed, relayed and steered. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from trunkline.settings.types import (
    LOOPBACK,
    MIB,
    PRIVATE,
    Burst,
    ConnectionLimit,
    Label,
    Ms,
    NamedHost,
    Network,
    Port,
    PositiveMs,
    Rate,
    about,
)

BackendUrl = Annotated[
    str,
    Meta(
        pattern=r"^(http|https|ws|wss)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?/?$",
        extra={"allowed": 'a URL of scheme and host such as "http://10.0.0.1:3001" or "https://ws.internal:8443"'},
    ),
]
PathPrefix = Annotated[
    str, Meta(pattern=r"^/[^\s?#`]*$", extra={"allowed": 'the beginning of a path, such as "/" or "/api/match"'})
]
AffinityKey = Annotated[
    str,
    Meta(
        pattern=r"^(query:[^\s=&]+|path:[1-9]\d?|header:[A-Za-z0-9-]+|cookie:[^\s=;,]+)$",
        extra={"allowed": '"query:NAME", "path:N" (the Nth part, from 1), "header:NAME" or "cookie:NAME"'},
    ),
]
HeaderName = Annotated[str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", extra={"allowed": "a header name"})]
HostName = Annotated[
    str,
    Meta(
        pattern=r"^$|^(\*\.)?[0-9A-Za-z_]([0-9A-Za-z_.-]*[0-9A-Za-z])?$|^\*$",
        extra={"allowed": 'a host name without scheme and port, "*.example.org" for all below it, or empty'},
    ),
]
CookieName = Annotated[
    str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]*$", extra={"allowed": "the name of a cookie, or empty"})
]
OptionalUrl = Annotated[
    str,
    Meta(
        pattern=r"^$|^https?://[^\s/?#]+([/?][^\s#]*)?$", extra={"allowed": "a URL with http:// or https://, or empty"}
    ),
]
OptionalPath = Annotated[str, Meta(pattern=r"^$|^/[^\s#`]*$", extra={"allowed": 'a path such as "/health", or empty'})]
Policy = Literal["least_connections", "affinity", "p2c", "round_robin", "random"]
Weight = Annotated[float, Meta(ge=0, le=1000)]


class BackendEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of [[balancer.backends]], and of a watched file."""

    url: Annotated[BackendUrl, about("Where the backend listens.")]
    weight: Annotated[Weight, about("Its share beside the others; 0: no new connections.")] = 1.0
    group: Annotated[str, about("Its canary group; empty: the colour that it reports.")] = ""
    pool: Annotated[str, about("The pool that routes name; empty: the pool of every route that names none.")] = ""
    capacity: Annotated[
        Annotated[int, Meta(ge=1)] | None, about("Connections it takes; by default what it reports, else no limit.")
    ] = None
    health_path: Annotated[str | None, about("Path of its health check instead of balancer.health_path.")] = None


class RouteEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of [[balancer.routes]]; the first one that matches counts."""

    path: Annotated[PathPrefix, about("Requests whose path begins so; whole parts count: /api does not hold /apis.")]
    host: Annotated[HostName, about('Host name without port, "*.example.org" for all below it; empty: any.')] = ""
    rewrite: Annotated[PathPrefix | None, about("What stands in the path's place at the backend.")] = None
    pool: Annotated[str, about("The pool of backends.")] = ""
    policy: Annotated[Policy | None, about("Placement policy instead of balancer.policy.")] = None
    affinity: Annotated[AffinityKey | None, about("What the affinity policy keeps together.")] = None


class HeaderEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A header to set on requests to backends, or on answers to clients; an empty value removes it."""

    name: Annotated[HeaderName, about("Its name.")]
    value: Annotated[Annotated[str, Meta(pattern=r"^[^\r\n]*$")], about("Its value; empty removes the header.")] = ""


class GroupEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The share of new clients that a canary group gets."""

    name: Annotated[Label, about("Name of the group, e.g. a colour.")]
    weight: Annotated[Weight, about("Its share beside the other groups.")]


DEFAULT_ROUTES: tuple[RouteEntry, ...] = (
    RouteEntry("/api/match/game", rewrite="/api/game", policy="affinity", affinity="query:matchId"),
    RouteEntry("/api/game", policy="affinity", affinity="query:matchId"),
    RouteEntry("/"),
)
"""Apply after the operator's own: matches by their id, everything else by load."""


class BalancerSettings(msgspec.Struct, frozen=True):
    """[balancer]: placement of connections on backends, and the relay."""

    host: Annotated[str, about("Address the balancer listens on.")] = "127.0.0.1"
    port: Annotated[Port, about("Port the balancer listens on; 0 takes any free one.")] = 8080
    hosts: Annotated[
        tuple[NamedHost, ...],
        about("Names (Host) under which ports on loopback, and its pages, are served besides addresses and localhost."),
    ] = ()
    mode: Annotated[Literal["relay", "steer"], about("relay: carry the bytes; steer: choose for Traefik.")] = "relay"
    workers: Annotated[int, about("Processes that share the port and one state.", ge=1, le=64)] = 1
    admin_port: Annotated[Port | None, about("Admin port; by default the port + 1; 0: none.")] = None
    admin_host: Annotated[
        str, about("Address of the admin port; beyond loopback its /api needs the token for reads too.")
    ] = "127.0.0.1"
    backends: Annotated[tuple[BackendEntry, ...], about("Backends by list; in the environment as JSON.")] = ()
    dns: Annotated[
        tuple[str, ...],
        about('Backends by DNS: "http://name:port" for A and AAAA, "srv+http://_ws._tcp.name" for SRV records.'),
    ] = ()
    dns_interval_ms: Annotated[PositiveMs, about("Longest time until names are resolved again.")] = 10_000
    backends_file: Annotated[Path | None, about("TOML or JSON file with backends, read again when it changes.")] = None
    docker: Annotated[str, about('Docker daemon with labelled backends, e.g. "unix:///var/run/docker.sock".')] = ""
    docker_network: Annotated[str, about("Network whose addresses are used; by default the first of a container.")] = ""
    docker_cert_dir: Annotated[
        Path | None,
        about(
            "Directory with ca.pem, cert.pem and key.pem for a tcp:// daemon over TLS; by default that of "
            "DOCKER_CERT_PATH, with DOCKER_TLS_VERIFY."
        ),
    ] = None
    swarm: Annotated[str, about("Manager of a Docker Swarm with labelled services, as balancer.docker.")] = ""
    kubernetes: Annotated[
        tuple[str, ...],
        about('Backends by Kubernetes Services: "namespace/service:port", the port by name or by number at the pod.'),
    ] = ()
    announced: Annotated[bool, about("Take nodes that announce themselves over the NATS of bus.url.")] = True
    forget_after_ms: Annotated[
        PositiveMs, about("How long a node that went silent without a goodbye stays listed, as down.")
    ] = 900_000
    store_dir: Annotated[
        Path | None,
        about("For the traffic table, or its copy with NATS; by default in the user's state directory, by port."),
    ] = None
    policy: Annotated[Policy, about("How a backend is chosen.")] = "least_connections"
    affinity: Annotated[AffinityKey, about("What the affinity policy keeps together.")] = "query:matchId"
    affinity_bound: Annotated[float, about("Times the mean that affinity fills a backend to.", ge=1.01, le=100)] = 1.25
    routes: Annotated[tuple[RouteEntry, ...], about("Routes before built-in ones; in the environment as JSON.")] = ()
    groups: Annotated[
        tuple[GroupEntry, ...],
        about("Canary groups and their shares, until a traffic table is written; none: one group."),
    ] = ()
    sticky_cookie: Annotated[CookieName, about("Cookie that brings a client back to its backend; empty: none.")] = ""
    sticky_secure: Annotated[bool, about("Send the cookie over TLS alone.")] = True
    sticky_same_site: Annotated[Literal["lax", "strict", "none"], about("The cookie's SameSite.")] = "lax"
    slow_start_ms: Annotated[Ms, about("Time over which a new backend's share grows to its full weight.")] = 10_000
    cache_ttl_ms: Annotated[Ms, about("How often load reports are fetched; 0: before every pick.")] = 30_000
    metric_path: Annotated[PathPrefix, about("Path of a backend's load report.")] = "/metric"
    report_timeout_ms: Annotated[PositiveMs, about("Time a load report may take.")] = 2_000
    balancer_metric_path: Annotated[PathPrefix, about("Path of the balancer's own counts.")] = "/balancer-metrics"
    metrics_networks: Annotated[tuple[Network, ...], about("Networks that read its pages with no token.")] = PRIVATE
    reservation_ms: Annotated[PositiveMs, about("Life of a pick that its backend never reports.")] = 15_000
    health: Annotated[Literal["http", "websocket", "off"], about("Health check: request, handshake or none.")] = "http"
    health_path: Annotated[PathPrefix, about("Path of the health check.")] = "/health"
    health_interval_ms: Annotated[PositiveMs, about("Time between two health checks.")] = 5_000
    health_timeout_ms: Annotated[PositiveMs, about("Time a health check may take.")] = 2_000
    health_fall: Annotated[int, about("Failed checks until a backend is down.", ge=1, le=100)] = 2
    health_rise: Annotated[int, about("Good checks until it is up again.", ge=1, le=100)] = 1
    eject_after: Annotated[int, about("Failed dials or handshakes in a row until ejection.", ge=1, le=1000)] = 3
    eject_share: Annotated[
        float, about("Largest share of a group that failures may take out while its checks are good.", ge=0, le=1)
    ] = 0.5
    eject_ms: Annotated[PositiveMs, about("First time of an ejection; doubles with each.")] = 1_000
    eject_max_ms: Annotated[PositiveMs, about("Longest time of an ejection.")] = 60_000
    breaker_ratio: Annotated[float, about("Share of failed handshakes that opens a circuit breaker.", gt=0, le=1)] = 0.5
    breaker_volume: Annotated[int, about("Handshakes in the window before the share counts.", ge=1, le=100_000)] = 20
    breaker_window_ms: Annotated[PositiveMs, about("Window of the circuit breaker.")] = 10_000
    retries: Annotated[int, about("Other backends tried before the handshake is answered.", ge=0, le=10)] = 2
    dial_timeout_ms: Annotated[PositiveMs, about("Time for the TCP (and TLS) connection to a backend.")] = 10_000
    handshake_timeout_ms: Annotated[PositiveMs, about("Time for a request head, and for a backend's answer.")] = 10_000
    idle_timeout_ms: Annotated[Ms, about("Silence in both directions that ends a relayed connection; 0: none.")] = 0
    header_bytes: Annotated[int, about("Longest head of a request or answer.", ge=1024, le=MIB)] = 32_768
    body_bytes: Annotated[int, about("Longest body of a plain HTTP request.", ge=0)] = 16 * MIB
    max_connections: Annotated[
        ConnectionLimit | None,
        about("Relayed connections at most; by default, and never more than, open files allow."),
    ] = None
    trusted_proxies: Annotated[tuple[Network, ...], about("Proxies in front whose forwarding headers are kept.")] = ()
    proxy_protocol: Annotated[
        tuple[Network, ...], about("Load balancers whose connections begin with a PROXY protocol header, v1 or v2.")
    ] = ()
    handshake_burst: Annotated[Burst, about("Handshakes an address may make at once.")] = 20.0
    handshake_per_s: Annotated[Rate, about("Handshakes of an address per second in the long run; 0: no limit.")] = 10.0
    connections_per_address: Annotated[int, about("Open connections of one address; 0: no limit.", ge=0)] = 0
    exempt: Annotated[tuple[Network, ...], about("Networks without limits per address.")] = LOOPBACK
    request_headers: Annotated[tuple[HeaderEntry, ...], about("Headers to set on requests to backends.")] = ()
    response_headers: Annotated[tuple[HeaderEntry, ...], about("Headers to set on answers to clients.")] = ()
    tls_cert_file: Annotated[Path | None, about("PEM file with the listener's certificate chain; makes it TLS.")] = None
    tls_key_file: Annotated[Path | None, about("PEM file with its key.")] = None
    tls_verify: Annotated[bool, about("Verify the certificates of backends.")] = True
    tls_ca_file: Annotated[Path | None, about("PEM file of their authority; by default the system's.")] = None
    tls_client_cert_file: Annotated[Path | None, about("PEM file with a certificate chain to show backends.")] = None
    tls_client_key_file: Annotated[Path | None, about("PEM file with its key, if that is another file.")] = None
    rebalance: Annotated[Literal["on", "off", "dry-run"], about("Move clients to new backends; dry-run: log.")] = "on"
    rebalance_per_s: Annotated[float, about("Clients moved per second at most.", gt=0, le=10_000)] = 50.0
    rebalance_above: Annotated[float, about("Load beside the mean at which moving begins.", gt=1, le=100)] = 1.1
    rebalance_until: Annotated[float, about("Load beside the mean at which it ends.", ge=1, le=100)] = 1.02
    rebalance_delay_ms: Annotated[
        Ms, about("Time a new imbalance must last before clients are moved; doubles for a backend that comes back.")
    ] = 5_000
    rebalance_rest_ms: Annotated[Ms, about("Time in which one client is asked to move once at most.")] = 300_000
    drain_ms: Annotated[Ms, about("Time for relayed connections to end by themselves at a stop.")] = 10_000
    hand_over: Annotated[
        bool, about("Give the listening sockets to a balancer of the same user that is started with --take-over.")
    ] = True


class BasicUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user of Traefik's dashboard: name and password hash as htpasswd writes them."""

    name: Annotated[Label, about("Name.")]
    hash: Annotated[str, about("bcrypt, MD5 or SHA1 hash.")]


class TraefikSettings(msgspec.Struct, frozen=True):
    """[traefik]: what `trunkline traefik render` writes and `up --edge traefik` runs; each part where it is set."""

    host: Annotated[str, about("Address that the entry points for clients listen on; empty: all.")] = ""
    http_port: Annotated[Port, about("Entry point of plain HTTP.")] = 80
    https_port: Annotated[Port, about("Entry point of TLS; 0: none.")] = 0
    redirect: Annotated[bool, about("Redirect plain HTTP to TLS.")] = True
    domain: Annotated[
        HostName, about('Host name of the routes; empty or "*": any, but on loopback those of balancer.hosts.')
    ] = ""
    acme_email: Annotated[str, about("Address for Let's Encrypt; empty: no ACME.")] = ""
    acme_storage: Annotated[str, about("File in which certificates are kept.")] = "acme.json"
    acme_ca_server: Annotated[OptionalUrl, about("Another ACME server.")] = ""
    cert_file: Annotated[Path | None, about("PEM file with a certificate of one's own.")] = None
    key_file: Annotated[Path | None, about("PEM file with its key.")] = None
    balancer_url: Annotated[
        BackendUrl | None,
        about("Where Traefik finds the steering balancer; by default on its own machine, at balancer.port."),
    ] = None
    steer: Annotated[bool, about("Ask the balancer for each new connection.")] = True
    networks: Annotated[tuple[Network, ...], about("Networks from which Traefik may request picks.")] = PRIVATE
    fail_open_port: Annotated[Port, about("Loopback entry point for picks by the balancer; fails open.")] = 8089
    poll_interval_ms: Annotated[PositiveMs, about("How often Traefik fetches its configuration.")] = 1_000
    sticky_cookie: Annotated[
        CookieName, about("Sticky cookie without steering; with it, balancer.sticky_cookie counts.")
    ] = "trunkline_lb"
    same_site: Annotated[Literal["lax", "strict", "none"], about("SameSite of that cookie.")] = "lax"
    health_path: Annotated[OptionalPath, about("Path of the servers' health check; empty: none.")] = "/ready"
    health_interval_ms: Annotated[PositiveMs, about("Its interval.")] = 5_000
    health_timeout_ms: Annotated[PositiveMs, about("Its time-out.")] = 2_000
    dial_timeout_ms: Annotated[PositiveMs, about("Time to connect to a server.")] = 2_000
    retry_attempts: Annotated[int, about("Attempts of a request; 0: no retry.", ge=0, le=20)] = 3
    rate_per_s: Annotated[Rate, about("Requests of one address per second; 0: no limit.")] = 0.0
    rate_burst: Annotated[Burst, about("Requests of one address at once.")] = 20.0
    compress: Annotated[bool, about("Compress plain HTTP answers.")] = False
    circuit_breaker: Annotated[str, about("Expression of a circuit breaker; empty: none.")] = ""
    security_headers: Annotated[bool, about("Add security headers to answers.")] = False
    forward_auth: Annotated[OptionalUrl, about("Address of an authentication service; empty: none.")] = ""
    forward_auth_headers: Annotated[tuple[HeaderName, ...], about("Headers taken from its answer.")] = ()
    dashboard_host: Annotated[HostName, about("Host name of the dashboard; empty: no dashboard.")] = ""
    dashboard_users: Annotated[tuple[BasicUser, ...], about("Who may see it.")] = ()
    access_log: Annotated[str, about('File of the JSON access log, "-" for standard output; empty: none.')] = ""
    log_level: Annotated[Literal["DEBUG", "INFO", "WARN", "ERROR"], about("Level of Traefik's log.")] = "INFO"
    metrics_port: Annotated[Port, about("Entry point of Prometheus metrics; 0: none.")] = 0
    metrics_host: Annotated[str, about("Address that it listens on; empty: all.")] = "127.0.0.1"
    ping_port: Annotated[Port, about("Loopback entry point of /ping; 0: none.")] = 0
    grace_timeout_ms: Annotated[Ms, about("Time open requests get when Traefik stops.")] = 10_000
    trusted_proxies: Annotated[tuple[Network, ...], about("Proxies in front of Traefik whose headers it keeps.")] = ()
