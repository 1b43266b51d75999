"""Every alert, judged by promtool from its cases, with its runbook; what expressions share with code and settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import yaml

from tests.support import ROOT
from tests.support.monitor.watchers import laid_out, monitor, needs, said
from trunkline.metrics import exposition
from trunkline.metrics.series import LATENCY_BUCKETS
from trunkline.monitor.rules import load, render
from trunkline.monitor.rules.rule import Alert, Group
from trunkline.monitor.rules.variables import variables
from trunkline.monitor.text.data_files import DATA
from trunkline.server.node.capacity import ShedReason
from trunkline.settings.load import describe
from trunkline.settings.monitor import MonitorSettings

SETTINGS: Final = MonitorSettings()
GROUPS: Final = {group.name: group for group in load.groups(SETTINGS)}
ALERTS: Final = {alert.name: alert for alert in load.alerts(SETTINGS)}
RUNBOOKS: Final = ROOT / "docs" / "runbooks"
LAYOUTS: Final = (
    ("**Impact:**", "**See:**", "**First steps:**", "**Usual causes:**"),
    ("## What users feel", "## How to see it", "## First steps", "## Usual causes"),
)
"""Parts of a runbook: the impact, how to see it, what to do first and why it happens."""
by_alert = pytest.mark.parametrize("alert", ALERTS.values(), ids=list(ALERTS))


def made(**changes: Any) -> MonitorSettings:
    """Settings of [monitor] with changes."""
    return monitor(**changes).monitor


def expressions(**changes: Any) -> dict[str, str]:
    """Every expression by the name of its rule, with these settings."""
    return {each.name: each.expr for group in load.groups(made(**changes)) for each in group.rules}


def written(directory: Path, group: Group, settings: MonitorSettings) -> Path:
    """The unit tests of a group, beside all rule files."""
    texts = {render.rules_path(each.name): render.rules_yaml(each) for each in load.groups(settings)}
    path = render.tests_path(group.name)
    laid_out(directory, {**texts, path: render.tests_yaml(group, load.cases(group, settings))})
    return directory / path


def judged(directory: Path, name: str, settings: MonitorSettings) -> None:
    """Let promtool check a group and run its cases; those that are the same with other settings are left out."""
    group = next(group for group in load.groups(settings) if group.name == name)
    tests = written(directory, group, settings)
    if settings != SETTINGS:
        document, usual = yaml.safe_load(tests.read_text()), load.cases(GROUPS[name], SETTINGS)
        known = yaml.safe_load(render.tests_yaml(GROUPS[name], usual))["tests"]
        changed = {each.name for each in group.alerts if each.expr != expressions()[each.name]}
        document["tests"] = [
            test
            for test in document["tests"]
            if test not in known or changed & {verdict["alertname"] for verdict in test["alert_rule_test"]}
        ]
        assert document["tests"]
        tests.write_text(yaml.safe_dump(document))
    assert "SUCCESS" in said("promtool", "check", "rules", str(directory / render.rules_path(name)))
    assert "SUCCESS" in said("promtool", "test", "rules", str(tests))


@needs("promtool")
@pytest.mark.parametrize("name", GROUPS)
def test_fires_and_is_silent_as_its_cases_say(name: str, tmp_path: Path) -> None:
    """Every alert fires in its firing cases, with the summary given there, and in no other."""
    judged(tmp_path, name, SETTINGS)


@needs("promtool")
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("fleet", {"idle_colour": "blue"}, id="idle blue"),
        pytest.param("fleet", {"idle_colour": "green"}, id="idle green"),
        pytest.param("targets", {"nodes": ("10.0.0.1:3001",)}, id="nodes expected"),
        pytest.param(
            "slo", {"slo_handshake": 0.9, "slo_delivery": 0.5, "slo_delivery_ms": 1000}, id="loose objectives"
        ),
    ],
)
def test_cases_hold_with_other_settings(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Settings that stand in expressions change what the cases show, and the cases hold."""
    judged(tmp_path, name, made(**changes))


@needs("promtool")
def test_a_case_that_is_wrong_is_seen(tmp_path: Path) -> None:
    """A summary that is not the rule's fails promtool, which names the alert."""
    tests = written(tmp_path, GROUPS["trunkline-containers"], SETTINGS)
    tests.write_text(tests.read_text().replace("was started 3 times", "was started 4 times"))
    assert "TrunklineContainerRestarting" in said("promtool", "test", "rules", str(tests), code=1)


def test_every_file_is_loaded() -> None:
    """Each rule file is a group of its name, recordings first, and each file of cases belongs to one."""
    assert sorted(GROUPS) == sorted(path.stem for path in (DATA / "rules").iterdir())
    assert sorted(f"{name}_test" for name in GROUPS) == sorted(path.stem for path in (DATA / "tests").iterdir())
    assert next(iter(GROUPS)) == "recording"


def test_names_are_unique() -> None:
    """Two alerts of one name would be one in Alertmanager."""
    assert len(ALERTS) == len(load.alerts(SETTINGS))


@by_alert
def test_alert_says_what_it_is_about(alert: Alert) -> None:
    """Its summary holds the value, and the instance unless it is about the fleet or the monitoring as a whole."""
    assert "$value" in alert.annotations.summary
    if alert.labels.scope not in ("fleet", "target"):
        assert "$labels.instance" in alert.annotations.summary


@by_alert
def test_alert_has_a_page_that_helps(alert: Alert) -> None:
    """Its runbook is short, names it and has every part; expressions, settings and links in it exist."""
    page = (RUNBOOKS / alert.runbook).read_text()
    assert page.startswith(f"# {alert.name}\n")
    assert any(all(part in page for part in layout) for layout in LAYOUTS)
    assert len(page.splitlines()) <= 30
    for block in page.split("```promql\n")[1:]:
        for line in block.split("```")[0].splitlines():
            load.check(line, alert.runbook)
    known = {row.key for row in describe()}
    sections = "|".join(sorted({key.partition(".")[0] for key in known}))
    for name in re.findall(rf"`((?:{sections})\.[a-z_]+)\b(?!…)", page):
        assert name in known, f"{alert.runbook} names {name}"
    for linked in re.findall(r"\]\(([a-z-]+\.md)\)", page):
        assert (RUNBOOKS / linked).is_file(), f"{alert.runbook} links to {linked}"


@pytest.mark.parametrize("limit_ms", [10, 25, 50, 100, 250, 500, 1000, 2500, 5000])
def test_limit_of_a_delivery_is_a_bucket(limit_ms: int) -> None:
    """Every limit that the settings allow is written as the scrape writes that bucket."""
    histogram = exposition.Histogram(LATENCY_BUCKETS)
    bounds = [bound for bound, _ in histogram.cumulative()]
    expression = expressions(slo_delivery_ms=limit_ms)["fleet:ws_deliveries_late:rate5m"]
    bound = expression.split('le="')[1].split('"')[0]
    assert bound in bounds
    assert float(bound) * 1000 == limit_ms


def test_objectives_set_the_limits() -> None:
    """A burn rate is a multiple of what the objective allows, and never more than nearly everything."""
    strict, loose = expressions(slo_handshake=0.999), expressions(slo_handshake=0.9)
    assert "ratio_rate1h > 0.0144 and" in strict["TrunklineHandshakeBudgetFastBurn"]
    assert "ratio_rate30m > 0.006 and" in strict["TrunklineHandshakeBudgetSteadyBurn"]
    assert "ratio_rate3d > 0.001 and" in strict["TrunklineHandshakeBudgetSlowBurn"]
    assert "ratio_rate1h > 0.95 and" in loose["TrunklineHandshakeBudgetFastBurn"]


def test_the_idle_colour_is_not_missed() -> None:
    """The colour that the settings call idle is left out of the alert on empty colours, and only it."""
    idle = expressions(idle_colour="green")["TrunklineColourEmpty"]
    assert 'colour:ws_connections_active:sum{colour!="green"} == 0' in idle
    assert "colour!=" not in expressions()["TrunklineColourEmpty"]


def test_reasons_are_those_that_the_server_counts() -> None:
    """Reasons that expressions name are literals of the code, so that a renamed one is noticed."""
    sources = "\n".join(
        path.read_text()
        for room in ("server", "websocket", "balancer", "placement")
        for path in (ROOT / "src/trunkline" / room).rglob("*.py")
    )
    shared = variables(SETTINGS)
    for name in ("orderly", "node_faults", "edge_faults"):
        assert len(shared[name].split("|")) > 2
    named = "|".join((shared["orderly"], shared["node_faults"], shared["edge_faults"]))
    for reason in f"{named}|expired|epoch_changed|no_history".split("|"):
        assert f'"{reason}"' in sources, reason
    assert 'result=~"expired|epoch_changed|no_history"' in expressions()["TrunklineReplayMisses"]
    assert set(get_args(ShedReason)) <= set(f"{shared['orderly']}|{shared['node_faults']}".split("|"))


def test_a_node_says_when_it_started() -> None:
    """The series on which the alert on restarts stands is filled from the gauges of a scrape."""
    gauges = exposition.Gauges(0, 1, 1, 0, 0.0, 1, True, 0, 0, 0.0, False, 0, 0, ("1", "a", "blue"), 1234.5)
    found = {
        family.name: family.samples[0].value
        for family in exposition.families(exposition.Meter(), gauges)
        if family.samples
    }
    assert found["ws_start_time_seconds"] == 1234.5
