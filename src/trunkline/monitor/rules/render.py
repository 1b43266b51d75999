"""A group of rules as Prometheus's rule file, and its cases as promtool's unit tests. Pure.

Rule: a test expects what the rule file has. A case shows the summary with its number; the rest of a firing
alert is taken from its rule.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from trunkline.monitor.rules.rule import Alert, Annotations, Case, CaseFile, Group, Recording, Verdict
from trunkline.monitor.text.yaml_writer import Document, dump
from trunkline.settings.quantities import milliseconds


def rules_yaml(group: Group, patience: float = 1) -> str:
    """The rule file that holds `group` alone.

    Args:
        group: recording rules and alerts.
        patience: factor for the time that every alert must last.
    """
    body: Document = {"name": group.name}
    if group.interval:
        body["interval"] = group.interval
    body["rules"] = [_rule(each, patience) for each in group.rules]
    return dump({"groups": [body]})


def tests_yaml(group: Group, cases: CaseFile) -> str:
    """The unit tests of `group`, for `promtool test rules`, in a directory beside that of the rule files.

    Args:
        group: what they expect.
        cases: its cases.
    """
    alerts = {alert.name: alert for alert in group.alerts}
    return dump(
        {
            "rule_files": list(cases.rule_files),
            "evaluation_interval": cases.evaluation_interval,
            "group_eval_order": list(cases.group_eval_order),
            "tests": [
                _test(alerts[verdict.alertname], case, verdict, cases.evaluation_interval)
                for case in cases.tests
                if case.when != ""
                for verdict in case.alert_rule_test
            ],
        },
        "Run: promtool test rules THIS_FILE",
    )


def rules_path(name: str) -> str:
    """Where the rule file of a group stands, below Prometheus's directory."""
    return f"rules/{name}.yml"


def tests_path(name: str) -> str:
    """Where the unit tests of a group stand, below Prometheus's directory."""
    return f"tests/{name}_test.yml"


def _rule(each: Alert | Recording, patience: float) -> Document:
    if isinstance(each, Recording):
        return {"record": each.name, "expr": each.expr}
    lasts_ms = milliseconds(each.lasts) or 0
    return {
        "alert": each.name,
        "expr": each.expr,
        "for": each.lasts if patience == 1 else f"{max(1, round(lasts_ms * patience))}ms",
        "labels": msgspec.structs.asdict(each.labels),
        "annotations": msgspec.structs.asdict(each.annotations),
    }


def _test(alert: Alert, case: Case, verdict: Verdict, interval: str) -> Document:
    """One verdict on a case; promtool names only whole tests when it reports a failure."""
    return {
        "name": f"{alert.name} {'fires' if verdict.exp_alerts else 'is silent'} at {verdict.eval_time}",
        "interval": case.interval or interval,
        "input_series": [msgspec.structs.asdict(each) for each in case.input_series],
        "alert_rule_test": [
            {
                "eval_time": verdict.eval_time,
                "alertname": alert.name,
                "exp_alerts": list(_expected(alert.annotations, alert, verdict)),
            }
        ],
    }


def _expected(annotations: Annotations, alert: Alert, verdict: Verdict) -> Iterator[Document]:
    for firing in verdict.exp_alerts:
        yield {
            "exp_labels": {**msgspec.structs.asdict(alert.labels), **firing.exp_labels},
            "exp_annotations": {**msgspec.structs.asdict(annotations), "summary": firing.exp_annotations.summary},
        }
