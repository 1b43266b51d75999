"""The load reports of several pods behind one URL (a Service, a load balancer), kept apart and added up. Pure.

state    event                                                         then
-------  ------------------------------------------------------------  -------------------------------------------------
one      a pod reports whose name is new                               one: it has taken the place of the one before
one      a pod reports again, requested after another one had          several: both are there, and the next ones too
several  a pod was not heard in `PATIENCE` x as many reports as pods   it is forgotten; with the last but one: one

Rules:

- What tells pods apart is a node's run, else podName and podIP. A backend that names none of them is one.
- Of one pod the report counts as it is; of several only what adds up is left, so they are counted as a foreign backend.
- Their state is draining when all of them are; capacity is known when all report it, the version when all report one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from trunkline.protocol.control import LoadReport

PATIENCE: Final = 5
"""Reports, for each pod, without one of a pod until that is forgotten: one in 150 times it is still there."""

MOST: Final = 200
"""Pods of one URL; the one that was not heard for longest makes way."""


class _Pod(NamedTuple):
    report: LoadReport
    asked_at: float
    heard_at: float
    number: int


class Pods:
    """The pods behind one URL."""

    __slots__ = ("_known", "_newest", "_number", "_several")

    def __init__(self) -> None:
        self._known: dict[str, _Pod] = {}
        self._newest = ""
        self._number = 0
        self._several = False

    @property
    def reports(self) -> tuple[LoadReport, ...]:
        """The newest report of each pod that counts."""
        if not self._several:
            found = self._known.get(self._newest)
            return () if found is None else (found.report,)
        return tuple(pod.report for pod in self._known.values())

    def take(self, report: LoadReport, kept: LoadReport, asked_at: float, now: float) -> LoadReport | None:
        """What is to be counted after `report`; None when a newer one of its pod is known.

        `kept` is what may be remembered of it, which is less.
        """
        name = report.run if isinstance(report.run, str) else f"{report.podName or ''} {report.podIP or ''}"
        before = self._known.get(name)
        if self._several and before is not None and asked_at < before.asked_at:
            return None
        if before is not None and name != self._newest and not self._several:
            if asked_at < self._known[self._newest].heard_at:
                # Late, of one that may be gone: whoever counts knows the order of runs.
                return report
            self._several = True
        self._number += 1
        self._newest = name
        self._known[name] = _Pod(kept, asked_at, now, self._number)
        self._forget()
        return self._sum(kept) if self._several else report

    def _forget(self) -> None:
        patience = PATIENCE * len(self._known)
        for name, pod in list(self._known.items()):
            if self._number - pod.number > patience:
                del self._known[name]
        if len(self._known) > MOST:
            del self._known[min(self._known, key=lambda name: self._known[name].number)]
        if len(self._known) == 1:
            self._several = False

    def _sum(self, newest: LoadReport) -> LoadReport:
        reports = [pod.report for pod in self._known.values()]
        capacities = [report.capacity for report in reports if report.capacity is not None]
        return LoadReport(
            sum(report.agentsConnections for report in reports),
            newest.podName,
            newest.podIP,
            newest.nodeName,
            "draining" if all(report.state == "draining" for report in reports) else "up",
            newest.colour,
            sum(capacities) if len(capacities) == len(reports) else None,
            version=newest.version if len({report.version for report in reports}) == 1 else None,
        )
