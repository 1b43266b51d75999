"""alertmanager.yml: who is told of what, by amtool and a real Alertmanager."""

from __future__ import annotations

import asyncio
import contextlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import yaml
from aiohttp import web

from tests.support.free_ports import free_port
from tests.support.monitor.watchers import (
    ALERTMANAGER,
    DEADLINE_S,
    alertmanager,
    answer,
    laid_out,
    monitor,
    needs,
    said,
)
from trunkline.errors import SettingsError, StartError
from trunkline.monitor.files.alertmanager import WATCHDOG, alertmanager_yaml
from trunkline.monitor.files.alertmanager_urls import with_urls
from trunkline.monitor.rules import load
from trunkline.settings.monitor import MonitorSettings

WEBHOOK: dict[str, Any] = {"webhook_url": "http://127.0.0.1:9999/told"}
EMAIL: dict[str, Any] = {
    "email_to": ("oncall@example.org", "lead@example.org"),
    "smtp_user": "trunkline",
    "smtp_password_file": Path("/etc/trunkline/smtp.password"),
}


def section(**changes: Any) -> MonitorSettings:
    """[monitor] with changes."""
    return monitor(**changes).monitor


def read(settings: MonitorSettings) -> dict[str, Any]:
    """The document."""
    document: dict[str, Any] = yaml.safe_load(alertmanager_yaml(settings))
    return document


def receivers(settings: MonitorSettings) -> dict[str, set[str]]:
    """The ways in which each receiver is told."""
    return {found["name"]: found.keys() - {"name"} for found in read(settings)["receivers"]}


@needs("amtool")
@pytest.mark.parametrize(
    "changes", [{}, WEBHOOK, EMAIL, {**WEBHOOK, **EMAIL, "webhook_token_file": Path("/etc/token")}]
)
def test_amtool_takes_the_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Alertmanager 0.25 of Debian 12, with nobody to tell and with everybody."""
    laid_out(tmp_path, {"alertmanager.yml": alertmanager_yaml(section(**changes))})
    assert "SUCCESS" in said("amtool", "check-config", str(tmp_path / "alertmanager.yml"))


@needs("amtool")
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["severity=critical", "alertname=A"], "critical"),
        (["severity=warning", "alertname=A"], "warning"),
        (["severity=info", "alertname=A"], "nobody"),
        (["alertname=SomebodyElses"], "warning"),
        (["severity=info", f"alertname={WATCHDOG}"], "watchdog"),
        (["severity=critical", f"alertname={WATCHDOG}"], "watchdog"),
    ],
)
def test_each_severity_has_its_receiver(tmp_path: Path, labels: list[str], receiver: str) -> None:
    """By Alertmanager's own routing; an alert without a severity is not lost."""
    laid_out(tmp_path, {"alertmanager.yml": alertmanager_yaml(section(**WEBHOOK))})
    told = said("amtool", "config", "routes", "test", f"--config.file={tmp_path}/alertmanager.yml", *labels)
    # Before it may stand a warning about a flag of amtool's own.
    assert told.split()[-1] == receiver


def test_critical_goes_to_mail_and_webhook_and_warning_to_the_webhook_alone() -> None:
    """A receiver that is not set is left out."""
    mail, hook = "email_configs", "webhook_configs"
    assert receivers(section(**WEBHOOK, **EMAIL)) == {
        "critical": {mail, hook}, "warning": {hook}, "watchdog": set(), "nobody": set(),
    }  # fmt: skip
    assert receivers(section(**EMAIL))["critical"] == {mail}
    assert set().union(*receivers(section()).values()) == set()


def test_the_watchdog_is_told_often_and_never_resolved() -> None:
    """Who hears it raises the alarm after minutes of silence, so a repeat of hours would be useless."""
    document = read(section(watchdog_url_file=Path("/etc/trunkline/watchdog.url")))
    (route,) = [each for each in document["route"]["routes"] if each["receiver"] == "watchdog"]
    assert route["repeat_interval"] == "5m"
    (receiver,) = [each for each in document["receivers"] if each["name"] == "watchdog"]
    assert receiver["webhook_configs"] == [{"url_file": "/etc/trunkline/watchdog.url", "send_resolved": False}]


def test_times_are_those_of_the_settings() -> None:
    """In Alertmanager's own spelling."""
    route = read(section(group_wait_ms=0, group_interval_ms=90_000, repeat_interval_ms=7_200_000))["route"]
    assert (route["group_wait"], route["group_interval"], route["repeat_interval"]) == ("0s", "90s", "2h")
    assert route["group_by"] == ["alertname", "job", "colour"]


def test_secrets_are_named_by_their_files() -> None:
    """And in a container by where Compose mounts them."""
    given = {
        **EMAIL, "webhook_url_file": Path("/etc/trunkline/webhook.url"), "webhook_token_file": Path("/etc/token"),
        "nodes": ("app:3001",),
    }  # fmt: skip
    for compose, paths in (
        (False, ("/etc/trunkline/webhook.url", "/etc/token", "/etc/trunkline/smtp.password")),
        (True, ("/run/secrets/webhook_url", "/run/secrets/webhook_token", "/run/secrets/smtp_password")),
    ):
        document = read(section(**given, compose=compose))
        hook = document["receivers"][0]["webhook_configs"][0]
        assert (hook["url_file"], hook["http_config"]["authorization"]["credentials_file"]) == paths[:2]
        assert document["global"]["smtp_auth_password_file"] == paths[2]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({**WEBHOOK, "webhook_url_file": Path("/etc/url")}, "monitor.webhook_url"),
        ({"webhook_url": "https://me:secret@example.org/hook"}, "monitor.webhook_url"),
        ({"webhook_url_file": Path("url")}, "monitor.webhook_url_file"),
        ({"webhook_token_file": Path("/etc/token")}, "monitor.webhook_token_file"),
        ({**EMAIL, "smtp_password_file": None}, "monitor.smtp_user"),
        ({**EMAIL, "smtp_user": ""}, "monitor.smtp_password_file"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(changes: dict[str, Any], key: str) -> None:
    """And a URL that holds a password is not repeated."""
    with pytest.raises(SettingsError) as raised:
        alertmanager_yaml(section(**changes))
    assert raised.value.key == key
    assert "secret" not in str(raised.value)


def test_urls_for_an_older_alertmanager_are_read_from_their_files(tmp_path: Path) -> None:
    """The private text has the URL; a file without one is refused, and its content is not shown."""
    file = tmp_path / "webhook.url"
    file.write_text("https://example.org/hooks/s3cret\n")
    settings = section(webhook_url_file=file)
    assert "s3cret" not in alertmanager_yaml(settings)
    hook = yaml.safe_load(with_urls(settings))["receivers"][0]["webhook_configs"][0]
    assert hook == {"url": "https://example.org/hooks/s3cret", "send_resolved": True}
    file.write_text("s3cret")
    with pytest.raises(StartError, match="holds no http") as raised:
        with_urls(settings)
    assert "s3cret" not in str(raised.value)
    file.unlink()
    with pytest.raises(StartError, match="cannot be read"):
        with_urls(settings)


def test_every_alert_that_inhibition_names_exists() -> None:
    """A misspelt name would inhibit nothing, silently."""
    found = yaml.safe_load(alertmanager_yaml(MonitorSettings()))["inhibit_rules"]
    assert len(found) > 10
    matchers = [text for rule in found for text in (*rule["source_matchers"], *rule["target_matchers"])]
    named = {WATCHDOG, *(name for text in matchers for name in re.findall(r"Trunkline\w+", text))}
    assert named - {alert.name for alert in load.alerts(MonitorSettings())} == set()


def firing(name: str, **labels: str) -> dict[str, Any]:
    """An alert as Prometheus posts it."""
    return {"labels": {"alertname": name, "severity": "warning", **labels}, "startsAt": datetime.now(UTC).isoformat()}


@needs(ALERTMANAGER)
async def test_a_dead_node_is_one_message(tmp_path: Path) -> None:
    """What else fires on its instance waits, on other instances and on the fleet it does not; limits: the higher."""
    laid_out(tmp_path, {"alertmanager.yml": alertmanager_yaml(section(group_wait_ms=0))})
    dead, lives = {"job": "trunkline-node", "instance": "a:1"}, {"job": "trunkline-node", "instance": "b:1"}
    alerts = [
        firing("TrunklineNodeDown", **dead, scope="node", severity="critical"),
        firing("TrunklineMemoryHigh", **dead, scope="node"),
        firing("TrunklineBusDisconnected", **dead, scope="bus", severity="critical"),
        firing("TrunklineMemoryHigh", **lives, scope="node"),
        firing("TrunklineCapacityHigh", **lives, scope="node"),
        firing("TrunklineCapacityCritical", **lives, scope="node", severity="critical"),
        firing("TrunklineReconnectStorm", scope="fleet"),
        firing("TrunklineNoConnections", scope="fleet", severity="critical"),
        firing("TrunklineColourEmpty", colour="blue", scope="fleet"),
        firing("SomebodyElses", instance="a:1"),
    ]
    async with alertmanager(tmp_path / "alertmanager.yml", free_port()) as url, aiohttp.ClientSession() as http:
        async with http.post(f"{url}/api/v2/alerts", json=alerts) as posted:
            assert posted.status == 200
        expected = {
            ("TrunklineMemoryHigh", "a:1"),
            ("TrunklineBusDisconnected", "a:1"),
            ("TrunklineCapacityHigh", "b:1"),
            ("TrunklineColourEmpty", ""),
        }
        waits: set[tuple[str, str]] = set()
        # An alert is listed before Alertmanager has worked out who waits for whom.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_S):
                while waits != expected:
                    found = await answer(f"{url}/api/v2/alerts")
                    waits = {(each["labels"]["alertname"], each["labels"].get("instance", ""))
                             for each in found if each["status"]["inhibitedBy"]}  # fmt: skip
                    await asyncio.sleep(0.05)
    assert waits == expected
    assert len(found) == len(alerts)


@needs(ALERTMANAGER)
async def test_the_webhook_hears_firing_and_resolved_with_its_token(tmp_path: Path) -> None:
    """A warning reaches a real receiver with the bearer token of the file; a critical one too; info does not."""
    heard: asyncio.Queue[tuple[str | None, dict[str, Any]]] = asyncio.Queue()

    async def told(request: web.Request) -> web.Response:
        heard.put_nowait((request.headers.get("Authorization"), await request.json()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/told", told)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    (tmp_path / "token").write_text("hook-token\n")
    settings = section(
        webhook_url=f"http://127.0.0.1:{port}/told", webhook_token_file=tmp_path / "token", group_wait_ms=0,
        group_interval_ms=200,
    )  # fmt: skip
    laid_out(tmp_path, {"alertmanager.yml": alertmanager_yaml(settings)})
    quiet, loud = firing("Quiet", severity="info"), firing("Loud")
    try:
        async with alertmanager(tmp_path / "alertmanager.yml", free_port()) as url, aiohttp.ClientSession() as http:
            for alerts in ([quiet, loud], [{**loud, "endsAt": datetime.now(UTC).isoformat()}]):
                async with http.post(f"{url}/api/v2/alerts", json=alerts) as posted:
                    assert posted.status == 200
                async with asyncio.timeout(DEADLINE_S):
                    authorization, body = await heard.get()
                assert authorization == "Bearer hook-token"
                assert body["groupLabels"] == {"alertname": "Loud"}
                assert body["status"] == ("firing" if len(alerts) == 2 else "resolved")
    finally:
        await runner.cleanup()
    assert heard.empty()


def test_settings_are_not_changed_by_rendering() -> None:
    """Twice the same settings are twice the same text."""
    settings = section(**WEBHOOK, **EMAIL)
    assert alertmanager_yaml(settings) == alertmanager_yaml(msgspec.structs.replace(settings))
