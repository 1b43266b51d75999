"""Rules and their test cases, from the files in `data/rules/` and `data/tests/`.

Rules:

- Every file in `data/rules/` is loaded, recordings first, so that no group is written and never rendered.
- A misspelt series is no error to Prometheus: the expression is silent for ever. So an expression may name only series
  that are declared: ours in `trunkline.metrics`, those of others in `data/foreign_series.yml`, and recorded ones.
- Every alert has a case in which it fires and one in which it does not.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

from trunkline.metrics.series import BY_NAME
from trunkline.monitor.rules import foreign_series, promql
from trunkline.monitor.rules.rule import Alert, CaseFile, Group, Recording, RuleFile
from trunkline.monitor.rules.variables import variables
from trunkline.monitor.text.data_files import DATA, DataFile, Variables, data_file
from trunkline.settings.monitor import MonitorSettings

RECORDING: Final = "recording"
"""The group whose series the alerts of other groups read."""


def groups(settings: MonitorSettings) -> tuple[Group, ...]:
    """Every group, in the order in which they are rendered.

    Args:
        settings: limits and objectives that stand in expressions.

    Raises:
        DataError: a file is wrong, with the place.
    """
    known = variables(settings)
    return tuple(group(data_file(f"rules/{name}.yml"), known) for name in _names())


def alerts(settings: MonitorSettings) -> tuple[Alert, ...]:
    """Every alert, in that order.

    Args:
        settings: as for `groups`.
    """
    return tuple(each for group in groups(settings) for each in group.alerts)


def group(file: DataFile, known: Variables) -> Group:
    """The group of a rule file.

    Args:
        file: a rule file of Prometheus with one group.
        known: what its variables stand for.

    Raises:
        DataError: the file is wrong, or an expression names a series that is declared nowhere.
    """
    raw = file.decode(file.completed(known), RuleFile).groups[0]
    found: list[Alert | Recording] = []
    recorded = {rule["record"] for rule in raw.rules if "record" in rule} | _recorded()
    for number, rule in enumerate(raw.rules):
        place = ("groups", 0, "rules", number)
        each: Alert | Recording
        each = file.decode(rule, Recording, *place) if "record" in rule else file.decode(rule, Alert, *place)
        unknown = promql.undeclared(each.expr, lambda name: name in recorded or is_declared(name))
        if unknown:
            why = f"{each.name} names the series {unknown}, which is declared nowhere"
            raise file.error(why, *place, "expr", word=unknown)
        found.append(each)
    return Group(raw.name, tuple(found), raw.interval)


def cases(group: Group, settings: MonitorSettings) -> CaseFile:
    """The test cases of a group.

    Args:
        group: one of `groups`.
        settings: as for `groups`.

    Raises:
        DataError: the file is wrong, or an alert lacks a case.
    """
    return cases_of(data_file(f"tests/{group.name}_test.yml"), group, variables(settings))


def cases_of(file: DataFile, group: Group, known: Variables) -> CaseFile:
    """The test cases in a file.

    Args:
        file: unit tests as for promtool.
        group: whose they are.
        known: what variables stand for.

    Raises:
        DataError: the file is wrong, or an alert lacks a case.
    """
    found = file.decode(file.completed(known), CaseFile)
    verdicts = {(each.alertname, bool(each.exp_alerts)) for case in found.tests for each in case.alert_rule_test}
    for name, _ in sorted(verdicts):
        if name not in {alert.name for alert in group.alerts}:
            raise file.error(f"there is no alert {name} in this group", word=name)
    for alert in group.alerts:
        if not {(alert.name, True), (alert.name, False)} <= verdicts:
            raise file.error(f"{alert.name} needs a case in which it fires and one in which it does not")
    return found


def is_declared(name: str) -> bool:
    """Whether a series of this name exists: ours, of others, or recorded."""
    return name in BY_NAME or name in foreign_series.BY_NAME or name in _recorded()


def check(expression: str, where: str) -> None:
    """Refuse an expression that names an undeclared series.

    Args:
        expression: PromQL.
        where: what it belongs to, for the error.

    Raises:
        ValueError: names the first unknown series.
    """
    unknown = promql.undeclared(expression, is_declared)
    if unknown:
        raise ValueError(f"{where} names the series {unknown}, which is declared nowhere")


def _names() -> list[str]:
    found = (path.stem for path in Path(DATA / "rules").glob("*.yml"))
    return sorted(found, key=lambda name: (name != RECORDING, name.removeprefix("trunkline-")))


@functools.cache
def _recorded() -> frozenset[str]:
    """Names of recording rules of all groups; no setting changes them."""
    files = (data_file(f"rules/{name}.yml") for name in _names())
    rules = (rule for file in files for group in file.decode(file.document, RuleFile).groups for rule in group.rules)
    return frozenset(rule["record"] for rule in rules if "record" in rule)
