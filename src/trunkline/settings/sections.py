"""Typed settings, one struct a section. Pure.

Rules:

- A setting is declared once: type, range, default and one line of help stand at the field. The reference page, `config
  show`, error texts and the environment names are all made from it.
- The end of a name is its unit: `_ms`, `_s`, `_bytes`; a bare number is in that unit, text such as "30s" or "64KiB"
  is converted.
- Settings are frozen. A node reads them at its start and never again.
- What depends on this machine (open-file limit, cgroup, whether a port is free) is checked where it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from trunkline.settings.admin import AdminSettings
from trunkline.settings.balancer import BackendUrl, BalancerSettings, TraefikSettings
from trunkline.settings.channels import ChannelsSettings
from trunkline.settings.kubernetes import KubernetesSettings
from trunkline.settings.monitor import MonitorSettings
from trunkline.settings.secret import Secret
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
    Size,
    Version,
    about,
)

Origin = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[A-Za-z][A-Za-z0-9+.-]*://(\*\.)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(\d+|\*))?)$",
        extra={"allowed": '"*" or an origin such as "https://app.example.org" or "https://*.example.org"'},
    ),
]
Token = Annotated[str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", extra={"allowed": "a subprotocol name"})]


class ServerSettings(msgspec.Struct, frozen=True):
    """[server]: a node, its data port and what one connection may use."""

    host: Annotated[str, about("Address the data port listens on.")] = "0.0.0.0"
    port: Annotated[Port, about("The data port; 0 takes any free one.")] = 3001
    name: Annotated[Label | None, about("Name of this node; by default host name and process id.")] = None
    colour: Annotated[Label, about("Deploy group of this node.")] = "blue"
    version: Annotated[
        Version,
        about("Release that this node runs, such as an image tag; balancers prefer the newest. Empty: not compared."),
    ] = ""
    advertise: Annotated[
        BackendUrl | None,
        about(
            "Where balancers reach the data port; by default http:// with server.pod_ip, else server.host, else the "
            "address in server.advertise_network, else the one that faces NATS."
        ),
    ] = None
    advertise_network: Annotated[
        Network | None, about("Network whose address of this machine balancers get, where the machine is in several.")
    ] = None
    app: Annotated[str, about("The application as module:attribute; empty runs the stock app.")] = ""
    max_connections: Annotated[
        ConnectionLimit | None,
        about("Connections this node takes, as open files allow; by default from the memory limit."),
    ] = None
    memory_base_bytes: Annotated[Size, about("Memory set aside for the process in that computation.")] = 128 * MIB
    memory_per_connection_bytes: Annotated[int, about("Memory counted for one connection there.", ge=1024)] = 180 * 1024
    memory_limit_bytes: Annotated[
        Annotated[int, Meta(ge=16 * MIB)] | None, about("Memory limit to use instead of the one of the cgroup.")
    ] = None
    heartbeat_interval_ms: Annotated[int, about("Time between heartbeats to a client.", ge=10, le=86_400_000)] = 30_000
    connection_timeout_ms: Annotated[
        int, about("Silence of a client after which it is closed with 4008.", ge=10, le=86_400_000)
    ] = 300_000
    handshake_timeout_ms: Annotated[PositiveMs, about("Time a client has for its whole handshake.")] = 10_000
    close_timeout_ms: Annotated[Ms, about("Time to wait for the peer's close frame.")] = 2_000
    work_grace_ms: Annotated[
        Ms, about("Time that handlers of a client may go on after it has gone; then they are cancelled.")
    ] = 60_000
    message_bytes: Annotated[int, about("Longest message of a client; above it: 1009.", ge=128, le=64 * MIB)] = 65_536
    header_bytes: Annotated[int, about("Longest request line and headers of a handshake.", ge=1024, le=MIB)] = 16_384
    drain_ms: Annotated[
        Ms, about("Time over which a drain moves its clients; longer where the other nodes accept less.")
    ] = 10_000
    shutdown_deadline_ms: Annotated[Ms, about("Time a stop may take before the rest is cut off.")] = 30_000
    echo: Annotated[bool, about("Serve /ws/echo, which has no message rate limit.")] = True
    chat: Annotated[bool, about("Serve the chat and match endpoints of the stock app.")] = True
    deflate: Annotated[bool, about("Offer permessage-deflate compression.")] = True
    deflate_min_bytes: Annotated[Size, about("Messages shorter than this are sent uncompressed.")] = 1024
    origins: Annotated[
        tuple[Origin, ...],
        about(
            'Browser origins that may connect; empty: the same host only, "*": any. Without an Origin header: always.'
        ),
    ] = ()
    hosts: Annotated[
        tuple[NamedHost, ...],
        about("Names (Host) under which ports on loopback, and /metrics, are served besides addresses and localhost."),
    ] = ()
    trusted_proxies: Annotated[tuple[Network, ...], about("Proxies whose forwarding headers are trusted.")] = ()
    metrics_networks: Annotated[tuple[Network, ...], about("Networks that may read /metrics with no token.")] = PRIVATE
    subprotocols: Annotated[
        tuple[Token, ...], about("Subprotocols the server speaks, best first; the first one offered is chosen.")
    ] = ()
    match_players: Annotated[int, about("Players one match may hold.", ge=1, le=100_000)] = 100
    pod_name: Annotated[str | None, about("Name of the pod in the load report.")] = None
    pod_ip: Annotated[str | None, about("Address of the pod in the load report.")] = None
    node_name: Annotated[str | None, about("Name of the machine in the load report.")] = None


class LimitsSettings(msgspec.Struct, frozen=True):
    """[limits]: what one client, one address and the whole node may do."""

    rate_burst: Annotated[Burst, about("Messages a client may send at once.")] = 100.0
    rate_per_s: Annotated[Rate, about("Messages a client may send per second in the long run; 0: no limit.")] = 10.0
    control_burst: Annotated[
        Burst, about("Control frames and empty fragments a client may send at once; above it: 1008.")
    ] = 1000.0
    control_per_s: Annotated[Rate, about("How many of them per second in the long run; 0: no limit.")] = 100.0
    handshake_burst: Annotated[Burst, about("Handshakes an address may make at once.")] = 10.0
    handshake_per_s: Annotated[Rate, about("Handshakes of an address per second in the long run; 0: no limit.")] = 5.0
    http_burst: Annotated[Burst, about("Plain HTTP requests an address may make at once.")] = 20.0
    http_per_s: Annotated[Rate, about("Plain HTTP requests of an address per second; 0: no limit.")] = 10.0
    exempt: Annotated[tuple[Network, ...], about("Networks without limits per address.")] = LOOPBACK
    outbox_bytes: Annotated[int, about("Bytes that may wait for a client; then publications drop out.", ge=4096)] = MIB
    outbox_grace_ms: Annotated[Ms, about("Time above that bound until a client is closed with 1008.")] = 5_000
    channels_per_client: Annotated[int, about("Channels a client may be subscribed to.", ge=1, le=1_000_000)] = 100
    channel_name_bytes: Annotated[int, about("Longest channel name.", ge=1, le=1024)] = 200
    accept_per_s: Annotated[
        Annotated[float, Meta(gt=0, le=1_000_000)] | None,
        about("Handshakes this node takes per second before it answers 503; by default no fixed rate."),
    ] = None
    loop_lag_shed_ms: Annotated[PositiveMs, about("Event-loop lag above which handshakes are answered with 503.")] = 500


Algorithm = Literal["HS256", "RS256", "ES256"]


class AuthSettings(msgspec.Struct, frozen=True):
    """[auth]: tokens (JWT). Without algorithms no token is read and every client is anonymous."""

    algorithms: Annotated[tuple[Algorithm, ...], about("Signature algorithms that are accepted; none: no tokens.")] = ()
    secret: Annotated[Secret | None, about("Key of HS256, at least 32 bytes.")] = None
    secret_file: Annotated[Path | None, about("File with the key of HS256; a line end at its end is left out.")] = None
    public_key_file: Annotated[Path | None, about("PEM file with the public key of RS256 or ES256.")] = None
    jwks_url: Annotated[str | None, about("HTTPS address of a JSON Web Key Set with the public keys.")] = None
    issuer: Annotated[str | None, about("What a token's iss must be.")] = None
    audience: Annotated[str | None, about("What a token's aud must hold.")] = None
    leeway_s: Annotated[float, about("Clock difference forgiven in exp and nbf.", ge=0, le=300)] = 5.0
    required: Annotated[bool, about("Refuse handshakes without a valid token.")] = False
    require_exp: Annotated[bool, about("Refuse tokens without an expiry (exp).")] = False


class BusSettings(msgspec.Struct, frozen=True):
    """[bus]: what carries publications between nodes."""

    url: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^(memory|((nats|tls)://[^\s,]+)(,(nats|tls)://[^\s,]+)*)$",
                extra={"allowed": '"memory", or a URL that begins with nats:// or tls://'},
            ),
        ],
        about("The bus; several NATS servers are joined by commas."),
    ] = "memory"
    prefix: Annotated[
        Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,32}$", extra={"allowed": "1 to 32 of a-z, 0-9, '_' and '-'"})],
        about("First part of every subject and stream name, so that fleets can share a bus."),
    ] = "trunkline"
    replicas: Annotated[int, about("Copies JetStream keeps of a publication.", ge=1, le=5)] = 1
    keep_s: Annotated[float, about("Longest time the stream keeps any publication.", ge=1)] = 86_400.0
    max_bytes: Annotated[int, about("Longest the stream may grow.", ge=MIB)] = 1024 * MIB
    publish_timeout_s: Annotated[float, about("Time the bus has to acknowledge a publication.", ge=0.05, le=60)] = 2.0
    tls_ca_file: Annotated[Path | None, about("PEM file of the authority that signed the bus's certificate.")] = None


class LogSettings(msgspec.Struct, frozen=True):
    """[log]: what is logged, how and where."""

    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], about("Least level logged.")] = "info"
    format: Annotated[
        Literal["auto", "json", "console", "ecs"],
        about("JSON lines, text for people, or Elastic Common Schema; auto: text on a terminal, else JSON."),
    ] = "auto"
    directory: Annotated[Path | None, about("Directory for log files besides standard output; by default none.")] = None
    access: Annotated[bool, about("Log handshakes and HTTP requests.")] = True
    rotate_bytes: Annotated[int, about("Size at which a file is rotated.", ge=1024)] = 20_000_000
    keep_days: Annotated[int, about("Days that rotated log files are kept.", ge=1, le=3650)] = 14
    error_keep_days: Annotated[int, about("Days that error logs are kept.", ge=1, le=3650)] = 30


class MetricsSettings(msgspec.Struct, frozen=True):
    """[metrics]: what /metrics shows."""

    aliases: Annotated[tuple[Literal["websocket", "go"], ...], about("Name families for existing dashboards.")] = ()


class UpSettings(msgspec.Struct, frozen=True):
    """[up]: the fleet that `trunkline up` starts on this machine."""

    nodes: Annotated[int, about("How many nodes.", ge=1, le=64)] = 2
    port: Annotated[Port, about("The port clients connect to.")] = 8080
    edge: Annotated[Literal["relay", "traefik"], about("What stands before the nodes: our relay or Traefik.")] = "relay"
    data_dir: Annotated[Path, about("Directory for what the parts store.")] = Path(".trunkline")


class Settings(msgspec.Struct, frozen=True):
    """All sections."""

    server: ServerSettings = ServerSettings()
    admin: AdminSettings = AdminSettings()
    limits: LimitsSettings = LimitsSettings()
    channels: ChannelsSettings = ChannelsSettings()
    auth: AuthSettings = AuthSettings()
    bus: BusSettings = BusSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    up: UpSettings = UpSettings()
    balancer: BalancerSettings = BalancerSettings()
    traefik: TraefikSettings = TraefikSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    monitor: MonitorSettings = MonitorSettings()


SECTIONS: dict[str, type[msgspec.Struct]] = {field.name: field.type for field in msgspec.structs.fields(Settings)}
"""The struct class of each section, by name."""

PLAIN_ENVIRONMENT: dict[str, str] = {
    "server.port": "PORT",
    "server.host": "HOST",
    "server.max_connections": "MAX_CONNECTIONS",
    "server.heartbeat_interval_ms": "HEARTBEAT_INTERVAL",
    "server.connection_timeout_ms": "CONNECTION_TIMEOUT",
    "server.pod_name": "POD_NAME",
    "server.pod_ip": "POD_IP",
    "server.node_name": "NODE_NAME",
    "log.level": "LOG_LEVEL",
}
"""Settings whose environment name needs no prefix; the prefixed name works too and wins over the plain one."""
