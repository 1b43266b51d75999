"""Findings as people read them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from trunkline.doctor.facts import Machine
from trunkline.doctor.finding import Finding, State
from trunkline.doctor.wanted import Wanted

PAGE: Final = "docs/tuning.md"


class Line(NamedTuple):
    """One line; `state` is that of the finding it belongs to."""

    state: State
    label: str
    text: str


def lines(findings: Sequence[Finding]) -> list[Line]:
    """Two for each that has something to do, one for the others."""
    width = max((len(finding.check) for finding in findings), default=0)
    found = []
    for finding in findings:
        found.append(Line(finding.state, f"{finding.state:<8}", f"{finding.check:<{width}}  {finding.found}"))
        if finding.do:
            found.append(Line(finding.state, " " * 8, f"{'':<{width}}  -> {finding.do}"))
    return found


def head(machine: Machine, wanted: Wanted) -> str:
    """What was looked at, and for what."""
    where = {"host": "", "container": ", in a container", "pod": ", in a pod"}[machine.place]
    roles = ", ".join({"node": "nodes", "balancer": "a relay", "load": "a load test"}[role] for role in wanted.roles)
    return f"{machine.system}{where}, Python {machine.python}: ready for {wanted.connections:,} connections ({roles})?"


def foot(findings: Sequence[Finding]) -> str:
    """How many of each, and where to read on."""
    counts = {
        state: sum(finding.state == state for finding in findings) for state in ("ok", "warning", "error", "unknown")
    }
    parts = [f"{counts['ok']} ok", _count(counts["warning"], "warning"), _count(counts["error"], "error")]
    if counts["unknown"]:
        parts.append(f"{counts['unknown']} unknown")
    return f"{', '.join(parts)}; what each means: {PAGE}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
