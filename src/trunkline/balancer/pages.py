"""What a balancer shows of itself: one path in three shapes, by the request's Accept header.

`/balancer-metrics` is JSON for programs, a page for browsers, and Prometheus' text for Prometheus, so that one path
behind one rule of access is enough on the data port, on the admin port and in a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs

import msgspec

from trunkline.balancer.core import Balancer
from trunkline.balancer.measures import EdgeCounts, families
from trunkline.balancer.overview import page, refresh_of, shape_wanted
from trunkline.metrics import text as prometheus_text


class BalancerPages:
    """The balancer's own page."""

    def __init__(self, balancer: Balancer, edge: Callable[[], EdgeCounts]) -> None:
        self._balancer = balancer
        self._edge = edge

    def render(self, query: str, accept: str) -> tuple[str, bytes]:
        """Content type and body, by `format` (json, html, prometheus) and `refresh` (seconds) of the query."""
        chosen = _chosen(query)
        shape = shape_wanted(accept, chosen.get("format"))
        if shape == "prometheus":
            return prometheus_text.CONTENT_TYPE, prometheus_text.render(families(self._balancer, self._edge()))
        found = self._balancer.overview()
        if shape == "html":
            text = page(found, refresh_of(chosen.get("refresh")), self._balancer.settings.mode)
            return "text/html; charset=utf-8", text.encode()
        return "application/json", msgspec.json.encode(found)

    async def render_soon(self, query: str, accept: str) -> tuple[str, bytes]:
        """As `render`, for those who may have to wait for it."""
        return self.render(query, accept)


def _chosen(query: str) -> dict[str, str]:
    try:
        return {name: values[-1] for name, values in parse_qs(query, max_num_fields=20).items()}
    except ValueError:
        return {}  # more fields than the page has options
