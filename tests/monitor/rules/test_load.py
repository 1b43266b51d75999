"""Rule files that are wrong: each mistake is named with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from trunkline.monitor.rules import load
from trunkline.monitor.rules.rule import Group
from trunkline.monitor.rules.variables import variables
from trunkline.monitor.text.data_files import DataError, DataFile
from trunkline.settings.monitor import MonitorSettings

KNOWN = variables(MonitorSettings())
RULES = """\
groups:
  - name: mine
    rules:
      - record: fleet:mine:sum
        expr: sum(ws_connections_active)
        help: Connections of all nodes.

      - alert: TrunklineMine
        expr: >-
          fleet:mine:sum > 10
          and on () ws_draining == 0
        for: 5m
        labels: {severity: warning, scope: fleet}
        annotations:
          summary: "{{ $value }} connections"
          description: Too many.
          runbook_url: ${runbooks}/mine.md
          dashboard_url: ${grafana}/d/trunkline-fleet
"""
CASES = """\
rule_files: [../rules/mine.yml]
evaluation_interval: 15s
group_eval_order: [mine]
tests:
  - input_series:
      - {series: ws_connections_active, values: 12x40}
    alert_rule_test:
      - eval_time: 8m
        alertname: TrunklineMine
        exp_alerts:
          - exp_labels: {}
            exp_annotations: {summary: 12 connections}
"""
SILENT = "      - {eval_time: 3m, alertname: TrunklineMine, exp_alerts: []}\n"
CASES += SILENT


def file_of(directory: Path, text: str) -> DataFile:
    """A file that holds this."""
    path = directory / "mine.yml"
    path.write_text(text)
    return DataFile(path)


def mine(directory: Path) -> Group:
    """The group of the file that is right."""
    return load.group(file_of(directory, RULES), KNOWN)


def test_a_file_that_is_right_loads(tmp_path: Path) -> None:
    """Rules as they stand, with variables replaced; a recorded series may be read in the same file."""
    recording, alert = mine(tmp_path).rules
    assert recording.name == "fleet:mine:sum"
    assert alert.expr == "fleet:mine:sum > 10 and on () ws_draining == 0"
    assert (mine(tmp_path).alerts[0].runbook, mine(tmp_path).alerts[0].dashboard) == ("mine.md", "trunkline-fleet")
    assert load.cases_of(file_of(tmp_path, CASES), mine(tmp_path), KNOWN).tests[0].interval is None


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        pytest.param(
            "ws_draining", "ws_drainning", 11, "TrunklineMine names the series ws_drainning, which is declared nowhere",
            id="undeclared series",
        ),
        pytest.param("sum(ws_conn", "sum(ws_con", 5, "fleet:mine:sum names the series ws_con", id="in a recording"),
        pytest.param("mine:sum > 10", "yours:sum > 10", 10, "names the series fleet:yours:sum", id="not recorded"),
        pytest.param("severity: warning", "severity: urgent", 13, "Invalid enum value 'urgent'", id="severity"),
        pytest.param("scope: fleet}", "scope: world}", 13, "Invalid enum value 'world'", id="scope"),
        pytest.param("for: 5m", "for: 5 minutes", 12, "matching regex", id="duration"),
        pytest.param("for: 5m", "fore: 5m", 8, "unknown field `fore`", id="unknown key"),
        pytest.param("TrunklineMine", "Mine", 8, "matching regex", id="name"),
        pytest.param('"{{ $value }} connections"', "Many.", 15, "matching regex", id="no number in the summary"),
        pytest.param("Too many.", '"{{ $value }}"', 15, "the number belongs to the summary", id="number elsewhere"),
        pytest.param("${runbooks}", "${runbook}", 17, "there is no variable ${runbook}", id="variable"),
        pytest.param("help: Conn", "help: [Conn", 8, "expected", id="no YAML"),
        pytest.param("groups:", "group:", 1, "unknown field `group`", id="no rule file"),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, why: str) -> None:
    """A series nobody declares, a typing error in a name or value, YAML that does not parse."""
    assert old in RULES
    with pytest.raises(DataError) as raised:
        load.group(file_of(tmp_path, RULES.replace(old, new, 1)), KNOWN)
    assert str(raised.value).startswith(f"{tmp_path}/mine.yml:{line}: ")
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        pytest.param("Mine, exp_alerts", "Other, exp_alerts", 13, "no alert TrunklineOther", id="no such alert"),
        pytest.param(SILENT, "", 1, "needs a case", id="never silent"),
        pytest.param("values: 12x40", "values: 0x40", 6, "Expected `str`, got `int`", id="a number in hexadecimal"),
        pytest.param("summary: 12", "sumary: 12", 12, "unknown field `sumary`", id="unknown annotation"),
    ],
)  # fmt: skip
def test_a_wrong_case_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, why: str) -> None:
    """A case of no alert, an alert without both kinds of cases, samples that YAML reads as a number."""
    assert old in CASES
    group = mine(tmp_path)
    with pytest.raises(DataError) as raised:
        load.cases_of(file_of(tmp_path, CASES.replace(old, new, 1)), group, KNOWN)
    assert str(raised.value).startswith(f"{tmp_path}/mine.yml:{line}: ")
    assert why in str(raised.value)
