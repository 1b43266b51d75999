"""Dashboards without Grafana: they load in its own model, keep its linter's rules, and show every series there is.

The rules are those of Grafana's dashboard-linter, in our words; where we differ, the reason stands beside.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from trunkline.errors import StartError
from trunkline.metrics.series import BY_NAME
from trunkline.monitor.dashboards import all_dashboards, read_board
from trunkline.monitor.rules import foreign_series, load, promql
from trunkline.monitor.rules.variables import variables
from trunkline.monitor.text.data_files import DATA, DataError, DataFile
from trunkline.settings.monitor import MonitorSettings

SETTINGS = MonitorSettings(runbook_url="https://runbooks.example.org/ws/")
UIDS = ("trunkline-fleet", "trunkline-edge", "trunkline-system", "trunkline-postgres", "trunkline-containers",
        "trunkline-nats")  # fmt: skip
UNITS = {"percent", "percentunit", "short", "none", "cps", "cpm", "s", "bytes", "Bps", "iops", "suffix:x"}
NARROWED = 'job=~"$job",instance=~"$instance"'
NOT_NARROWED = {
    "ALERTS": "an alert of the fleet has no instance",
    "fleet:": "recorded over all instances",
}
"""Series, or how their names begin, that cannot be narrowed by job and instance, and why."""
SELECTOR = re.compile(r"(?<![\w:$])([a-zA-Z_:][\w:]*)(?=\{|\[|\b)(\{[^{}]*\})?")


@pytest.fixture(scope="module")
def drawn() -> dict[str, dict[str, Any]]:
    """All dashboards as Grafana reads them."""
    return {uid: json.loads(text) for uid, text in all_dashboards(SETTINGS).items()}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Panels of a dashboard, those of closed rows too; no rows."""
    found = []
    for panel in board["panels"]:
        found += panel["panels"] if panel["type"] == "row" else [panel]
    return found


def every_panel(drawn: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{uid}: {panel.get('title')}", panel) for uid, board in drawn.items() for panel in panels(board)]


def every_query(drawn: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    return [(name, target["expr"]) for name, panel in every_panel(drawn) for target in panel["targets"]]


def test_the_dashboards_are_there_by_uid(drawn: dict[str, dict[str, Any]]) -> None:
    """Six dashboards, each under the uid that alerts name, with titles of their own."""
    assert set(drawn) == set(UIDS)
    assert [board["uid"] for board in drawn.values()] == list(drawn)
    assert len({board["title"] for board in drawn.values()}) == len(UIDS)


def test_the_same_settings_give_the_same_bytes() -> None:
    """Drift can be told from the files alone."""
    assert all_dashboards(SETTINGS) == all_dashboards(SETTINGS)


def test_they_load_in_grafanas_own_model(drawn: dict[str, dict[str, Any]]) -> None:
    """The SDK reads each one back, and finds the same panels and queries."""
    register_default_plugins()
    for board in drawn.values():
        read = Dashboard.from_json(board)
        assert read.uid == board["uid"]
        assert read.panels is not None
        told = [
            (panel.title, panel.type_val, len(panel.targets or ())) for panel in read.panels if panel.type_val != "row"
        ]
        assert told == [(panel["title"], panel["type"], len(panel["targets"])) for panel in panels(board)]


def test_how_a_dashboard_opens(drawn: dict[str, dict[str, Any]]) -> None:
    """The last hour, every 15 s. They can be edited: the linter asks for the opposite, our users asked for this."""
    for board in drawn.values():
        assert (board["time"], board["refresh"], board["editable"]) == ({"from": "now-1h", "to": "now"}, "15s", True)
        assert "trunkline" in board["tags"]
        assert board["description"]
        (others, runbooks) = board["links"]
        assert (others["type"], others["tags"], others["keepTime"]) == ("dashboards", ["trunkline"], True)
        assert runbooks["url"] == SETTINGS.runbook_url


def test_variables(drawn: dict[str, dict[str, Any]]) -> None:
    """Data source, job and instance on each; several or all can be chosen; they are read again with the time range."""
    for uid, board in drawn.items():
        variables = {variable["name"]: variable for variable in board["templating"]["list"]}
        expected = (
            ["datasource", "job", "colour", "instance"]
            if uid == "trunkline-fleet"
            else ["datasource", "job", "instance"]
        )
        assert list(variables) == expected
        source = variables.pop("datasource")
        assert (source["type"], source["query"], source["label"]) == ("datasource", "prometheus", "Data source")
        for name, variable in variables.items():
            assert (variable["type"], variable["multi"], variable["includeAll"], variable["refresh"]) == (
                "query",
                True,
                True,
                2,
            )
            assert variable["datasource"]["uid"] == "${datasource}"
            assert variable["label"] == name.capitalize()
            query = variable["query"]["query"]
            assert re.fullmatch(rf"label_values\(.+, {name}\)", query)
            assert name == "job" or 'job=~"$job"' in query
            for series in promql.names_in(query.removeprefix("label_values(").rpartition(",")[0]):
                assert series in BY_NAME or series in foreign_series.BY_NAME
        # The linter wants `.+` for all. In the fleet All is the list of instances, so that the colour narrows panels.
        assert variables["job"]["allValue"] == ".+"
        assert variables["instance"].get("allValue") == (None if uid == "trunkline-fleet" else ".+")


def test_the_colour_narrows_the_instances(drawn: dict[str, dict[str, Any]]) -> None:
    """Whoever chooses a colour sees its nodes alone, on every panel, because all of them go by instance."""
    (instance,) = (each for each in drawn["trunkline-fleet"]["templating"]["list"] if each["name"] == "instance")
    assert instance["query"]["query"] == 'label_values(ws_build_info{job=~"$job",colour=~"$colour"}, instance)'


def test_deploys_drains_and_alerts_are_annotated(drawn: dict[str, dict[str, Any]]) -> None:
    """On every dashboard, with a text that names version and colour."""
    for board in drawn.values():
        told = {each["name"]: each for each in board["annotations"]["list"]}
        assert list(told) == ["Deploys", "Drains", "Alerts"]
        assert told["Deploys"]["textFormat"] == "version {{version}}, colour {{colour}}"
        for each in told.values():
            assert each["datasource"]["uid"] == "${datasource}"
            assert promql.names_in(each["expr"]) <= {*BY_NAME, *foreign_series.BY_NAME}


def test_every_panel_explains_itself(drawn: dict[str, dict[str, Any]]) -> None:
    """Title, description, unit, data source and at least one query; no title twice on a dashboard."""
    for name, panel in every_panel(drawn):
        assert panel["title"], name
        assert re.match(r"[A-Z0-9].+[.]", panel["description"], re.DOTALL), name
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, name
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, name
        assert panel["targets"], name
        assert all(target["expr"] and target["datasource"] == panel["datasource"] for target in panel["targets"]), name
    for uid, board in drawn.items():
        titles = Counter(panel["title"] for panel in board["panels"])
        assert [title for title, times in titles.items() if times > 1] == [], uid


def test_several_lines_have_names(drawn: dict[str, dict[str, Any]]) -> None:
    """A panel with more than one query names each, and no two alike; references are single letters, in order."""
    for name, panel in every_panel(drawn):
        targets = panel["targets"]
        assert "".join(target["refId"] for target in targets) == "ABCDEFGH"[: len(targets)], name
        if len(targets) > 1:
            legends = [target["legendFormat"] for target in targets]
            assert all(legends), name
            assert len(set(legends)) == len(legends), name


def test_the_grid(drawn: dict[str, dict[str, Any]]) -> None:
    """Ids are unique, nothing overlaps, nothing leaves the 24 columns, and rows fill their width."""
    for uid, board in drawn.items():
        ids = [panel["id"] for panel in [*board["panels"], *panels(board)]]
        assert len(set(ids)) == len({id(panel) for panel in [*board["panels"], *panels(board)]}), uid
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, (uid, panel["title"])
            assert all(0 <= x < 24 for x, _ in cells), (uid, panel["title"])
            taken |= cells
        assert len(taken) == 24 * (1 + max(y for _, y in taken)), f"{uid} has holes"


def test_rates_are_taken_over_the_rate_interval(drawn: dict[str, dict[str, Any]]) -> None:
    """No rate has a window of its own, and no counter is shown bare."""
    counters = {series.name for series in BY_NAME.values() if series.kind == "counter"}
    for name, expr in every_query(drawn):
        for function, window in re.findall(r"(\w+)\([^()]*\[([^\]]+)\]", expr):
            # Restarts are so rare that an hour is the least that shows them.
            assert window == ("1h" if function == "changes" else "$__rate_interval"), (name, expr)
        for series in promql.names_in(expr):
            if series in counters or (series.endswith("_total") and series in foreign_series.BY_NAME):
                # Counting the series of a counter, such as cores, is not about its value.
                counted = re.sub(r"count by \([^()]*\) \(", "rate(", expr)
                bare = re.findall(rf"(?<!rate\()(?<!increase\()\b{series}\b", counted)
                assert not bare, (name, expr)


def test_every_series_is_narrowed_by_job_and_instance(drawn: dict[str, dict[str, Any]]) -> None:
    """What the variables say holds for all panels, exceptions apart; and no address is written into one."""
    seen = set()
    for name, expr in every_query(drawn):
        for series, matchers in SELECTOR.findall(expr):
            if series not in promql.names_in(expr):
                continue
            reason = next((begin for begin in NOT_NARROWED if series.startswith(begin)), None)
            if reason:
                seen.add(reason)
            else:
                assert NARROWED in matchers, (name, series, expr)
        assert not re.search(r"\d+\.\d+\.\d+\.\d+|localhost|instance=\"|job=\"", expr), name
    assert seen == set(NOT_NARROWED), "an exception that nobody needs"


def test_nothing_counts_a_websocket_at_traefik_as_an_error(drawn: dict[str, dict[str, Any]]) -> None:
    """Traefik counts an ended WebSocket as code 0: panels of requests say which protocol they mean."""
    found = [expr for _, expr in every_query(drawn) if "traefik_service_request" in expr]
    assert found
    for expr in found:
        for _, matchers in SELECTOR.findall(expr):
            assert not matchers or "protocol" in matchers, expr
        assert 'code!~"2.."' not in expr


def test_every_series_of_ours_is_shown(drawn: dict[str, dict[str, Any]]) -> None:
    """A series that no dashboard shows costs a scrape and helps nobody."""
    names = set().union(*(promql.names_in(expr) for _, expr in every_query(drawn)))
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    assert set(BY_NAME) - shown == set()


def test_thresholds_begin_without_a_value(drawn: dict[str, dict[str, Any]]) -> None:
    """Grafana's first step is everything below the second, and steps grow."""
    for name, panel in every_panel(drawn):
        first, *others = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert first["value"] is None, name
        values = [step["value"] for step in others]
        assert all(low < high for low, high in pairwise(values)), name


def test_every_alert_is_watched_on_its_dashboard(drawn: dict[str, dict[str, Any]]) -> None:
    """An alert names a dashboard; a panel there shows its series and links to its runbook."""
    for alert in load.alerts(SETTINGS):
        links = [link for panel in panels(drawn[alert.dashboard]) for link in panel.get("links") or ()]
        here = [link for link in links if link["title"] == f"Runbook: {alert.name}"]
        assert here, f"no panel of {alert.dashboard} shows what {alert.name} watches: {alert.expr}"
        assert {link["url"] for link in here} == {f"https://runbooks.example.org/ws/{alert.runbook}"}


def test_runbooks_without_an_address() -> None:
    """With no address for runbooks, descriptions name their files and there is no dead link."""
    board = json.loads(all_dashboards(MonitorSettings())["trunkline-fleet"])
    assert [panel for panel in panels(board) if panel.get("links")] == []
    assert any("docs/runbooks/capacity-high.md" in panel["description"] for panel in panels(board))
    assert len(board["links"]) == 1


def test_objectives_follow_the_settings() -> None:
    """The burn rate divides by the budget that the settings leave."""
    settings = msgspec.structs.replace(SETTINGS, slo_handshake=0.995, slo_delivery_ms=500)
    text = all_dashboards(settings)["trunkline-fleet"]
    assert "fleet:ws_handshake_faults:ratio_rate1h / 0.005" in text
    assert "within 500 ms" in text


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("- expr: sum(up{", "- expr: sum(upp{", "panel 'Nodes up' names the series upp, which is declared nowhere"),
        ("shape: gauge", "shape: round", "Invalid enum value 'round'"),
        ("[95.0, red]", "[95.0, pink]", "Invalid enum value 'pink'"),
    ],
)
def test_a_wrong_panel_does_not_load(tmp_path: Path, old: str, new: str, why: str) -> None:
    """A panel on a series that nobody exposes would stay empty for ever; the file and the line are named."""
    text = (DATA / "dashboards" / "fleet.yml").read_text()
    line = next(number for number, each in enumerate(text.splitlines(), 1) if old in each)
    (tmp_path / "mine.yml").write_text(text.replace(old, new, 1))
    with pytest.raises(DataError) as raised:
        read_board(DataFile(tmp_path / "mine.yml"), variables(SETTINGS))
    assert str(raised.value).startswith(f"{tmp_path}/mine.yml:{line}: ")
    assert why in str(raised.value)


def test_without_grafanas_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not installed it is told what to install."""
    package = sys.modules["trunkline.monitor.dashboards"]
    monkeypatch.delattr(package, "drawing", raising=False)
    monkeypatch.delitem(sys.modules, "trunkline.monitor.dashboards.drawing", raising=False)
    monkeypatch.setitem(sys.modules, "grafana_foundation_sdk.builders", None)
    with pytest.raises(StartError, match=r"trunkline\[monitor\]"):
        all_dashboards(SETTINGS)
