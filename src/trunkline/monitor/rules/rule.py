"""What an alert and a recording rule are: plain data, with the cases that prove them. Pure.

Rules: every alert has a severity, a time it must last, a summary that holds the number, a page in `docs/runbooks/` and
the dashboard that shows its series, one case in which it fires and one in which it must not. The cases become
promtool's unit tests, so an alert without them cannot be made.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from trunkline.metrics.series import BY_NAME
from trunkline.monitor.rules import foreign_series, promql

Severity = Literal["critical", "warning", "info"]
"""critical: somebody is woken. warning: somebody looks today. info: context, never sent by itself."""

Duration = Annotated[str, Meta(pattern=r"^\d+(ms|s|m|h|d)$")]
_NAME = re.compile(r"^Trunkline[A-Z][A-Za-z0-9]+$")


class Case(msgspec.Struct, frozen=True):
    """What Prometheus sees, and what the alert makes of it, in promtool's words.

    Attributes:
        series: samples by series with its labels, as promtool writes them: `{'up{job="nodes"}': "1x10 0x20"}`.
        at: the moment that is judged.
        labels: of the alert that fires, severity and `alertname` aside; None: it must not fire.
        summary: the summary that it then has, with its number; empty when it must not fire.
        interval: from one sample to the next.
    """

    series: dict[str, str]
    at: Duration
    labels: dict[str, str] | None = None
    summary: str = ""
    interval: Duration = "15s"


class Alert(msgspec.Struct, frozen=True):
    """One alert.

    Attributes:
        name: begins with Trunkline, so that it can be told from others on a shared Prometheus.
        expr: PromQL; true for each series that it returns.
        severity: see `Severity`.
        lasts: how long it must be true.
        summary: one line with the number, in Prometheus's template language.
        description: what it means for users and what to look at first.
        dashboard: uid of the dashboard that shows it.
        cases: at least one that fires and one that does not.
        labels: further ones, for routing and inhibition.
    """

    name: str
    expr: str
    severity: Severity
    lasts: Duration
    summary: str
    description: str
    dashboard: str
    cases: tuple[Case, ...]
    labels: dict[str, str] = {}

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(f"alert {self.name!r} must be called Trunkline…")
        if "{{" not in self.summary:
            raise ValueError(f"alert {self.name}: its summary holds no number")
        fires = {case.labels is not None for case in self.cases}
        if fires != {True, False}:
            raise ValueError(f"alert {self.name} needs a case in which it fires and one in which it does not")
        check(self.expr, f"alert {self.name}")

    @property
    def runbook(self) -> str:
        """The name of its page in `docs/runbooks/`."""
        return f"{re.sub(r'(?<!^)(?=[A-Z])', '-', self.name.removeprefix('Trunkline')).lower()}.md"


class Recording(msgspec.Struct, frozen=True):
    """A recording rule.

    Attributes:
        name: level:metric:operations, as Prometheus's documentation has it.
        expr: PromQL.
        help: one sentence, for the reference page.
    """

    name: str
    expr: str
    help: str


class Group(msgspec.Struct, frozen=True):
    """Rules that are evaluated one after another.

    Attributes:
        name: of the group.
        rules: recording rules before the alerts that use them.
        interval: of evaluation; empty: Prometheus's own.
    """

    name: str
    rules: tuple[Alert | Recording, ...]
    interval: str = ""


RECORDED: set[str] = set()
"""Names of recording rules; `recording.py` fills it before any alert is made."""


def is_declared(name: str) -> bool:
    """Whether a series of this name exists: ours, of others, or recorded."""
    return name in BY_NAME or name in foreign_series.BY_NAME or name in RECORDED


def check(expression: str, where: str) -> None:
    """Refuse an expression that names a series nobody declared; raises ValueError."""
    promql.check(expression, is_declared, where)
