"""The alerts on nodes, balancers, objectives and the watch itself, judged by promtool from their own cases."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, get_args

import pytest

from tests.support import ROOT
from tests.support.monitor.watchers import laid_out, monitor, needs, said
from trunkline.metrics import exposition
from trunkline.metrics.series import LATENCY_BUCKETS
from trunkline.monitor.rules import (
    alerts_edge,
    alerts_fleet,
    alerts_nodes,
    alerts_slo,
    alerts_targets,
    alerts_traffic,
    recording,
    rule,
    rule_files,
    rules,
)
from trunkline.monitor.rules.rule import Alert, Group
from trunkline.server.node.capacity import ShedReason
from trunkline.settings.load import describe
from trunkline.settings.monitor import MonitorSettings

MODULES: Final = {
    "fleet": alerts_fleet,
    "nodes": alerts_nodes,
    "traffic": alerts_traffic,
    "edge": alerts_edge,
    "slo": alerts_slo,
    "targets": alerts_targets,
}
SCOPES: Final = {"node", "fleet", "edge", "bus", "machine", "target"}


def made(**changes: Any) -> MonitorSettings:
    """Settings of [monitor] with changes."""
    return monitor(**changes).monitor


def alerts_of(settings: MonitorSettings) -> list[Alert]:
    """Every alert of these groups."""
    groups = [module.group(settings) for module in MODULES.values()]
    return [each for group in groups for each in group.rules if isinstance(each, Alert)]


def judged(directory: Path, group: Group, settings: MonitorSettings) -> None:
    """Let promtool check a group and run its cases."""
    texts = {
        rule_files.rules_path(each.name): rule_files.rules_yaml(each, settings)
        for each in (recording.group(settings), group)
    }
    laid_out(directory, {**texts, rule_files.tests_path(group.name): rule_files.tests_yaml(group, settings)})
    said("promtool", "check", "rules", *(str(directory / path) for path in texts))
    said("promtool", "test", "rules", str(directory / rule_files.tests_path(group.name)))


@needs("promtool")
@pytest.mark.parametrize("name", MODULES)
def test_fires_and_keeps_silent_as_its_cases_say(name: str, tmp_path: Path) -> None:
    """Every alert fires in its firing cases, with the summary told there, and in no other."""
    judged(tmp_path, MODULES[name].group(made()), made())


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
    judged(tmp_path, MODULES[name].group(made(**changes)), made(**changes))


def test_all_of_them_are_rendered() -> None:
    """The bundle holds every one of these groups, recordings before alerts."""
    names = [group.name for group in rules.groups(made())]
    assert names[0] == "recording"
    assert set(MODULES) <= set(names)


def test_each_says_what_it_is_about() -> None:
    """Every alert has a scope to be inhibited by; alerts of a node or a backend name its instance in the summary."""
    for alert in alerts_of(made()):
        assert set(alert.labels) == {"scope"}, alert.name
        assert alert.labels["scope"] in SCOPES, alert.name
        if alert.labels["scope"] in ("node", "edge", "bus"):
            assert "{{ $labels.instance }}" in alert.summary, alert.name


def test_each_has_a_runbook_that_helps() -> None:
    """A page is short, names the alert and says what is felt, how to see it, what to do first and why it happens."""
    for alert in alerts_of(made()):
        page = (ROOT / "docs" / "runbooks" / alert.runbook).read_text()
        assert page.startswith(f"# {alert.name}\n"), alert.runbook
        for part in ("**Impact:**", "**See:**", "**First steps:**", "**Usual causes:**"):
            assert part in page, f"{alert.runbook} lacks {part}"
        assert len(page.splitlines()) <= 30, alert.runbook


def test_runbooks_show_expressions_that_name_real_series() -> None:
    """What a page tells to ask Prometheus names declared series only."""
    for alert in alerts_of(made()):
        page = (ROOT / "docs" / "runbooks" / alert.runbook).read_text()
        for block in page.split("```promql\n")[1:]:
            for line in block.split("```")[0].splitlines():
                rule.check(line, alert.runbook)


def test_runbooks_name_settings_that_exist() -> None:
    """A setting that a page sends people to is a setting."""
    known = {row.key for row in describe()}
    sections = "|".join(sorted({key.partition(".")[0] for key in known}))
    for alert in alerts_of(made()):
        page = (ROOT / "docs" / "runbooks" / alert.runbook).read_text()
        for name in re.findall(rf"`((?:{sections})\.[a-z_]+)\b(?!…)", page):
            assert name in known, f"{alert.runbook} names {name}"
        for linked in re.findall(r"\]\(([a-z-]+\.md)\)", page):
            assert (ROOT / "docs" / "runbooks" / linked).is_file(), f"{alert.runbook} links to {linked}"


@pytest.mark.parametrize("limit_ms", [10, 25, 50, 100, 250, 500, 1000, 2500, 5000])
def test_limit_of_a_delivery_is_a_bucket(limit_ms: int) -> None:
    """Every limit that the settings allow is written as the scrape writes that bucket."""
    histogram = exposition.Histogram(LATENCY_BUCKETS)
    bounds = [bound for bound, _ in histogram.cumulative()]
    expression = next(
        each.expr
        for each in recording.slo(made(slo_delivery_ms=limit_ms))
        if each.name == "fleet:ws_deliveries_late:rate5m"
    )
    bound = expression.split('le="')[1].split('"')[0]
    assert bound in bounds
    assert float(bound) * 1000 == limit_ms


def test_objectives_set_the_limits() -> None:
    """A burn rate is a multiple of what the objective allows, and never more than nearly everything."""
    strict = {each.name: each.expr for each in alerts_of(made(slo_handshake=0.999))}
    loose = {each.name: each.expr for each in alerts_of(made(slo_handshake=0.9))}
    assert "ratio_rate1h > 0.0144 and" in strict["TrunklineHandshakeBudgetFastBurn"]
    assert "ratio_rate30m > 0.006 and" in strict["TrunklineHandshakeBudgetSteadyBurn"]
    assert "ratio_rate3d > 0.001 and" in strict["TrunklineHandshakeBudgetSlowBurn"]
    assert "ratio_rate1h > 0.95 and" in loose["TrunklineHandshakeBudgetFastBurn"]


def test_the_idle_colour_is_not_missed() -> None:
    """The colour that the settings call idle is left out of the alert on empty colours, and only it."""
    exprs = {each.name: each.expr for each in alerts_of(made(idle_colour="green"))}
    assert 'colour:ws_connections_active:sum{colour!="green"} == 0' in exprs["TrunklineColourEmpty"]
    assert "colour!=" not in next(e.expr for e in alerts_of(made()) if e.name == "TrunklineColourEmpty")


def test_reasons_are_those_that_the_server_counts() -> None:
    """Reasons that expressions name are words of the code, so that a renamed one is noticed."""
    sources = "\n".join(
        path.read_text()
        for room in ("server", "websocket", "balancer", "placement")
        for path in (ROOT / "src/trunkline" / room).rglob("*.py")
    )
    words = "|".join(
        (recording.ORDERLY, recording.NODE_FAULTS, recording.EDGE_FAULTS, "expired|epoch_changed|no_history")
    )
    for word in words.split("|"):
        assert f'"{word}"' in sources, word
    assert set(get_args(ShedReason)) <= set(f"{recording.ORDERLY}|{recording.NODE_FAULTS}".split("|"))


def test_a_node_says_when_it_started() -> None:
    """The series on which the alert on restarts stands is filled from the gauges of a scrape."""
    gauges = exposition.Gauges(0, 1, 1, 0, 0.0, 1, True, 0, 0, 0.0, False, 0, 0, ("1", "a", "blue"), 1234.5)
    found = {
        family.name: family.samples[0].value
        for family in exposition.families(exposition.Meter(), gauges)
        if family.samples
    }
    assert found["ws_start_time_seconds"] == 1234.5
