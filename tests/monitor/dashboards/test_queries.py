"""Every expression of every panel and rule, asked of a real Prometheus that has scraped all that they are about."""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import aiohttp
import pytest
import pytest_asyncio

from tests.support import ROOT
from tests.support.monitor.scraped_world import NODE_EXPORTER, TRAEFIK, postgres_programs, scraped_world
from tests.support.monitor.watchers import ALERTMANAGER, answer, needs
from tests.support.patience import patient
from trunkline.monitor.dashboards import all_dashboards
from trunkline.monitor.dashboards.drawing import ANNOTATIONS, resolved
from trunkline.monitor.rules import load, promql
from trunkline.monitor.rules.rule import Alert, Recording
from trunkline.settings.monitor import MonitorSettings

SETTINGS = MonitorSettings()
BOARDS = {uid: json.loads(text) for uid, text in all_dashboards(SETTINGS).items()}
RULES = tuple(each for group in load.groups(SETTINGS) for each in group.rules)

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    needs("prometheus", NODE_EXPORTER, ALERTMANAGER),
    pytest.mark.skipif(not TRAEFIK.exists(), reason="Traefik is not installed: pip install 'trunkline[traefik]'"),
]

ONLY_SOMETIMES = {
    "ws_capacity_rejections_total": "a node that protects itself",
    "ws_balancer_moves_total": "a fleet that is uneven, with rebalancing on",
    "ws_balancer_failures_total": "a backend that dies between two checks",
    "ws_balancer_ejections_total": "a backend that fails several times",
    "ws_connections_cut_total": "a node that stops with clients that do not leave",
    "ws_sessions_resumed_total": "a client that was asked to move and came back",
    "ws_reconnect_seconds_bucket": "a client that was asked to move and came back",
    "ws_balancer_traffic_weight": "a traffic table, or groups",
    "ws_deploy_state": "a deploy",
    "ws_deploy_lease_age_seconds": "a deploy under way",
    "trunkline_pg_replica_lag_seconds": "a PostgreSQL that is a replica",
    "trunkline_pg_standby_lag_bytes": "a PostgreSQL that has one",
}
"""Series that are not there at first, and what brings them."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prometheus_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with scraped_world(tmp_path_factory.mktemp("world")) as url:
        yield url


def asked(expression: str) -> str:
    """What Grafana sends when everything is chosen and the scrape interval is short."""
    expression = expression.replace("$__rate_interval", "1m")
    return re.sub(r"\$\{?(job|instance|colour)\}?", ".*", expression)


async def values(url: str, expression: str) -> list[float]:
    """The numbers that an expression gives now."""
    found = await answer(f"{url}/api/v1/query", query=asked(expression))
    result = found["data"]["result"]
    if found["data"]["resultType"] == "scalar":
        return [float(result[1])]
    return [float(series["value"][1]) for series in result]


async def excused(url: str, expression: str) -> bool:
    """Whether an expression is about what has not happened, or what the kernel of this machine does not tell."""
    names = promql.names_in(expression)
    if any(name in ONLY_SOMETIMES for name in names):
        return True
    told = [name for name in names if name.startswith("node_") and await values(url, f"count({name})")]
    return len(told) < sum(name.startswith("node_") for name in names)


@pytest.mark.parametrize("uid", BOARDS)
async def test_panels(uid: str, prometheus_url: str) -> None:
    """Each query of each panel gives a number, with all variables at All."""
    if uid == "trunkline-postgres" and postgres_programs() is None:
        pytest.skip("PostgreSQL or its exporter is not installed")
    empty = []
    for panel in BOARDS[uid]["panels"]:
        for target in panel.get("targets", ()):
            found = await values(prometheus_url, target["expr"])
            if all(math.isnan(value) for value in found) and not await excused(prometheus_url, target["expr"]):
                empty.append(f"{panel['title']}: {asked(target['expr'])} gives {found}")
    assert not empty, "\n".join(empty)


async def test_rules(prometheus_url: str) -> None:
    """Prometheus evaluates each rule, and each series that one names is there."""
    found = await answer(f"{prometheus_url}/api/v1/rules")
    told = {each["name"]: each for group in found["data"]["groups"] for each in group["rules"]}
    missing = []
    recorded = {rule.name: rule.expr for rule in RULES if isinstance(rule, Recording)}
    for rule in RULES:
        assert told[rule.name]["health"] == "ok", told[rule.name]
        for series in resolved(rule.expr, recorded):
            if series.startswith(("pg_", "trunkline_pg_")) and postgres_programs() is None:
                continue
            found_any = await values(prometheus_url, f'count({{__name__=~"{series}(_bucket)?"}})')
            if not found_any and series not in ONLY_SOMETIMES:
                missing.append(f"{rule.name}: {series}")
    assert not missing, "\n".join(missing)


async def test_recordings(prometheus_url: str) -> None:
    """Each recorded series is there, for a fleet that has clients."""
    recordings = [rule.name for rule in RULES if isinstance(rule, Recording)]
    assert recordings
    empty = [name for name in recordings if not await values(prometheus_url, name) and name not in ONLY_SOMETIMES]
    assert not empty, "\n".join(empty)


async def test_the_watchdog_fires_and_no_other_critical_alert_does(prometheus_url: str) -> None:
    """The world of this test is healthy enough that nobody is woken."""
    found = await answer(f"{prometheus_url}/api/v1/alerts")
    firing = {each["labels"]["alertname"] for each in found["data"]["alerts"] if each["state"] == "firing"}
    severities = {rule.name: rule.labels.severity for rule in RULES if isinstance(rule, Alert)}
    assert "TrunklineWatchdog" in firing
    assert {name for name in firing if severities[name] == "critical"} <= {"TrunklineWatchdog"}


async def test_variables_find_their_values(prometheus_url: str) -> None:
    """Each variable of each dashboard has values: jobs as they are named in the configuration, instances of them."""
    async with aiohttp.ClientSession() as http:
        for uid, board in BOARDS.items():
            if uid == "trunkline-postgres" and postgres_programs() is None:
                continue
            for variable in board["templating"]["list"][1:]:
                selector, _, label = variable["query"]["query"].removeprefix("label_values(")[:-1].rpartition(", ")
                address = f"{prometheus_url}/api/v1/label/{label}/values"
                async with http.get(address, params={"match[]": asked(selector)}) as found:
                    assert found.status == 200
                    body: dict[str, Any] = await found.json()
                assert body["data"], (uid, variable["name"])


async def test_pictures_for_the_docs(prometheus_url: str, tmp_path: Path) -> None:
    """The script of the docs draws each picture from this Prometheus: well-formed, with lines where there was load."""
    script = ROOT / "docs" / "make_pictures.py"
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(script), prometheus_url, str(tmp_path), "--last", "20"
    )
    assert await asyncio.wait_for(child.wait(), patient(30)) == 0
    drawn = {path.name: ElementTree.parse(path) for path in tmp_path.glob("*.svg")}
    assert len(drawn) == 8
    curves = drawn["connections-by-node.svg"].findall("{*}path[@fill='none']")
    assert len(curves) == 2
    assert all(curve.attrib["d"].count("L") >= 5 for curve in curves)


async def test_annotations(prometheus_url: str) -> None:
    """A fleet that has just come up is a deploy; without a drain there is none."""
    found = {name: await values(prometheus_url, expr) for name, expr, *_ in ANNOTATIONS}
    assert found["Deploys"]
    assert found["Drains"] == []
