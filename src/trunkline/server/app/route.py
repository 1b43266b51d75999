"""A declared endpoint as one node serves it: its limits, and what its clients are served with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

import msgspec

from trunkline.http1.requests import Request
from trunkline.server.app.client import Client, Reach
from trunkline.server.app.declaration import Declaration
from trunkline.server.app.endpoint import Endpoint
from trunkline.server.app.refreshing import Refreshing
from trunkline.server.channels.hub import Hub
from trunkline.server.channels.requests import Requests
from trunkline.server.connections.registry import Registry
from trunkline.server.connections.runtime import Runtime
from trunkline.settings.sections import Settings

OnMessage: TypeAlias = Callable[[Client, Any], Awaitable[None] | None]


class Services(NamedTuple):
    """What a node serves all its clients with; `node` is its name."""

    node: str
    runtime: Runtime
    registry: Registry
    hub: Hub
    requests: Requests
    refreshing: Refreshing


class EffectiveLimits(msgspec.Struct, frozen=True):
    """Limits of an endpoint with the settings filled in."""

    message_bytes: int
    rate_burst: float
    rate_per_s: float
    outbox_bytes: int
    deflate_min_bytes: int


class Route:
    """One endpoint of a node; `settings` fill in the limits that its declaration left open."""

    def __init__(self, declaration: Declaration, settings: Settings, services: Services) -> None:
        self.declaration = declaration
        self.path = declaration.path
        self.matches = declaration.matches
        self.services = services
        declared, server, limits = declaration.limits, settings.server, settings.limits
        self.limits = EffectiveLimits(
            server.message_bytes if declared.message_bytes is None else declared.message_bytes,
            limits.rate_burst if declared.rate_burst is None else declared.rate_burst,
            limits.rate_per_s if declared.rate_per_s is None else declared.rate_per_s,
            limits.outbox_bytes if declared.outbox_bytes is None else declared.outbox_bytes,
            server.deflate_min_bytes if declared.deflate_min_bytes is None else declared.deflate_min_bytes,
        )
        handler = declaration.handler
        self.on_message: OnMessage = _ignore
        if isinstance(handler, Endpoint):
            self.on_message = handler.on_message
        self.reach = Reach(services.hub, services.requests, self.limits.deflate_min_bytes)

    @property
    def name(self) -> str:
        """What the application calls the endpoint: a class or a function."""
        handler = self.declaration.handler
        return type(handler).__name__ if isinstance(handler, Endpoint) else handler.__name__

    def admit(self, request: Request) -> Awaitable[None] | None:
        """Let the endpoint decide on a handshake; raises Refused."""
        handler = self.declaration.handler
        return handler.admit(request) if isinstance(handler, Endpoint) else None


def _ignore(client: Client, message: object) -> None:
    """Messages for a function wait in its inbox."""
