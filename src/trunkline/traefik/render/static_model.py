"""Traefik's static configuration as types: only the parts that we write, by the rules of `dynamic_model`. Pure."""

from __future__ import annotations

import msgspec

from trunkline.traefik.render.dynamic_model import Part, Tls


class RedirectTo(Part, frozen=True):
    """Where an entry point sends all its requests."""

    to: str
    scheme: str


class Redirections(Part, frozen=True):
    """Redirects of an entry point."""

    entry_point: RedirectTo


class EntryPointHttp(Part, frozen=True):
    """HTTP of an entry point."""

    redirections: Redirections | None = None
    tls: Tls | None = None
    alias_headers_strategy: str | None = None


class LifeCycle(Part, frozen=True):
    """What happens when Traefik stops."""

    grace_time_out: str


class Transport(Part, frozen=True):
    """Time-outs of an entry point."""

    life_cycle: LifeCycle | None = None


class ForwardedHeaders(Part, frozen=True):
    """Whose forwarding headers are kept."""

    trusted_ips: tuple[str, ...] = msgspec.field(default=(), name="trustedIPs")


class EntryPoint(Part, frozen=True):
    """A port that Traefik listens on."""

    address: str
    http: EntryPointHttp | None = None
    transport: Transport | None = None
    forwarded_headers: ForwardedHeaders | None = None


class FileProvider(Part, frozen=True):
    """Dynamic configuration from a file, read again when it changes."""

    filename: str
    watch: bool


class HttpProvider(Part, frozen=True):
    """Dynamic configuration from the balancer."""

    endpoint: str
    poll_interval: str
    poll_timeout: str


class Providers(Part, frozen=True):
    """Where dynamic configuration comes from."""

    providers_throttle_duration: str | None = None
    file: FileProvider | None = None
    http: HttpProvider | None = None


class HttpChallenge(Part, frozen=True):
    """Proves a host name over plain HTTP."""

    entry_point: str


class Acme(Part, frozen=True):
    """Certificates by ACME."""

    email: str
    storage: str
    http_challenge: HttpChallenge
    ca_server: str | None = None


class CertificatesResolver(Part, frozen=True):
    """A source of certificates."""

    acme: Acme


class Api(Part, frozen=True):
    """The API and the dashboard, reached through a router alone."""

    dashboard: bool


class Log(Part, frozen=True):
    """Traefik's own log."""

    level: str


class FieldMode(Part, frozen=True):
    """What becomes of a kind of fields."""

    default_mode: str


class AccessLogFields(Part, frozen=True):
    """What becomes of the fields of the access log."""

    query_parameters: FieldMode


class AccessLog(Part, frozen=True):
    """The log of requests."""

    format: str
    file_path: str | None = None
    fields: AccessLogFields | None = None


class Prometheus(Part, frozen=True):
    """Metrics for Prometheus."""

    entry_point: str
    add_routers_labels: bool | None = None


class Metrics(Part, frozen=True):
    """Metrics."""

    prometheus: Prometheus


class Ping(Part, frozen=True):
    """The /ping of an entry point."""

    entry_point: str


class Global(Part, frozen=True):
    """What Traefik tells its makers."""

    check_new_version: bool
    send_anonymous_usage: bool


class Static(Part, frozen=True):
    """The static configuration: what Traefik reads once, at its start."""

    entry_points: dict[str, EntryPoint]
    providers: Providers
    global_: Global = msgspec.field(name="global")
    log: Log
    certificates_resolvers: dict[str, CertificatesResolver] | None = None
    api: Api | None = None
    access_log: AccessLog | None = None
    metrics: Metrics | None = None
    ping: Ping | None = None
