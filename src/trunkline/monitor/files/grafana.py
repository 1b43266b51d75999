"""What Grafana reads at its start: data sources, the dashboards' directory, contact points and policies. Pure.

Rules:

- Dashboards are read again every ten seconds and may be edited: an edit lives until the file changes.
- Alerts are made and sent by Prometheus and Alertmanager; Grafana shows them through the Alertmanager data source. The
  contact points and policies are for rules that people make in Grafana.
- A file that sets policies replaces all that a Grafana has, so it is rendered only when there is a receiver.
- A secret is named by `$__file{path}`, which Grafana reads itself.
"""

from __future__ import annotations

from typing import Final

from trunkline.monitor.files.addresses import addresses
from trunkline.monitor.files.secret_paths import secret_file
from trunkline.monitor.text.yaml_writer import Document, dump
from trunkline.settings.monitor import MonitorSettings
from trunkline.settings.quantities import duration
from trunkline.settings.sections import Settings

PROMETHEUS_UID: Final = "trunkline-prometheus"
ALERTMANAGER_UID: Final = "trunkline-alertmanager"
FOLDER_UID: Final = "trunkline"

_DIRECTORY: Final = "grafana/provisioning"


def provisioning(settings: Settings) -> dict[str, str]:
    """Relative path and text of every file.

    Args:
        settings: `monitor`, and what it leans on.
    """
    monitor = settings.monitor
    files = {
        f"{_DIRECTORY}/datasources/trunkline.yml": dump(_data_sources(settings)),
        f"{_DIRECTORY}/dashboards/trunkline.yml": dump(_dashboards(monitor)),
    }
    points = _contact_points(monitor)
    if points:
        files[f"{_DIRECTORY}/alerting/contact-points.yml"] = dump({"apiVersion": 1, "contactPoints": points})
        files[f"{_DIRECTORY}/alerting/policies.yml"] = dump(
            {"apiVersion": 1, "policies": [_policy(monitor, {str(point["name"]) for point in points})]},
            "Grafana has one tree of policies, and this one takes its place: leave the file out where people keep one.",
        )
    return files


def _data_sources(settings: Settings) -> Document:
    found = addresses(settings)
    sources: list[Document] = [
        {
            "name": "Prometheus",
            "uid": PROMETHEUS_UID,
            "type": "prometheus",
            "access": "proxy",
            "url": found.prometheus_url,
            "isDefault": True,
            "editable": True,
            "jsonData": {
                "httpMethod": "POST",
                # Grafana takes it for the least step that makes sense, and for $__rate_interval.
                "timeInterval": duration(settings.monitor.scrape_interval_ms),
                "prometheusType": "Prometheus",
            },
        }
    ]
    if found.alertmanagers:
        sources.append(
            {
                "name": "Alertmanager",
                "uid": ALERTMANAGER_UID,
                "type": "alertmanager",
                "access": "proxy",
                "url": f"http://{found.alertmanagers[0]}",
                "editable": True,
                "jsonData": {"implementation": "prometheus", "handleGrafanaManagedAlerts": False},
            }
        )
    return {"apiVersion": 1, "datasources": sources}


def _dashboards(settings: MonitorSettings) -> Document:
    provider: Document = {
        "name": "trunkline",
        "orgId": 1,
        "folder": "Trunkline",
        "folderUid": FOLDER_UID,
        "type": "file",
        # A dashboard whose file is gone stays, with the edits people made.
        "disableDeletion": True,
        "updateIntervalSeconds": 10,
        "allowUiUpdates": True,
        "options": {"path": settings.grafana_dashboards_path},
    }
    return {"apiVersion": 1, "providers": [provider]}


def _contact_points(settings: MonitorSettings) -> list[Document]:
    webhook, email = _webhook(settings), _email(settings)
    points: list[Document] = []
    if email or webhook:
        receivers = [{**receiver, "uid": f"trunkline-critical-{receiver['type']}"} for receiver in (*email, *webhook)]
        points.append({"orgId": 1, "name": "Trunkline critical", "receivers": receivers})
    if webhook:
        receivers = [{**receiver, "uid": f"trunkline-warning-{receiver['type']}"} for receiver in webhook]
        points.append({"orgId": 1, "name": "Trunkline warning", "receivers": receivers})
    return points


def _email(settings: MonitorSettings) -> list[Document]:
    if not settings.email_to:
        return []
    to = ";".join(settings.email_to)
    return [{"type": "email", "settings": {"addresses": _literal(to), "singleEmail": True}}]


def _webhook(settings: MonitorSettings) -> list[Document]:
    file = secret_file(settings, "webhook_url_file")
    if file is None and settings.webhook_url is None:
        return []
    url = _read_from(file.seen) if file else _literal(settings.webhook_url or "")
    hook: Document = {"url": url, "httpMethod": "POST"}
    token = secret_file(settings, "webhook_token_file")
    if token is not None:
        hook |= {"authorization_scheme": "Bearer", "authorization_credentials": _read_from(token.seen)}
    return [{"type": "webhook", "settings": hook}]


def _policy(settings: MonitorSettings, points: set[str]) -> Document:
    warning = "Trunkline warning" if "Trunkline warning" in points else "Trunkline critical"
    return {
        "orgId": 1,
        "receiver": warning,
        "group_by": ["grafana_folder", "alertname"],
        "group_wait": duration(settings.group_wait_ms),
        "group_interval": duration(settings.group_interval_ms),
        "repeat_interval": duration(settings.repeat_interval_ms),
        "routes": [{"receiver": "Trunkline critical", "object_matchers": [["severity", "=", "critical"]]}],
    }


def _read_from(path: str) -> str:
    return f"$__file{{{path}}}"


def _literal(text: str) -> str:
    """Grafana replaces `$NAME` by the environment; doubled it is a dollar."""
    return text.replace("$", "$$")
