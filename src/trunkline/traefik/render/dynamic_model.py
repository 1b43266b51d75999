"""Traefik's dynamic configuration as types: only the parts that we write. Pure.

Rules:

- Names are Traefik's own in camelCase, checked against Traefik 3.7; a field that is None or empty is not written, so
  that Traefik's default holds.
- An option without parts, such as `compress`, is an empty struct and is written as `{}`.
"""

from __future__ import annotations

import msgspec


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A piece of Traefik's configuration."""


class Cookie(Part, frozen=True):
    """The sticky cookie; its value is `short_id` of the server's URL."""

    name: str
    http_only: bool | None = None
    secure: bool | None = None
    same_site: str | None = None


class Sticky(Part, frozen=True):
    """Stickiness of a service."""

    cookie: Cookie


class Server(Part, frozen=True):
    """A server of a load balancer. A weight of 0 or less removes it."""

    url: str
    weight: int | None = None


class HealthCheck(Part, frozen=True):
    """The active health check of a service's servers."""

    path: str
    interval: str
    timeout: str


class LoadBalancer(Part, frozen=True):
    """A service made of servers."""

    servers: tuple[Server, ...]
    strategy: str | None = None
    sticky: Sticky | None = None
    health_check: HealthCheck | None = None
    servers_transport: str | None = None
    pass_host_header: bool | None = None


class WeightedService(Part, frozen=True):
    """A child of a weighted service."""

    name: str
    weight: int


class Weighted(Part, frozen=True):
    """A service that splits between services."""

    services: tuple[WeightedService, ...]
    sticky: Sticky | None = None
    # An empty map makes the health of the children count.
    health_check: dict[str, str] | None = None


class FailoverErrors(Part, frozen=True):
    """Which answers of the main service lead to the fallback."""

    status: tuple[str, ...]


class Failover(Part, frozen=True):
    """A service with another in its stead."""

    service: str
    fallback: str
    errors: FailoverErrors | None = None


class Service(Part, frozen=True):
    """One service; exactly one kind is set."""

    load_balancer: LoadBalancer | None = None
    weighted: Weighted | None = None
    failover: Failover | None = None
    middlewares: tuple[str, ...] = ()


class Router(Part, frozen=True):
    """Leads requests that match a rule to a service; of two layers a parent has no service, a child no entry points."""

    rule: str
    service: str = ""
    entry_points: tuple[str, ...] = ()
    parent_refs: tuple[str, ...] = ()
    middlewares: tuple[str, ...] = ()
    priority: int | None = None


class ReplacePathRegex(Part, frozen=True):
    """Replaces the path; the query stays."""

    regex: str
    replacement: str


class IpStrategy(Part, frozen=True):
    """Which address of X-Forwarded-For is the client's."""

    excluded_ips: tuple[str, ...] = msgspec.field(default=(), name="excludedIPs")


class SourceCriterion(Part, frozen=True):
    """By what requests are grouped."""

    ip_strategy: IpStrategy


class RateLimit(Part, frozen=True):
    """Requests of one source per period."""

    average: int
    burst: int
    period: str | None = None
    source_criterion: SourceCriterion | None = None


class Retry(Part, frozen=True):
    """Attempts when a server cannot be reached."""

    attempts: int


class Compress(Part, frozen=True):
    """Compression of plain HTTP answers."""


class CircuitBreaker(Part, frozen=True):
    """Stops using a service that fails."""

    expression: str


class Headers(Part, frozen=True):
    """Headers of answers, and of requests; an empty value removes one."""

    content_type_nosniff: bool | None = None
    frame_deny: bool | None = None
    referrer_policy: str | None = None
    sts_seconds: int | None = None
    custom_request_headers: dict[str, str] | None = None


class ForwardAuth(Part, frozen=True):
    """Requests another service first. What it names of the answer replaces the request's headers, or deletes them."""

    address: str
    trust_forward_header: bool | None = None
    auth_request_headers: tuple[str, ...] = ()
    auth_response_headers: tuple[str, ...] = ()
    max_response_body_size: int | None = None


class BasicAuth(Part, frozen=True):
    """Requires a name and a password."""

    users: tuple[str, ...]


class Middleware(Part, frozen=True):
    """One middleware; exactly one kind is set."""

    replace_path_regex: ReplacePathRegex | None = None
    rate_limit: RateLimit | None = None
    retry: Retry | None = None
    compress: Compress | None = None
    circuit_breaker: CircuitBreaker | None = None
    headers: Headers | None = None
    forward_auth: ForwardAuth | None = None
    basic_auth: BasicAuth | None = None


class ForwardingTimeouts(Part, frozen=True):
    """Times of the way to a server."""

    dial_timeout: str | None = None
    response_header_timeout: str | None = None


class Certificate(Part, frozen=True):
    """A certificate and its key."""

    cert_file: str
    key_file: str


class ServersTransport(Part, frozen=True):
    """How servers are reached."""

    forwarding_timeouts: ForwardingTimeouts | None = None
    insecure_skip_verify: bool | None = None
    root_cas: tuple[str, ...] = msgspec.field(default=(), name="rootCAs")
    certificates: tuple[Certificate, ...] = ()


class Http(Part, frozen=True):
    """Everything of HTTP."""

    routers: dict[str, Router] | None = None
    services: dict[str, Service] | None = None
    middlewares: dict[str, Middleware] | None = None
    servers_transports: dict[str, ServersTransport] | None = None


class CertificateStore(Part, frozen=True):
    """What is shown to clients that no other certificate fits."""

    default_certificate: Certificate


class Certificates(Part, frozen=True):
    """Certificates of one's own."""

    certificates: tuple[Certificate, ...]
    stores: dict[str, CertificateStore]


class Dynamic(Part, frozen=True):
    """A dynamic configuration: what the file and HTTP providers read."""

    http: Http | None = None
    tls: Certificates | None = None
