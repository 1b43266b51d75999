"""A group of rules as Prometheus's rule file, and its cases as promtool's unit tests. Pure.

Rules:

- What a test expects is what the rule file says: both are made here from one `Alert`.
- A description holds no template, for a case tells the summary only; the number belongs to the summary.
- A group's tests load `recording.group` too when an expression of the group uses one of its series, and evaluate it
  first: promtool orders groups only when it is told how.
"""

from __future__ import annotations

from trunkline.monitor.rules import promql
from trunkline.monitor.rules.rule import Alert, Case, Group, Recording
from trunkline.monitor.text.yaml_text import Document, dump
from trunkline.settings.monitor import MonitorSettings
from trunkline.settings.quantities import milliseconds


def rules_yaml(group: Group, settings: MonitorSettings) -> str:
    """The rule file that holds `group` alone.

    Args:
        group: recording rules and alerts.
        settings: for the links to runbooks and dashboards.

    Raises:
        ValueError: a description holds a template.
    """
    body: Document = {"name": group.name}
    if group.interval:
        body["interval"] = group.interval
    body["rules"] = [_rule(each, settings) for each in group.rules]
    return dump({"groups": [body]})


def tests_yaml(group: Group, settings: MonitorSettings) -> str:
    """The unit tests of `group`, for `promtool test rules`, in a directory beside that of the rule files.

    Args:
        group: its alerts carry their cases; a group of recording rules alone has no tests.
        settings: for the links that a firing alert carries.
    """
    alerts = [each for each in group.rules if isinstance(each, Alert)]
    names = [*_recorded_before(group, settings), group.name]
    intervals = [case.interval for alert in alerts for case in alert.cases]
    return dump(
        {
            "rule_files": [f"../{rules_path(name)}" for name in names],
            # The finest, for a test is evaluated once for all its cases' intervals.
            "evaluation_interval": min(intervals, key=_milliseconds, default="15s"),
            "group_eval_order": names,
            "tests": [_test(alert, case, settings) for alert in alerts for case in alert.cases],
        },
        "Run: promtool test rules THIS_FILE",
    )


def rules_path(name: str) -> str:
    """Where the rule file of a group stands, below Prometheus's directory."""
    return f"rules/{name}.yml"


def tests_path(name: str) -> str:
    """Where the unit tests of a group stand, below Prometheus's directory."""
    return f"tests/{name}_test.yml"


def what_it_tells(alert: Alert, settings: MonitorSettings) -> dict[str, str]:
    """What an alert tells people, as written in the rule file.

    Args:
        alert: the alert.
        settings: where Grafana and the runbooks are.
    """
    if "{{" in alert.description:
        raise ValueError(f"alert {alert.name}: its description holds a template; the number belongs to the summary")
    runbooks = settings.runbook_url.rstrip("/") or "docs/runbooks"
    return {
        "summary": alert.summary,
        "description": alert.description,
        "runbook_url": f"{runbooks}/{alert.runbook}",
        "dashboard_url": f"{settings.grafana_url.rstrip('/')}/d/{alert.dashboard}",
    }


def _rule(each: Alert | Recording, settings: MonitorSettings) -> Document:
    if isinstance(each, Recording):
        return {"record": each.name, "expr": each.expr}
    return {
        "alert": each.name,
        "expr": each.expr,
        "for": each.lasts
        if settings.patience == 1
        else f"{max(1, round(_milliseconds(each.lasts) * settings.patience))}ms",
        "labels": {"severity": each.severity, **each.labels},
        "annotations": what_it_tells(each, settings),
    }


def _test(alert: Alert, case: Case, settings: MonitorSettings) -> Document:
    judged: Document = {"eval_time": case.at, "alertname": alert.name}
    if case.labels is None:
        judged["exp_alerts"] = []
    else:
        told = {**what_it_tells(alert, settings), "summary": case.summary}
        labels = {"severity": alert.severity, **alert.labels, **case.labels}
        judged["exp_alerts"] = [{"exp_labels": labels, "exp_annotations": told}]
    return {
        "name": f"{alert.name} {'is silent' if case.labels is None else 'fires'} at {case.at}",
        "interval": case.interval,
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "alert_rule_test": [judged],
    }


def _recorded_before(group: Group, settings: MonitorSettings) -> list[str]:
    """The group of recording rules, when this one reads its series and is another."""
    # Imported here: it makes groups itself, and checks its expressions as it loads.
    from trunkline.monitor.rules.recording import group as recordings

    recorded = recordings(settings)
    own = {each.name for each in group.rules if isinstance(each, Recording)}
    used = {name for each in group.rules for name in promql.names_in(each.expr)}
    return [recorded.name] if used & {each.name for each in recorded.rules} - own else []


def _milliseconds(duration: str) -> float:
    found = milliseconds(duration)
    if found is None:
        raise ValueError(f"{duration!r} is no duration")
    return found
