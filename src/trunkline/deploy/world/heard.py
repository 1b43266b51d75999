"""What nodes say of themselves over the bus, kept by name and address. Pure.

Rules:

- A node counts as heard for `HEARD_S` after its last report; nodes report every two seconds and at each change.
- A node that leaves in order is forgotten at once.
"""

from __future__ import annotations

from typing import Final

from trunkline.protocol.control import NodeReport

HEARD_S: Final = 10.0
MOST: Final = 10_000


class Heard:
    """The newest report of each node; `at` is always monotonic time."""

    __slots__ = ("_reports",)

    def __init__(self) -> None:
        self._reports: dict[str, tuple[NodeReport, float]] = {}

    def reported(self, report: NodeReport, at: float) -> None:
        """A node has reported."""
        self._reports.pop(report.node, None)  # the newest is last
        if report.leaving:
            return
        if len(self._reports) >= MOST:
            del self._reports[next(iter(self._reports))]
        self._reports[report.node] = report, at

    def find(self, url: str, name: str, at: float) -> NodeReport | None:
        """The node that a balancer knows by this address, None when none was heard lately; `name` empty: any name."""
        if name:
            report, heard_at = self._reports.get(name, (None, 0.0))
            return report if at - heard_at < HEARD_S else None
        wanted = _plain(url)
        for report, heard_at in reversed(self._reports.values()):
            if at - heard_at < HEARD_S and _plain(report.url) == wanted:
                return report
        return None


def _plain(url: str) -> str:
    return url.lower().rstrip("/")
