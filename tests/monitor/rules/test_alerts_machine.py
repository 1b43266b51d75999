"""Alerts on machines, disks, containers and PostgreSQL: every case of every alert in promtool, and their pages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.patience import patient
from trunkline.monitor.rules import alerts_containers, alerts_machine, alerts_postgres, rule_files
from trunkline.monitor.rules.rule import Alert, Group
from trunkline.settings.monitor import MonitorSettings

SETTINGS = MonitorSettings()
GROUPS = tuple(each.group(SETTINGS) for each in (alerts_machine, alerts_containers, alerts_postgres))
ALERTS = tuple(rule for group in GROUPS for rule in group.rules if isinstance(rule, Alert))
RUNBOOKS = ROOT / "docs" / "runbooks"
by_group = pytest.mark.parametrize("group", GROUPS, ids=[group.name for group in GROUPS])
by_alert = pytest.mark.parametrize("alert", ALERTS, ids=[alert.name for alert in ALERTS])
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool; what it says comes back whole."""
    return subprocess.run(
        ["promtool", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=patient(60),
        check=False,
    )


def write(group: Group, to: Path) -> tuple[Path, Path]:
    """The rule file and the unit tests of a group, below `to`."""
    rules, tests = to / rule_files.rules_path(group.name), to / rule_files.tests_path(group.name)
    for file, text in (
        (rules, rule_files.rules_yaml(group, SETTINGS)),
        (tests, rule_files.tests_yaml(group, SETTINGS)),
    ):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return rules, tests


@needs_promtool
@by_group
def test_group_loads(group: Group, tmp_path: Path) -> None:
    """Prometheus takes the rules."""
    rules, _ = write(group, tmp_path)
    checked = promtool("check", "rules", str(rules))
    assert checked.returncode == 0, checked.stdout


@needs_promtool
@by_alert
def test_every_case_holds(alert: Alert, tmp_path: Path) -> None:
    """The alert fires and is silent as its cases say, with its summary."""
    _, tests = write(Group(alert.name, (alert,)), tmp_path)
    tested = promtool("test", "rules", str(tests))
    assert tested.returncode == 0, tested.stdout


@needs_promtool
def test_a_case_that_is_wrong_is_seen(tmp_path: Path) -> None:
    """A summary that is not the rule's fails promtool."""
    _, tests = write(Group("wrong", ALERTS[:1]), tmp_path)
    tests.write_text(tests.read_text().replace("is 95% busy", "is 96% busy"))
    tested = promtool("test", "rules", str(tests))
    assert tested.returncode != 0
    assert ALERTS[0].name in tested.stdout


@by_alert
def test_alert_has_a_page_that_says_what_to_do(alert: Alert) -> None:
    """Its runbook names it, and tells what users feel, how to see it, what to do first and what it mostly is."""
    page = (RUNBOOKS / alert.runbook).read_text()
    assert page.startswith(f"# {alert.name}\n")
    for heading in ("## What users feel", "## How to see it", "## First steps", "## Usual causes"):
        assert heading in page, heading


@by_alert
def test_alert_says_whom_it_is_about(alert: Alert) -> None:
    """It has the scope of its group, and its summary names the instance and holds the value."""
    assert alert.labels["scope"] in ("machine", "container", "postgres")
    assert "$labels.instance" in alert.summary
    assert "$value" in alert.summary


def test_names_are_unique() -> None:
    """Two alerts of one name would be one in Alertmanager."""
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)
