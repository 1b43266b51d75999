"""What a group of rules and its test cases are made of, by the names that Prometheus and promtool use. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Severity = Literal["critical", "warning", "info"]
"""critical: somebody is woken. warning: somebody looks today. info: context, never sent by itself."""

Scope = Literal["node", "fleet", "edge", "bus", "machine", "container", "postgres", "target"]
"""What an alert is about; inhibition goes by it."""

Duration = Annotated[str, Meta(pattern=r"^\d+(ms|s|m|h|d)$")]


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labels of an alert beside those of its series."""

    severity: Severity
    scope: Scope


class Annotations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What people read of an alert.

    Attributes:
        summary: one line with the number, in Prometheus's template language.
        description: what it means for users and what to look at first. No template: cases show the summary only.
        runbook_url: of its page in `docs/runbooks/`.
        dashboard_url: of the dashboard that shows its series; it ends in the uid.
    """

    summary: Annotated[str, Meta(pattern=r"\{\{")]
    description: str
    runbook_url: str
    dashboard_url: str

    def __post_init__(self) -> None:
        if "{{" in self.description:
            raise ValueError("the description holds a template; the number belongs to the summary")


class Alert(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"name": "alert", "lasts": "for"}):
    """One alert.

    Attributes:
        name: begins with Trunkline, which distinguishes it on a shared Prometheus.
        expr: PromQL; true for each series that it returns.
        lasts: how long it must be true.
    """

    name: Annotated[str, Meta(pattern=r"^Trunkline[A-Z][A-Za-z0-9]+$")]
    expr: str
    lasts: Duration
    labels: Labels
    annotations: Annotations

    @property
    def runbook(self) -> str:
        """The name of its page in `docs/runbooks/`."""
        return self.annotations.runbook_url.rpartition("/")[2]

    @property
    def dashboard(self) -> str:
        """The uid of its dashboard."""
        return self.annotations.dashboard_url.rpartition("/")[2]


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"name": "record"}):
    """A recording rule.

    Attributes:
        name: level:metric:operations, as Prometheus's documentation has it.
        expr: PromQL.
        help: one sentence, for the reference page; Prometheus has no place for it.
    """

    name: str
    expr: str
    help: str


class Group(msgspec.Struct, frozen=True):
    """Rules that are evaluated one after another.

    Attributes:
        name: of the group and of its files.
        rules: recording rules before the alerts that use them.
        interval: of evaluation; empty: Prometheus's own.
    """

    name: str
    rules: tuple[Alert | Recording, ...]
    interval: str = ""

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Its alerts."""
        return tuple(each for each in self.rules if isinstance(each, Alert))

    @property
    def recordings(self) -> tuple[Recording, ...]:
        """Its recording rules."""
        return tuple(each for each in self.rules if isinstance(each, Recording))


class RuleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule file of Prometheus with one group, whose rules are not decoded yet."""

    class Raw(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """The group."""

        name: str
        rules: tuple[dict[str, Any], ...]
        interval: str = ""

    groups: Annotated[tuple[Raw, ...], Meta(min_length=1, max_length=1)]


class Samples(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A series with its labels and its values, as promtool writes both: `1x10 0x20`."""

    series: str
    values: str


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The annotations that a case shows."""

    summary: str


class Firing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An alert that fires, with its labels beside those of its rule, and its summary with the number."""

    exp_labels: dict[str, str]
    exp_annotations: Summary


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must be true of an alert at a moment: that it fires, or that it does not."""

    eval_time: Duration
    alertname: str
    exp_alerts: tuple[Firing, ...]


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Samples, and the verdicts on them.

    Attributes:
        interval: from one sample to the next; empty: the file's evaluation interval.
        when: a case whose `when` is an empty text, once completed, is left out.
    """

    input_series: tuple[Samples, ...]
    alert_rule_test: tuple[Verdict, ...]
    interval: Duration | None = None
    when: str | None = None


class CaseFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Unit tests of one group, for `promtool test rules`.

    Attributes:
        rule_files: of this group and those before it, relative to the file.
        group_eval_order: promtool orders groups only by this list, and alerts read what is recorded.
    """

    rule_files: tuple[str, ...]
    evaluation_interval: Duration
    group_eval_order: tuple[str, ...]
    tests: tuple[Case, ...]
