"""Clients that a node asked to move, past Traefik's rate limit: the routers for handshakes that carry a session. Pure.

The limit is a middleware of the routers that match handshakes, and Traefik knows nothing of sessions. So handshakes
with a session have a router of their own, whose one middleware asks the balancer whether that session is expected. The
answer sets a header, by which one of two routers below goes on: with the limit, or without.

Seen with Traefik 3.7.15:

- Three layers work as two do: a router between has parents and children, no service and no entry points.
- forwardAuth deletes the header of the answer from the request, so a client that sends it itself gains nothing.
- Without a balancer the answer has no header: the limit holds for all.
- A rate limit counts by router: of one address, handshakes with a session are counted beside those without.

Handshakes without a session are not asked about, and neither is any while there is no limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trunkline.protocol.sessions import LONGEST, SHORTEST
from trunkline.settings.sections import Settings
from trunkline.traefik.render import dynamic_model as model
from trunkline.traefik.render.dynamic import FAIL_OPEN, PLACE, PLACE_ANSWER_BYTES, RATE

EXPECTED_PATH: Final = "/expected"
"""Where the balancer answers whether a session was asked to move."""

EXPECTED_HEADER: Final = "X-Trunkline-Expected"
_ASK: Final = "trunkline-expected"
_WITH_SESSION: Final = f"QueryRegexp(`session`, `^[A-Za-z0-9_-]{{{SHORTEST},{LONGEST}}}$`)"
_PRIORITY: Final = 10_000
"""Above the router that matches the same handshakes whatever they carry."""


def let_past(
    settings: Settings, routers: Mapping[str, model.Router]
) -> tuple[dict[str, model.Router], dict[str, model.Middleware], dict[str, tuple[str, ...]]]:
    """What handshakes with a session need beside these routers for handshakes.

    Returns routers, middlewares, and by the name of each given router those that stand beside it as parents of what
    it leads to; nothing at all without a rate limit.
    """
    found: dict[str, model.Router] = {}
    beside: dict[str, tuple[str, ...]] = {}
    for name, router in routers.items():
        if RATE not in router.middlewares:
            continue
        asking, past, limited = (f"{name}-{part}" for part in ("session", "expected", "limited"))
        found[asking] = model.Router(
            rule=f"{router.rule} && {_WITH_SESSION}",
            entry_points=router.entry_points,
            middlewares=(_ASK,),
            priority=(router.priority or 0) + _PRIORITY,
        )
        unlimited = tuple(part for part in router.middlewares if part != RATE)
        found[past] = model.Router(
            rule=f"Header(`{EXPECTED_HEADER}`, `1`)", parent_refs=(asking,), middlewares=unlimited, priority=2
        )
        found[limited] = model.Router(
            rule="PathPrefix(`/`)", parent_refs=(asking,), middlewares=router.middlewares, priority=1
        )
        beside[name] = (past, limited)
    if not found:
        return {}, {}, {}
    found[_ASK] = model.Router(
        rule=f"Path(`{EXPECTED_PATH}`)", service=PLACE, entry_points=(FAIL_OPEN,), priority=_PRIORITY
    )
    ask = model.ForwardAuth(
        address=f"http://127.0.0.1:{settings.traefik.fail_open_port}{EXPECTED_PATH}",
        auth_response_headers=(EXPECTED_HEADER,),
        max_response_body_size=PLACE_ANSWER_BYTES,
        trust_forward_header=True,
        # The session is in the target, which comes as X-Forwarded-Uri; an empty list would send every header.
        auth_request_headers=("Sec-WebSocket-Key",),
    )
    return found, {_ASK: model.Middleware(forward_auth=ask)}, beside
