"""What Grafana reads at its start. No Grafana runs here: the fields are those of its provisioning documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.monitor.watchers import monitor
from trunkline.errors import SettingsError
from trunkline.monitor.files.compose import compose_yaml
from trunkline.monitor.files.grafana import provisioning
from trunkline.settings.sections import Settings

SOURCES = "grafana/provisioning/datasources/trunkline.yml"
PROVIDERS = "grafana/provisioning/dashboards/trunkline.yml"
POINTS = "grafana/provisioning/alerting/contact-points.yml"
POLICIES = "grafana/provisioning/alerting/policies.yml"
EVERYBODY: dict[str, Any] = {
    "email_to": ("oncall@example.org", "lead@example.org"),
    "webhook_url_file": Path("/etc/trunkline/webhook.url"),
    "webhook_token_file": Path("/etc/trunkline/webhook.token"),
}


def read(settings: Settings) -> dict[str, Any]:
    """The documents by path."""
    return {path: yaml.safe_load(text) for path, text in provisioning(settings).items()}


def test_prometheus_is_the_default_source_through_the_proxy() -> None:
    """People may edit it; the step is the scrape interval, or rates over it would be empty."""
    prometheus, alertmanager = read(monitor(prometheus_url="http://prom:9090/", scrape_interval_ms=30_000))[SOURCES][
        "datasources"
    ]
    found = {key: prometheus[key] for key in ("type", "access", "url", "isDefault", "editable")}
    assert found == {
        "type": "prometheus", "access": "proxy", "url": "http://prom:9090", "isDefault": True, "editable": True,
    }  # fmt: skip
    assert prometheus["jsonData"]["timeInterval"] == "30s"
    # By this source the alerts are seen in Grafana.
    assert (alertmanager["type"], alertmanager["url"]) == ("alertmanager", "http://127.0.0.1:9093")
    assert not alertmanager.get("isDefault")


def test_without_an_alertmanager_there_is_no_source_for_it() -> None:
    """A source that leads nowhere would show an error for ever."""
    assert len(read(monitor(alertmanagers=()))[SOURCES]["datasources"]) == 1


def test_dashboards_are_read_again_every_ten_seconds_and_may_be_edited() -> None:
    """From the directory that the settings name."""
    (provider,) = read(monitor(grafana_dashboards_path="/srv/dashboards"))[PROVIDERS]["providers"]
    assert (provider["type"], provider["updateIntervalSeconds"], provider["allowUiUpdates"]) == ("file", 10, True)
    assert provider["options"] == {"path": "/srv/dashboards"}


def test_nobody_to_tell_leaves_grafanas_policies_alone() -> None:
    """A file of policies replaces what a Grafana has."""
    assert provisioning(monitor()).keys() == {SOURCES, PROVIDERS}


def test_contact_points_are_mail_and_webhook() -> None:
    """Critical by both, the rest by the webhook; Grafana reads URL and token from their files."""
    found = read(monitor(**EVERYBODY))
    points = {point["name"]: point["receivers"] for point in found[POINTS]["contactPoints"]}
    assert {name: [each["type"] for each in receivers] for name, receivers in points.items()} == {
        "Trunkline critical": ["email", "webhook"],
        "Trunkline warning": ["webhook"],
    }
    mail, hook = points["Trunkline critical"]
    assert mail["settings"]["addresses"] == "oncall@example.org;lead@example.org"
    assert hook["settings"]["url"] == "$__file{/etc/trunkline/webhook.url}"
    assert hook["settings"]["authorization_credentials"] == "$__file{/etc/trunkline/webhook.token}"
    uids = [each["uid"] for receivers in points.values() for each in receivers]
    assert len(set(uids)) == len(uids)
    assert all(len(uid) <= 40 for uid in uids)
    (policy,) = found[POLICIES]["policies"]
    assert policy["receiver"] == "Trunkline warning"
    assert {policy["receiver"], *(route["receiver"] for route in policy["routes"])} == points.keys()


def test_with_mail_alone_it_hears_everything() -> None:
    """Every policy has a contact point that exists."""
    found = read(monitor(email_to=("oncall@example.org",)))
    (policy,) = found[POLICIES]["policies"]
    assert {policy["receiver"], *(route["receiver"] for route in policy["routes"])} == {
        point["name"] for point in found[POINTS]["contactPoints"]
    }


def test_a_dollar_in_a_url_stays_a_dollar() -> None:
    """Grafana would take $name for a variable of its environment."""
    found = read(monitor(webhook_url="http://10.0.0.1/hook?for=$team"))[POINTS]
    assert found["contactPoints"][0]["receivers"][0]["settings"]["url"] == "http://10.0.0.1/hook?for=$$team"


def compose(**changes: Any) -> dict[str, Any]:
    """docker-compose.yml."""
    document: dict[str, Any] = yaml.safe_load(
        compose_yaml(monitor(compose=True, nodes=("app:3001",), smtp="mail:587", **changes))
    )
    return document


def test_compose_opens_grafana_alone_and_keeps_what_is_stored() -> None:
    """Port 3000 is published and no other; memory is limited; data is in volumes; retention is a flag."""
    found = compose(retention_days=30)
    services = found["services"]
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "grafana": ["3000:3000"]
    }
    assert (services["prometheus"]["mem_limit"], services["grafana"]["mem_limit"]) == ("2g", "1g")
    assert "--storage.tsdb.retention.time=30d" in services["prometheus"]["command"]
    assert all(service["networks"] == ["monitoring"] for service in services.values())
    for name in ("prometheus", "alertmanager", "grafana"):
        assert name in found["volumes"]
        assert any(volume.startswith(f"{name}:") for volume in services[name]["volumes"])


def test_compose_hands_over_secrets_as_files() -> None:
    """Each service gets those it reads, from the operator's files or the kept credentials."""
    found = compose(**EVERYBODY, token_file=Path("/etc/trunkline/admin.token"))
    grafana, environment = found["services"]["grafana"], found["services"]["grafana"]["environment"]
    assert environment["GF_SECURITY_ADMIN_USER__FILE"] == "/run/secrets/grafana_admin_user"
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/secrets/grafana_admin_password"
    assert grafana["secrets"] == ["grafana_admin_user", "grafana_admin_password", "webhook_url", "webhook_token"]
    assert found["services"]["prometheus"]["secrets"] == ["token"]
    assert found["secrets"] == {
        "token": {"file": "/etc/trunkline/admin.token"},
        "webhook_url": {"file": "/etc/trunkline/webhook.url"},
        "webhook_token": {"file": "/etc/trunkline/webhook.token"},
        "grafana_admin_user": {"file": "./secrets/grafana_admin_user"},
        "grafana_admin_password": {"file": "./secrets/grafana_admin_password"},
    }
    mounted = {name for service in found["services"].values() for name in service.get("secrets", [])}
    assert mounted == found["secrets"].keys()


def test_compose_brings_what_the_settings_ask_for() -> None:
    """The Docker socket only for discovery by Docker, PostgreSQL's exporter only when it is a target."""
    assert "postgres-exporter" not in compose()["services"]
    assert "postgres-exporter" in compose(postgres_exporters=("postgres-exporter:9187",))["services"]
    socket = "/var/run/docker.sock:/var/run/docker.sock:ro"
    assert socket not in compose()["services"]["prometheus"]["volumes"]
    assert socket in compose(nodes_docker=True)["services"]["prometheus"]["volumes"]


def test_a_relative_path_of_a_secret_is_refused() -> None:
    """Every program would look for it elsewhere."""
    with pytest.raises(SettingsError, match=r"monitor\.webhook_url_file.*absolute"):
        provisioning(monitor(webhook_url_file=Path("webhook.url")))
