"""Routing in two layers, so that a pick steers Traefik and its absence does no harm. Pure.

The first layer's routers match requests as without steering, and request a pick (forwardAuth). The answer sets one
header, `X-Trunkline-Pick`, and the second layer's routers match it: one router and one service for each server, and
one for whatever carries no pick, which leads to the service in which Traefik balances by itself.

Seen with Traefik 3.7.15:

- `parentRefs` works in the HTTP provider. `[retry, pick]` on the parent picks for each attempt. 200 children cost
  nothing that could be measured (p50 1.11 ms to connect with 3, 1.05 ms with 203).
- forwardAuth deletes from the request whatever `authResponseHeaders` names and the answer lacks. A pick carried in
  `Cookie` therefore loses the client's cookies as soon as anything but the balancer answers (`ping@internal` does), and
  nothing inside Traefik can echo them. With a header of its own only that header is lost, a client's forged one
  included, and cookies are never touched. This is why there are two layers.
- `addAuthCookiesToResponse` sets nothing on a 101. A sticky cookie of the service does: so stickiness is Traefik's own
  cookie on each server's service, whose value is `short_id` of the URL, and Traefik obeys it too while the balancer is
  gone.
- A `failover` on the way to the balancer swallows the statuses that `errors` names. All but 503 are named: a balancer
  that is gone is a 502, one that hangs a 504, a fault of it a 500, a head that is too long for it a 400, and a wrong
  `traefik.networks` a 403.
- The fail-open entry point has to trust loopback, or it drops the X-Forwarded headers that forwardAuth sends.
- After the request's head was written to a server there is no further attempt: only failed dials are retried.

Plain HTTP requests picks only on routes with affinity: elsewhere there is nothing to place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from trunkline.placement.backend import short_id
from trunkline.settings.balancer import DEFAULT_ROUTES, RouteEntry
from trunkline.settings.quantities import go_duration
from trunkline.settings.sections import Settings
from trunkline.traefik.render import dynamic as render
from trunkline.traefik.render import dynamic_model as model
from trunkline.traefik.render.dynamic import PICK
from trunkline.traefik.steer.expected import EXPECTED_HEADER, let_past
from trunkline.traefik.steer.published import Servers, marks

PICK_HEADER: Final = "X-Trunkline-Pick"
LOADED: Final = "loaded"
"""The parameter of a question that says which servers the asking Traefik has loaded."""

FULL_STATUS: Final = 503
"""The one refusal that reaches a client; after every other status but 200 Traefik balances by itself."""

_NO_ANSWER: Final = ("300-502", "504-599")
_WEBSOCKET: Final = "HeaderRegexp(`Upgrade`, `(?i)websocket`)"
_TO, _AT, _REST = "trunkline-to", "trunkline-at", "rest"
_FORGET = "trunkline-forget"
_PICKED = "trunkline-picked"
_PICKED_PRIORITY, _REST_PRIORITY = 2, 1
# Above every router for plain HTTP, which match handshakes too, and below the dashboard.
_WEBSOCKET_PRIORITY = 10_000


def layered(settings: Settings, servers: Servers) -> model.Dynamic:
    """The configuration of a Traefik that is steered; raises SettingsError for what Traefik cannot do."""
    routes: Sequence[RouteEntry] = (*settings.balancer.routes, *DEFAULT_ROUTES)
    flat = render.dynamic(settings, servers.open)
    http = flat.http or model.Http()
    routers: dict[str, model.Router] = {}
    parents: dict[str, list[str]] = {}
    pools: dict[str, str] = {}
    for name, router in (http.routers or {}).items():
        if PICK not in router.middlewares:
            routers[name] = router
            continue
        # `render.dynamic` numbers the routers by their routes.
        route = routes[int(name.rpartition("-")[2])]
        pools[route.pool] = router.service
        parents.setdefault(router.service, []).append(f"{name}-ws")
        routers[f"{name}-ws"] = _parent(
            router, f"{router.rule} && {_WEBSOCKET}", (router.priority or 0) + _WEBSOCKET_PRIORITY
        )
        if (route.policy or settings.balancer.policy) == "affinity":
            parents[router.service].append(name)
            routers[name] = _parent(router, router.rule, router.priority)
        else:
            unasked = tuple(part for part in router.middlewares if part != PICK)
            routers[name] = msgspec.structs.replace(router, middlewares=unasked)
    handshakes = {name: router for name, router in routers.items() if name.endswith("-ws")}
    more, asking, beside = let_past(settings, handshakes)
    routers |= more
    for service, names in parents.items():
        parents[service] = [each for name in names for each in (name, *beside.get(name, ()))]
    services = {name: _with_sticky(settings, service) for name, service in (http.services or {}).items()}
    services[render.PLACE] = model.Service(
        failover=model.Failover(
            service=render.TO_BALANCER, fallback="ping@internal", errors=model.FailoverErrors(status=_NO_ANSWER)
        )
    )
    for service, names in parents.items():
        routers[f"{service}-{_REST}"] = model.Router(
            rule="PathPrefix(`/`)",
            service=service,
            parent_refs=tuple(names),
            middlewares=(_FORGET,),
            priority=_REST_PRIORITY,
        )
    for server in servers.pickable:
        if server.pool not in pools:
            continue  # no route leads there
        place = short_id(server.url)
        routers[f"{_TO}-{place}"] = model.Router(
            rule=f"Header(`{PICK_HEADER}`, `{place}`)",
            service=f"{_AT}-{place}",
            parent_refs=tuple(parents[pools[server.pool]]),
            middlewares=(_FORGET,),
            priority=_PICKED_PRIORITY,
        )
        # No health check: the balancer picked it, and the pool's service checks it already.
        alone = model.LoadBalancer(servers=(model.Server(url=server.url),), servers_transport=_PICKED)
        services[f"{_AT}-{place}"] = _with_sticky(settings, model.Service(load_balancer=alone))
    return msgspec.structs.replace(
        flat,
        http=msgspec.structs.replace(
            http,
            routers=routers,
            services=services,
            middlewares={**(http.middlewares or {}), **_middlewares(settings, marks(servers.pickable)), **asking},
            servers_transports={**(http.servers_transports or {}), _PICKED: _transport(settings, http)},
        ),
    )


def _parent(router: model.Router, rule: str, priority: int | None) -> model.Router:
    return model.Router(rule=rule, entry_points=router.entry_points, middlewares=router.middlewares, priority=priority)


def _middlewares(settings: Settings, loaded: str) -> dict[str, model.Middleware]:
    asked = f"?{LOADED}={loaded}" if loaded else ""
    return {
        PICK: model.Middleware(
            forward_auth=model.ForwardAuth(
                address=f"http://127.0.0.1:{settings.traefik.fail_open_port}/place{asked}",
                auth_response_headers=(PICK_HEADER,),
                max_response_body_size=render.PLACE_ANSWER_BYTES,
                # The entry point has dropped forwarding headers that are not to be trusted.
                trust_forward_header=True,
                auth_request_headers=_forwarded(settings),
            )
        ),
        # The server need not know which one was picked, and why it was let past.
        _FORGET: model.Middleware(headers=model.Headers(custom_request_headers={PICK_HEADER: "", EXPECTED_HEADER: ""})),
    }


def _forwarded(settings: Settings) -> tuple[str, ...]:
    """The request's headers that the balancer gets beside X-Forwarded-*: those it places by, and no credentials."""
    balancer = settings.balancer
    wanted = {"Sec-WebSocket-Key"}
    if balancer.sticky_cookie:
        wanted.add("Cookie")
    for route in (*balancer.routes, *DEFAULT_ROUTES):
        kind, _, name = (route.affinity or balancer.affinity).partition(":")
        if kind == "cookie":
            wanted.add("Cookie")
        elif kind == "header":
            wanted.add(name)
    return tuple(sorted(wanted))


def _with_sticky(settings: Settings, service: model.Service) -> model.Service:
    balancer = service.load_balancer
    if balancer is None or balancer.servers_transport == render.TO_BALANCER:
        return service
    name = settings.balancer.sticky_cookie
    sticky = None
    if name:
        cookie = model.Cookie(
            name=name,
            http_only=True,
            secure=settings.balancer.sticky_secure,
            same_site=settings.balancer.sticky_same_site,
        )
        sticky = model.Sticky(cookie=cookie)
    return msgspec.structs.replace(service, load_balancer=msgspec.structs.replace(balancer, sticky=sticky))


def _transport(settings: Settings, http: model.Http) -> model.ServersTransport:
    """As to all servers, but one that takes the handshake and never answers does not hold the client for ever."""
    times = model.ForwardingTimeouts(
        dial_timeout=go_duration(settings.traefik.dial_timeout_ms),
        response_header_timeout=go_duration(settings.balancer.handshake_timeout_ms),
    )
    shared = (http.servers_transports or {}).get(render.NODES, model.ServersTransport())
    return msgspec.structs.replace(shared, forwarding_timeouts=times)
