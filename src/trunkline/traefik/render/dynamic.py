"""Traefik's dynamic configuration from our settings: routes, services, middlewares, each only when set. Pure.

Rules:

- With `traefik.steer` the balancer publishes its servers, and `layers.layered` makes of `dynamic` the two layers by
  which Traefik obeys a pick. Without, `dynamic` is made of `balancer.backends`, and Traefik balances by itself.
- What must live without the balancer (certificates, dashboard) is `file_dynamic`'s.
- `pick` stands inside `retry`, so that each attempt gets a pick; the other way round a dead server is tried again.
- `pick` stands before the rewriting of paths, so that the balancer sees the path that its own routes name.
- Without steering equal weights and a health check take Traefik's p2c, which counts open WebSockets. All else takes
  wrr: p2c ignores weights, and a dead server has the fewest connections, so p2c tries it again at every attempt until a
  check finds out (seen with two servers, one dead, three attempts: 12 of 60 requests lost, with wrr none).
- On loopback routes that name no host are for the names that `net/hosts.py` serves there, and for what a trusted proxy
  forwarded: Traefik drops everybody else's X-Forwarded-For before it looks at rules. With `traefik.steer` the balancer
  answers the rest (`UNSERVED`); without, Traefik's 404 does.
- No passive health check: Traefik's counts an answer of 500 as a failure, so one broken page takes every server away.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from trunkline.errors import SettingsError
from trunkline.net.addresses import is_loopback
from trunkline.placement.backend import canonical_url, short_id
from trunkline.settings.balancer import DEFAULT_ROUTES, BalancerSettings, RouteEntry
from trunkline.settings.quantities import go_duration
from trunkline.settings.sections import Settings
from trunkline.traefik.render import dynamic_model as model

WEB, WEBSECURE, FAIL_OPEN = "web", "websecure", "trunkline-fail-open"
PING = "ping"
PICK, PLACE, READY, UNSERVED = "trunkline-pick", "trunkline-place", "trunkline-ready", "trunkline-unserved"
RATE = "trunkline-rate"
UNSERVED_PATH = "/traefik/unserved"
"""Where the balancer answers requests for a host that is not served."""

NODES, TO_BALANCER, DASHBOARD = "trunkline-nodes", "trunkline-balancer", "trunkline-dashboard"

# Traefik keeps the highest ones for itself; the redirect to TLS is above all of ours.
_DASHBOARD_PRIORITY = 100_000
_FIRST_ROUTE_PRIORITY = 10_000
_LAST_PRIORITY = 1

_LOOPBACK_NAMES = ("localhost", r".+\.localhost", r"127(\.[0-9]+){3}", "::1")

PLACE_ANSWER_TIMEOUT_MS = 2_000
PLACE_DIAL_TIMEOUT_MS = 500
PLACE_ANSWER_BYTES = 65_536
AUTH_ANSWER_BYTES = 1_048_576
"""What an authentication service may answer, such as a page for those it refuses. Above it the client gets 401."""

_HSTS_S = 31_536_000


class ServerView(msgspec.Struct, frozen=True):
    """A server that may be published.

    Attributes:
        url: its canonical URL.
        weight: its share beside the others; one with 0 is left out, as Traefik would.
        pool: the pool of its routes, empty for the pool of every route that names none.
    """

    url: str
    weight: float = 1.0
    group: str = ""
    pool: str = ""


def dynamic(settings: Settings, servers: Sequence[ServerView]) -> model.Dynamic:
    """The routing for `servers`, those known to be down left out; raises SettingsError for what Traefik cannot do.

    With `traefik.steer` it is not complete: `layers.layered` adds how a pick is answered (the service `PLACE`) and how
    it is obeyed.
    """
    routes = (*settings.balancer.routes, *DEFAULT_ROUTES)
    services = _services(settings, servers, routes)
    middlewares = _shared_middlewares(settings)
    shared = tuple(middlewares)
    own_hosts = _own_hosts(settings)
    routers: dict[str, model.Router] = {}
    for index, route in enumerate(routes):
        name = f"trunkline-{index}"
        own = shared
        if route.rewrite is not None:
            middlewares[f"{name}-rewrite"] = model.Middleware(replace_path_regex=_rewriting(route))
            own = (*shared, f"{name}-rewrite")
        routers[name] = model.Router(
            rule=rule_of(route, settings.traefik.domain, own_hosts),
            service=_service_name(route.pool),
            entry_points=_client_entry_points(settings),
            middlewares=own,
            priority=_FIRST_ROUTE_PRIORITY - index,
        )
    if settings.traefik.ping_port and servers:
        # Without routes, which come with the first fetch, there is a 404 here: /ping answers before.
        routers[READY] = model.Router(
            rule="Path(`/ready`)", service="ping@internal", entry_points=(PING,), priority=_FIRST_ROUTE_PRIORITY
        )
    if settings.traefik.steer:
        routers[PLACE] = model.Router(
            rule="Path(`/place`)", service=PLACE, entry_points=(FAIL_OPEN,), priority=_FIRST_ROUTE_PRIORITY
        )
        services[TO_BALANCER] = model.Service(
            load_balancer=model.LoadBalancer(
                servers=(model.Server(url=balancer_url(settings)),),
                servers_transport=TO_BALANCER,
                # It is on loopback, and serves no name of a client's.
                pass_host_header=False,
            )
        )
        if own_hosts:
            middlewares[UNSERVED] = model.Middleware(
                replace_path_regex=model.ReplacePathRegex(regex="^.*$", replacement=UNSERVED_PATH)
            )
            routers[UNSERVED] = model.Router(
                rule="PathPrefix(`/`)",
                service=TO_BALANCER,
                entry_points=_client_entry_points(settings),
                middlewares=(UNSERVED,),
                priority=_LAST_PRIORITY,
            )
    return model.Dynamic(
        http=model.Http(
            routers=routers,
            services=services,
            middlewares=middlewares or None,
            servers_transports=_servers_transports(settings),
        )
    )


def file_dynamic(settings: Settings) -> model.Dynamic:
    """What Traefik reads from a file: without steering everything, with it only what needs no balancer.

    Raises SettingsError for what Traefik cannot do.
    """
    traefik = settings.traefik
    http: model.Http | None = None
    if not traefik.steer:
        http = dynamic(settings, _listed(settings)).http
    if traefik.dashboard_host:
        if not traefik.dashboard_users:
            raise SettingsError("traefik.dashboard_users", allowed="a dashboard needs at least one user who may see it")
        http = http or model.Http()
        users = tuple(f"{user.name}:{user.hash}" for user in traefik.dashboard_users)
        router = model.Router(
            rule=f"Host(`{traefik.dashboard_host}`)",
            service="api@internal",
            entry_points=_client_entry_points(settings)[-1:],
            middlewares=(f"{DASHBOARD}-users",),
            priority=_DASHBOARD_PRIORITY,
        )
        http = msgspec.structs.replace(
            http,
            routers={DASHBOARD: router, **(http.routers or {})},
            middlewares={
                f"{DASHBOARD}-users": model.Middleware(basic_auth=model.BasicAuth(users=users)),
                **(http.middlewares or {}),
            },
        )
    return model.Dynamic(http=http, tls=_certificates(settings))


def balancer_url(settings: Settings) -> str:
    """Where Traefik finds the balancer; raises SettingsError where nobody can know its port."""
    if not settings.traefik.balancer_url and not settings.balancer.port:
        raise SettingsError("balancer.port", value="0", allowed="Traefik needs a port, or traefik.balancer_url")
    return canonical_url(settings.traefik.balancer_url or f"http://127.0.0.1:{settings.balancer.port}")


def encode_json(configuration: model.Dynamic) -> bytes:
    """The configuration as the HTTP provider takes it; the same configuration always gives the same bytes."""
    return msgspec.json.encode(configuration)


def rule_of(route: RouteEntry, domain: str, own_hosts: str = "") -> str:
    """Traefik's rule for a route: /api does not hold /apis.

    `domain` is of routes that name no host; the rule `own_hosts` is of those for which neither names one.
    """
    path = route.path.rstrip("/")
    parts = []
    # Traefik compares names in small letters.
    host = (route.host or domain).lower()
    if host.startswith("*."):
        parts.append(f"HostRegexp(`^.+{re.escape(host[1:])}$`)")
    elif host not in ("", "*"):
        parts.append(f"Host(`{host}`)")
    elif own_hosts:
        parts.append(own_hosts)
    # One part of the rule is enough for the root, for every path begins with it.
    parts.append(f"(Path(`{path}`) || PathPrefix(`{path}/`))" if path else "PathPrefix(`/`)")
    return " && ".join(parts)


def _own_hosts(settings: Settings) -> str:
    """The rule for hosts where none is named, empty for any."""
    hosts = settings.balancer.hosts
    if not is_loopback(settings.traefik.host) or "*" in hosts:
        return ""
    named = (re.escape(host.strip("[]").lower()) for host in hosts)
    names = "|".join([*_LOOPBACK_NAMES, *(name.replace(r"\*", ".+") for name in named)])
    return rf"(HostRegexp(`^\[?({names})\]?\.?$`) || HeaderRegexp(`X-Forwarded-For`, `.`))"


def _client_entry_points(settings: Settings) -> tuple[str, ...]:
    if not settings.traefik.https_port:
        return (WEB,)
    # With the redirect nothing else is ever served on plain HTTP.
    return (WEBSECURE,) if settings.traefik.redirect else (WEB, WEBSECURE)


def _shared_middlewares(settings: Settings) -> dict[str, model.Middleware]:
    """The middlewares of every route, in the order in which a request meets them."""
    traefik = settings.traefik
    found: dict[str, model.Middleware] = {}
    if traefik.rate_per_s > 0:
        found[RATE] = model.Middleware(rate_limit=_rate_limit(settings))
    if traefik.security_headers:
        found["trunkline-headers"] = model.Middleware(
            headers=model.Headers(
                content_type_nosniff=True,
                frame_deny=True,
                referrer_policy="strict-origin-when-cross-origin",
                sts_seconds=_HSTS_S if traefik.https_port else None,
            )
        )
    if traefik.compress:
        found["trunkline-compress"] = model.Middleware(compress=model.Compress())
    if traefik.forward_auth:
        found["trunkline-auth"] = model.Middleware(
            forward_auth=model.ForwardAuth(
                address=traefik.forward_auth,
                auth_response_headers=traefik.forward_auth_headers,
                max_response_body_size=AUTH_ANSWER_BYTES,
                # The entry point has dropped forwarding headers that are not to be trusted. Without this the service
                # would take the proxy before Traefik for the client.
                trust_forward_header=True,
            )
        )
    if traefik.circuit_breaker:
        found["trunkline-breaker"] = model.Middleware(
            circuit_breaker=model.CircuitBreaker(expression=traefik.circuit_breaker)
        )
    if traefik.retry_attempts:
        found["trunkline-retry"] = model.Middleware(retry=model.Retry(attempts=traefik.retry_attempts))
    if traefik.steer:
        found[PICK] = model.Middleware(
            forward_auth=model.ForwardAuth(
                address=f"http://127.0.0.1:{traefik.fail_open_port}/place", max_response_body_size=PLACE_ANSWER_BYTES
            )
        )
    return found


def _rate_limit(settings: Settings) -> model.RateLimit:
    rate, proxies = settings.traefik.rate_per_s, settings.traefik.trusted_proxies
    # Traefik takes whole numbers per period only, and 0 would be no limit at all.
    average, period = max(1, round(rate * 3600)), "1h"
    for seconds, text in ((1, "1s"), (60, "1m")):
        if (rate * seconds).is_integer():
            average, period = int(rate * seconds), text
            break
    return model.RateLimit(
        average=average,
        burst=max(1, round(settings.traefik.rate_burst)),
        period=period,
        source_criterion=(
            model.SourceCriterion(ip_strategy=model.IpStrategy(excluded_ips=proxies)) if proxies else None
        ),
    )


def _rewriting(route: RouteEntry) -> model.ReplacePathRegex:
    old, new = route.path.rstrip("/"), (route.rewrite or "/").rstrip("/")
    # `$` is the only sign with a meaning in a replacement. A bare "/" in its place would leave an empty path.
    replacement = new.replace("$", "$$")
    if not new:
        return model.ReplacePathRegex(regex=f"^{re.escape(old)}/?(.*)$", replacement="/$1")
    return model.ReplacePathRegex(regex=f"^{re.escape(old)}(/.*)?$", replacement=f"{replacement}$1")


def _service_name(pool: str, group: str = "") -> str:
    name = NODES
    for part in (pool, group):
        if not part:
            continue
        plain = re.sub(r"[^A-Za-z0-9-]", "-", part)
        # A name that lost a sign keeps apart from another that lost a different one.
        name += f"-{plain}" if plain == part else f"-{plain}-{short_id(part)[:6]}"
    return name


def _services(
    settings: Settings, servers: Sequence[ServerView], routes: Sequence[RouteEntry]
) -> dict[str, model.Service]:
    """A service for each pool that a route names; without steering one for each canary group of it."""
    found: dict[str, model.Service] = {}
    splits = settings.balancer.groups if not settings.traefik.steer else ()
    for pool in dict.fromkeys(route.pool for route in routes):
        name = _service_name(pool)
        members = [server for server in servers if server.pool == pool and server.weight > 0]
        if not splits:
            found[name] = _load_balancer(settings, members)
            continue
        children = []
        for split in splits:
            of_group = [server for server in members if server.group == split.name]
            # A child with no server would answer 503 to its whole share.
            if of_group and split.weight > 0:
                child = _service_name(pool, split.name)
                found[child] = _load_balancer(settings, of_group)
                children.append((child, split.weight))
        weights = _whole([weight for _, weight in children])
        found[name] = model.Service(
            weighted=model.Weighted(
                services=tuple(
                    model.WeightedService(name=child, weight=weight)
                    for (child, _), weight in zip(children, weights, strict=True)
                ),
                sticky=_sticky(settings, "_group"),
                health_check={} if settings.traefik.health_path else None,
            )
        )
    return found


def _load_balancer(settings: Settings, members: Sequence[ServerView]) -> model.Service:
    traefik = settings.traefik
    weights = _whole([server.weight for server in members])
    even = len(set(weights)) < 2
    return model.Service(
        load_balancer=model.LoadBalancer(
            servers=tuple(
                model.Server(url=server.url, weight=None if even else weight)
                for server, weight in zip(members, weights, strict=True)
            ),
            strategy="p2c" if even and traefik.health_path and not traefik.steer else "wrr",
            sticky=_sticky(settings),
            health_check=(
                model.HealthCheck(
                    path=traefik.health_path,
                    interval=go_duration(traefik.health_interval_ms),
                    timeout=go_duration(traefik.health_timeout_ms),
                )
                if traefik.health_path
                else None
            ),
            servers_transport=NODES,
        )
    )


def _sticky(settings: Settings, suffix: str = "") -> model.Sticky | None:
    traefik = settings.traefik
    if not traefik.sticky_cookie:
        return None
    return model.Sticky(
        cookie=model.Cookie(
            name=traefik.sticky_cookie + suffix,
            http_only=True,
            secure=bool(traefik.https_port),
            same_site=traefik.same_site,
        )
    )


def _whole(weights: Sequence[float]) -> list[int]:
    """Weights in whole numbers, as Traefik takes them, none of them 0."""
    scale = 1 if all(float(weight).is_integer() for weight in weights) else 100
    return [max(1, round(weight * scale)) for weight in weights]


def _servers_transports(settings: Settings) -> dict[str, model.ServersTransport]:
    balancer = settings.balancer
    found = {
        NODES: model.ServersTransport(
            forwarding_timeouts=model.ForwardingTimeouts(dial_timeout=go_duration(settings.traefik.dial_timeout_ms)),
            insecure_skip_verify=None if balancer.tls_verify else True,
            root_cas=() if balancer.tls_ca_file is None else (str(balancer.tls_ca_file),),
            certificates=_shown(balancer),
        )
    }
    if settings.traefik.steer:
        found[TO_BALANCER] = model.ServersTransport(
            forwarding_timeouts=model.ForwardingTimeouts(
                dial_timeout=go_duration(PLACE_DIAL_TIMEOUT_MS),
                response_header_timeout=go_duration(PLACE_ANSWER_TIMEOUT_MS),
            )
        )
    return found


def _shown(balancer: BalancerSettings) -> tuple[model.Certificate, ...]:
    """What servers are shown."""
    cert, key = balancer.tls_client_cert_file, balancer.tls_client_key_file
    return () if cert is None else (model.Certificate(str(cert), str(key or cert)),)


def _listed(settings: Settings) -> list[ServerView]:
    """The backends of the list, which is all that is known without a balancer."""
    balancer = settings.balancer
    if not balancer.backends:
        raise SettingsError(
            "balancer.backends", value="[]", allowed="without traefik.steer Traefik's servers come from this list"
        )
    groups = {group.name for group in balancer.groups}
    for index, backend in enumerate(balancer.backends):
        if groups and backend.group not in groups:
            raise SettingsError(
                f"balancer.backends[{index}].group",
                value=backend.group,
                allowed=f"without traefik.steer each backend needs one of {', '.join(sorted(groups))}",
            )
    return [
        ServerView(canonical_url(backend.url), backend.weight, backend.group, backend.pool)
        for backend in balancer.backends
    ]


def _certificates(settings: Settings) -> model.Certificates | None:
    traefik = settings.traefik
    if (traefik.cert_file is None) != (traefik.key_file is None):
        missing = "traefik.key_file" if traefik.key_file is None else "traefik.cert_file"
        raise SettingsError(missing, allowed="a certificate and its key go together")
    if traefik.cert_file is None or traefik.key_file is None:
        return None
    own = model.Certificate(cert_file=str(traefik.cert_file), key_file=str(traefik.key_file))
    return model.Certificates(certificates=(own,), stores={"default": model.CertificateStore(default_certificate=own)})
