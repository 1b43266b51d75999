"""Which nodes there are, by their own reports. Pure.

A node is, as its reports show it:

state     event                                              then
--------  -------------------------------------------------  ------------------------------------------
unknown   it reports                                         present
present   it says goodbye                                    unknown
present   no report for `SILENT_S`                           silent: listed, and given no connections
silent    it reports                                         present
silent    it says goodbye; no report for `forget_s`          unknown
silent    a new node has its name, or its host and port      unknown: the other one has taken its place

Rules:

- Silence alone removes nobody at once: a node that hangs or was killed is to be seen, and alerts on it have to last.
- While NATS is away, and for `SILENT_S` after it is back, no node is taken for silent: it is we who get no reports. The
  same after a stall of this process, for which reports still wait to be read.
- A node that comes back under another URL takes the place of what it was. Two living nodes that share a name are both
  kept, and named.
- Beyond `MOST` nodes no new one is taken; silent ones make way first.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from trunkline.placement.backend import BackendSpec, place_of
from trunkline.protocol.control import NodeReport

SILENT_S: Final = 7.0
"""Three reports and a bit."""

MOST: Final = 2_000
"""Nodes there can be; more are a mistake or an attack."""

REMEMBERED: Final = 1024


class _Heard(NamedTuple):
    spec: BackendSpec
    run: str
    at: float
    silent_at: float = 0.0


class Silence(NamedTuple):
    """URLs of nodes that have just been found silent, and of those that were silent for too long."""

    fell: tuple[str, ...]
    forgotten: tuple[str, ...]


class Announced:
    """The nodes that have reported.

    Args:
        forget_s: after so many seconds without a report a silent node is forgotten.

    Attributes:
        turned_away: reports of nodes beyond `MOST`.
    """

    def __init__(self, forget_s: float) -> None:
        self._forget_s = forget_s
        self._nodes: dict[str, _Heard] = {}
        self._replaced: dict[str, str] = {}
        self._shared: set[str] = set()
        self.turned_away = 0
        self._connected = True
        self._deaf_until = float("-inf")

    @property
    def specs(self) -> tuple[BackendSpec, ...]:
        """The nodes there are now, silent ones included."""
        return tuple(heard.spec for heard in self._nodes.values())

    @property
    def shared(self) -> frozenset[str]:
        """Names that several living nodes have."""
        return frozenset(self._shared)

    def connected(self, connected: bool, now: float) -> None:
        """NATS is back, or gone."""
        self._connected = connected
        self._deaf_until = now + SILENT_S

    def stalled(self, now: float) -> None:
        """This process stood still for a while."""
        self._deaf_until = now + SILENT_S

    def reported(self, report: NodeReport, now: float) -> bool:
        """A node has reported; its URL is spelled as backends are named; returns whether the list has changed."""
        # One without a run is known by its URL.
        run = report.report.run if report.report.run is not msgspec.UNSET else report.url
        if report.leaving:
            present = self._nodes.get(report.url)
            # The goodbye of an earlier process may come after the first report of its successor on the same port, and
            # nodes behind one URL leave one after the other.
            if present is None or present.run != run:
                return False
            del self._nodes[report.url]
            return True
        spec = BackendSpec(report.url, source="nats", name=report.node)
        before = self._nodes.get(report.url)
        changed = before is None or before.spec != spec
        if before is None:
            self._take_place(report, run)
            if len(self._nodes) >= MOST and not self._make_room():
                self.turned_away += 1
                return False
        self._nodes[report.url] = _Heard(spec, run, now)
        return changed

    def look(self, now: float) -> Silence:
        """Find out who has become silent, and who has been for too long."""
        if not self._connected or now < self._deaf_until:
            return Silence((), ())
        fell, forgotten = [], []
        for url, heard in list(self._nodes.items()):
            if not heard.spec.silent:
                if now - heard.at > SILENT_S:
                    fell.append(url)
                    silent = msgspec.structs.replace(heard.spec, silent=True)
                    self._nodes[url] = heard._replace(spec=silent, silent_at=now)
            elif now - heard.silent_at > self._forget_s - SILENT_S:
                forgotten.append(url)
                del self._nodes[url]
        return Silence(tuple(fell), tuple(forgotten))

    def _take_place(self, report: NodeReport, run: str) -> None:
        """A node has a new URL: whoever had its name or its place before is gone, unless it goes on reporting."""
        name = report.node
        if run in self._replaced:
            # It was taken for gone and reports again.
            self._shared.add(name)
        place = place_of(report.url)
        for url, heard in list(self._nodes.items()):
            if heard.spec.name == name and (heard.spec.silent or name not in self._shared):
                del self._nodes[url]
                if heard.run != run:
                    self._replaced[heard.run] = name
            elif heard.spec.silent and _same_place(url, place.host, place.port):
                del self._nodes[url]
        while len(self._replaced) > REMEMBERED:
            del self._replaced[next(iter(self._replaced))]

    def _make_room(self) -> bool:
        """Forget the node that has been silent for longest; false when none is silent."""
        silent = [url for url, heard in self._nodes.items() if heard.spec.silent]
        if not silent:
            return False
        del self._nodes[min(silent, key=lambda url: self._nodes[url].at)]
        return True


def _same_place(url: str, host: str, port: int) -> bool:
    place = place_of(url)
    return place.host == host and place.port == port
