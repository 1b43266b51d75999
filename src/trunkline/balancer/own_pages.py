"""The balancer's own page on the port that clients use: one path, for allowed networks only.

A client that comes through an untrusted proxy has no access, whatever address it claims. In a worker the page
comes from the process that holds the authoritative state.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from trunkline.balancer.hosts import hosts_of, names_of
from trunkline.balancer.overview import CONTENT_SECURITY
from trunkline.http1.heads import PageRequest
from trunkline.http1.requests import Response
from trunkline.net.addresses import networks, within
from trunkline.settings.balancer import BalancerSettings

Render = Callable[[str, str], Awaitable[tuple[str, bytes]]]

FORBIDDEN: Final = Response(403, b"this page is for allowed networks\n")


class OwnPages:
    """The balancer's own page on the data port."""

    def __init__(self, settings: BalancerSettings, render: Render) -> None:
        self._path = settings.balancer_metric_path
        self._hosts = hosts_of(settings)
        self._render = render
        self.reload(settings)

    def reload(self, settings: BalancerSettings) -> None:
        """Be open to the networks of these settings, under their names, from now on."""
        self._networks = networks(settings.metrics_networks)
        self._hosts.rename(names_of(settings))

    def answer(self, request: PageRequest) -> Response | Awaitable[Response] | None:
        """The page, a refusal, or None when it is no page of ours."""
        if request.path != self._path:
            return None
        if request.untrusted or not within(request.address, self._networks):
            return FORBIDDEN
        refusal = self._hosts.network_refusal(request.headers.get("host"))
        if refusal:
            return Response(403, f"{refusal}\n".encode())
        return self._page(request.query, request.headers.get("accept", ""))

    async def _page(self, query: str, accept: str) -> Response:
        content_type, body = await self._render(query, accept)
        headers: Sequence[tuple[str, str]] = (
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", CONTENT_SECURITY),
        )
        return Response(200, body, content_type, headers)
