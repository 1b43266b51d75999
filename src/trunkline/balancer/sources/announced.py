"""Which nodes there are, by their own reports. Pure.

Rules:

- A node is gone after its goodbye, or when it has not reported for `GONE_S`.
- While NATS is away, and for `GONE_S` after it is back, no node is taken for gone: it is we who get no reports.
- A node that comes back under another URL takes the place of what it was. Two living nodes that share a name are both
  kept, and named.
- Beyond `MOST` nodes no new one is taken.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from trunkline.placement.backend import BackendSpec
from trunkline.protocol.control import NodeReport

GONE_S = 7.0
"""Three reports and a bit."""

MOST = 2_000
"""Nodes there can be; more are a mistake or an attack."""

REMEMBERED = 1024


class _Heard(NamedTuple):
    spec: BackendSpec
    run: str
    at: float


class Announced:
    """The nodes that have reported; `turned_away` counts reports of nodes beyond `MOST`."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Heard] = {}
        self._replaced: dict[str, str] = {}
        self._shared: set[str] = set()
        self.turned_away = 0
        self._connected = True
        self._deaf_until = float("-inf")

    @property
    def specs(self) -> tuple[BackendSpec, ...]:
        """The nodes there are now."""
        return tuple(heard.spec for heard in self._nodes.values())

    @property
    def shared(self) -> frozenset[str]:
        """Names that several living nodes have."""
        return frozenset(self._shared)

    def connected(self, connected: bool, now: float) -> None:
        """NATS is back, or gone."""
        self._connected = connected
        self._deaf_until = now + GONE_S

    def reported(self, report: NodeReport, now: float) -> bool:
        """A node has reported; its URL is spelled as backends are named; returns whether the list has changed."""
        run = report.report.run if report.report.run is not msgspec.UNSET else ""
        if report.leaving:
            present = self._nodes.get(report.url)
            # The goodbye of an earlier process may come after the first report of its successor on the same port.
            if present is None or (present.run != run and present.spec.name == report.node):
                return False
            del self._nodes[report.url]
            return True
        spec = BackendSpec(report.url, source="nats", name=report.node)
        before = self._nodes.get(report.url)
        changed = before is None or before.spec != spec
        if before is None:
            if len(self._nodes) >= MOST:
                self.turned_away += 1
                return False
            self._take_place(report.node, run)
        self._nodes[report.url] = _Heard(spec, run, now)
        return changed

    def expire(self, now: float) -> tuple[str, ...]:
        """Forget nodes that were silent for too long; returns their URLs."""
        if not self._connected or now < self._deaf_until:
            return ()
        gone = tuple(url for url, heard in self._nodes.items() if now - heard.at > GONE_S)
        for url in gone:
            del self._nodes[url]
        return gone

    def _take_place(self, name: str, run: str) -> None:
        """A node of this name has a new URL: what had the name before is gone, unless it goes on reporting."""
        if run in self._replaced:
            # It was taken for gone and reports again.
            self._shared.add(name)
        if name in self._shared:
            return
        for url, heard in list(self._nodes.items()):
            if heard.spec.name == name:
                del self._nodes[url]
                if heard.run != run:
                    self._replaced[heard.run] = name
        while len(self._replaced) > REMEMBERED:
            del self._replaced[next(iter(self._replaced))]
