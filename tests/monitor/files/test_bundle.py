"""All rendered files: Prometheus's own tools on the whole, no secret in any, and how a directory differs from them."""

from __future__ import annotations

import json
import re
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.monitor.watchers import monitor, needs, said
from trunkline.errors import StartError
from trunkline.monitor.files import bundle
from trunkline.monitor.files.bundle import Difference
from trunkline.monitor.rules import load
from trunkline.settings.admin import AdminSettings
from trunkline.settings.secret import Secret
from trunkline.settings.sections import Settings

HIDDEN = "a-secret-that-nobody-may-see"
SOME = {"prometheus/prometheus.yml": "global: {}\n", "prometheus/rules/a.yml": "groups: []\n", "compose.yml": "x\n"}


def everything(directory: Path) -> Settings:
    """Settings that use all there is, every secret of them in a file of `directory` or in the settings themselves."""
    files = {}
    for name in (
        "token_file", "webhook_url_file", "webhook_token_file", "watchdog_url_file", "smtp_password_file",
        "grafana_password_file", "vault_token_file",
    ):  # fmt: skip
        files[name] = directory / name
        files[name].write_text(f"https://example.org/{HIDDEN}")
    return monitor(
        compose=True, nodes=("app:3001",), nodes_docker=True, balancers=("edge:8080",), traefik=("edge:8082",),
        nats_exporters=("nats:7777",), postgres_exporters=("postgres-exporter:9187",), smtp_user="trunkline",
        email_to=("oncall@example.org",), smtp="mail:587", **files, server__port=3001,
    )  # fmt: skip


@needs("promtool", "amtool")
@pytest.mark.parametrize("full", [False, True])
def test_prometheus_and_alertmanager_take_the_whole(tmp_path: Path, full: bool) -> None:
    """With the defaults and with everything: the configuration with the rules it names, and Alertmanager's file."""
    directory = tmp_path / "files"
    settings = everything(tmp_path) if full else Settings()
    if full:
        # Debian's Alertmanager is too old for a URL in a file; see test_alertmanager.
        settings = monitor_without_url_files(settings)
    bundle.write(directory, bundle.files(settings, dashboards=False))
    # Elsewhere promtool looks for the files of the containers' secrets.
    syntax = ["--syntax-only"] if full else []
    checked = said("promtool", "check", "config", *syntax, f"{directory}/prometheus/prometheus.yml")
    assert "SUCCESS" in checked
    if not full:
        assert all(f"rules/{group.name}.yml" in checked for group in load.groups(settings.monitor))
    for path in (directory / "prometheus/rules").iterdir():
        assert "SUCCESS" in said("promtool", "check", "rules", str(path))
    assert "SUCCESS" in said("amtool", "check-config", f"{directory}/alertmanager/alertmanager.yml")


def monitor_without_url_files(settings: Settings) -> Settings:
    """The same settings with the webhook's URL in them."""
    changes = {name: getattr(settings.monitor, name) for name in settings.monitor.__struct_fields__}
    changes |= {"webhook_url_file": None, "watchdog_url_file": None, "webhook_url": "http://hook:8000/told"}
    return monitor(**changes)


@needs("promtool")
def test_rendered_unit_tests_find_their_rules(tmp_path: Path) -> None:
    """From the directory of the tests, with the recordings that the alerts read; the groups' own tests run the rest."""
    bundle.write(tmp_path, bundle.files(Settings(), dashboards=False))
    assert "SUCCESS" in said("promtool", "test", "rules", f"{tmp_path}/prometheus/tests/nodes_test.yml")
    document = yaml.safe_load((tmp_path / "prometheus/tests/fleet_test.yml").read_text())
    assert document["rule_files"] == ["../rules/recording.yml", "../rules/fleet.yml"]
    # promtool has an order of its own otherwise, and alerts would now and then read what is not recorded yet.
    assert document["group_eval_order"] == ["recording", "fleet"]


def test_every_alert_and_every_case_is_rendered() -> None:
    """An alert that is declared and not rendered would never fire; a case that is not rendered proves nothing."""
    texts = bundle.files(Settings(), dashboards=False)
    settings = Settings().monitor
    groups = load.groups(settings)
    cases = [
        verdict.alertname
        for group in groups
        for case in load.cases(group, settings).tests
        if case.when != ""
        for verdict in case.alert_rule_test
    ]
    alerts = {alert.name: cases.count(alert.name) for group in groups for alert in group.alerts}
    rendered: list[str] = []
    tested: list[str] = []
    for path, text in texts.items():
        if path.startswith("prometheus/rules/"):
            for group in yaml.safe_load(text)["groups"]:
                rendered += [rule["alert"] for rule in group["rules"] if "alert" in rule]
        elif path.startswith("prometheus/tests/"):
            for test in yaml.safe_load(text)["tests"]:
                tested += [judged["alertname"] for judged in test["alert_rule_test"]]
    assert sorted(rendered) == sorted(alerts)
    assert {name: tested.count(name) for name in alerts} == alerts


def test_every_alert_links_to_its_page_and_dashboard() -> None:
    """Under the addresses of the settings, with severity and a time."""
    settings = monitor(grafana_url="https://graf.example.org/", runbook_url="https://docs.example.org/runbooks")
    for path, text in bundle.files(settings, dashboards=False).items():
        if not path.startswith("prometheus/rules/"):
            continue
        for rule in yaml.safe_load(text)["groups"][0]["rules"]:
            if "alert" in rule:
                told = rule["annotations"]
                assert told.keys() == {"summary", "description", "runbook_url", "dashboard_url"}
                assert re.fullmatch(r"https://docs\.example\.org/runbooks/[a-z0-9-]+\.md", told["runbook_url"])
                assert re.fullmatch(r"https://graf\.example\.org/d/trunkline-[a-z]+", told["dashboard_url"])
                assert rule["labels"]["severity"] in ("critical", "warning", "info")
                assert "for" in rule


def test_every_file_says_who_made_it_or_is_json() -> None:
    """YAML begins with the command; it loads."""
    for path, text in bundle.files(monitor(compose=True, nodes=("app:3001",)), dashboards=False).items():
        if path.endswith(".yml"):
            assert text.startswith("# Made by `trunkline monitor render`"), path
            assert yaml.safe_load(text), path
        elif path.endswith(".json"):
            json.loads(text)


def test_no_secret_is_in_any_file(tmp_path: Path) -> None:
    """Neither what files hold nor what the settings hold."""
    settings = everything(tmp_path)
    hidden = Settings(admin=AdminSettings(token=Secret(HIDDEN)), monitor=settings.monitor)
    texts = bundle.files(hidden, dashboards=False)
    assert "docker-compose.yml" in texts
    assert [path for path, text in texts.items() if HIDDEN in text] == []


def test_dashboards_are_among_the_files() -> None:
    """One file for each, by its uid; each loads; every dashboard that an alert links to is there."""
    pytest.importorskip("grafana_foundation_sdk", reason="dashboards need grafana-foundation-sdk")
    texts = bundle.files(Settings())
    found = {path: json.loads(text) for path, text in texts.items() if path.startswith("grafana/dashboards/")}
    assert {path: f"grafana/dashboards/{board['uid']}.json" for path, board in found.items()} == {
        path: path for path in found
    }
    linked = {f"grafana/dashboards/{alert.dashboard}.json" for alert in load.alerts(Settings().monitor)}
    assert linked - found.keys() == set()


def test_rendering_takes_less_than_two_seconds() -> None:
    """With the dashboards; in time of this process, for others may use the machine."""
    pytest.importorskip("grafana_foundation_sdk", reason="dashboards need grafana-foundation-sdk")
    before = time.process_time()
    bundle.files(Settings())
    assert time.process_time() - before < 2.0


def test_the_same_settings_are_the_same_texts() -> None:
    """Or `monitor check` would cry wolf."""
    assert bundle.files(Settings(), dashboards=False) == bundle.files(Settings(), dashboards=False)


def test_without_the_sdk_only_dashboards_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install; the rest is rendered without it."""
    for name in [name for name in sys.modules if name.startswith(("grafana_foundation_sdk", "trunkline.monitor.dash"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grafana_foundation_sdk", None)
    assert bundle.files(Settings(), dashboards=False)
    with pytest.raises(StartError, match=r"grafana-foundation-sdk.*pip install"):
        bundle.files(Settings())


def test_what_differs_is_named(tmp_path: Path) -> None:
    """A file that is not there, one that somebody edited, one that nothing renders any more."""
    assert {kind for _, kind in bundle.drift(tmp_path, SOME)} == {"missing"}
    assert bundle.write(tmp_path, SOME) == ["compose.yml", "prometheus/prometheus.yml", "prometheus/rules/a.yml"]
    assert bundle.drift(tmp_path, SOME) == []
    (tmp_path / "prometheus/prometheus.yml").write_text("global: {}  \n")
    (tmp_path / "prometheus/rules/a.yml").unlink()
    (tmp_path / "prometheus/rules/old.yml").write_text("groups: []\n")
    assert bundle.drift(tmp_path, SOME) == [
        Difference("prometheus/prometheus.yml", "changed"),
        Difference("prometheus/rules/a.yml", "missing"),
        Difference("prometheus/rules/old.yml", "extra"),
    ]


def test_what_is_not_ours_is_no_difference(tmp_path: Path) -> None:
    """A README beside the directories, and the kept secrets."""
    bundle.write(tmp_path, SOME)
    (tmp_path / "README.md").write_text("ours")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/grafana_admin_password").write_text("x")
    assert bundle.drift(tmp_path, SOME) == []


def test_only_what_changed_is_written_and_others_can_read_it(tmp_path: Path) -> None:
    """Grafana and Prometheus read files again that are newer; they run as other users."""
    bundle.write(tmp_path, SOME)
    kept = (tmp_path / "compose.yml").stat()
    (tmp_path / "prometheus/rules/a.yml").write_text("edited")
    assert bundle.write(tmp_path, SOME) == ["prometheus/rules/a.yml"]
    again = (tmp_path / "compose.yml").stat()
    assert (again.st_ino, again.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    written = tmp_path / "prometheus/rules/a.yml"
    assert written.read_text() == SOME["prometheus/rules/a.yml"]
    assert stat.S_IMODE(written.stat().st_mode) == 0o644
    assert [path.name for path in written.parent.iterdir()] == ["a.yml"]


@pytest.mark.parametrize("action", [bundle.write, bundle.drift])
def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path, action: Any) -> None:
    """A file stands where a directory should be."""
    (tmp_path / "out").write_text("a file")
    if action is bundle.drift:
        assert {kind for _, kind in bundle.drift(tmp_path / "out", SOME)} == {"missing"}
    else:
        with pytest.raises(StartError, match="out"):
            bundle.write(tmp_path / "out", SOME)
