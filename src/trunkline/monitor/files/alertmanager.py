"""Alertmanager's file: who is notified of which alert, how often, and which alerts a worse one inhibits. Pure.

Rules:

- critical goes to e-mail and webhook, warning to the webhook, info to nobody. An alert without a severity is somebody
  else's, and is sent like a warning rather than lost.
- The Watchdog always fires. It has a receiver that is notified every few minutes and raises the alarm when nothing
  arrives: the only alert that survives the death of Prometheus.
- Secrets are read by Alertmanager from files. A webhook URL from a file needs Alertmanager 0.26; for older ones the URL
  is no secret (`monitor.webhook_url`) with its token in a file, or `alertmanager_urls` makes a text for private use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trunkline.errors import SettingsError
from trunkline.monitor.files.secret_paths import SecretFile, secret_file
from trunkline.monitor.text.data_files import data_file
from trunkline.monitor.text.yaml_writer import Document, dump
from trunkline.settings.monitor import MonitorSettings
from trunkline.settings.quantities import duration

WATCHDOG: Final = "TrunklineWatchdog"

_WATCHDOG_REPEAT: Final = "5m"
_SUBJECT: Final = (
    "[{{ .Status | toUpper }}{{ if eq .Status \"firing\" }} {{ .Alerts.Firing | len }}{{ end }}] "
    "{{ .CommonLabels.alertname }}{{ with .CommonLabels.colour }} on {{ . }}{{ end }}"
)  # fmt: skip
_TEXT: Final = """\
{{ range .Alerts }}{{ .Status | toUpper }} {{ .Labels.severity }}: {{ .Annotations.summary }}
  alert: {{ .Labels.alertname }}{{ with .Labels.instance }} at {{ . }}{{ end }}
  since: {{ .StartsAt.UTC.Format "2006-01-02 15:04:05 UTC" }}
{{ with .Annotations.description }}  meaning: {{ . }}
{{ end }}{{ with .Annotations.runbook_url }}  what to do: {{ . }}
{{ end }}{{ with .Annotations.dashboard_url }}  dashboard: {{ . }}
{{ end }}
{{ end }}"""


def alertmanager_yaml(settings: MonitorSettings, urls: Mapping[str, str] | None = None) -> str:
    """Text of alertmanager.yml; it holds no secret unless `urls` are given.

    Args:
        settings: the section.
        urls: the URL that each file of `url_files` holds, by its path; None names the files instead.

    Raises:
        SettingsError: values that exclude each other, or that cannot be meant.
    """
    if urls is None and url_files(settings):
        return dump(_document(settings, None), "webhook_configs with url_file need Alertmanager 0.26 or newer.")
    return dump(_document(settings, urls))


def url_files(settings: MonitorSettings) -> list[SecretFile]:
    """The files with URLs that Alertmanager is to read."""
    found = (secret_file(settings, name) for name in ("webhook_url_file", "watchdog_url_file"))
    return [file for file in found if file is not None]


def _document(settings: MonitorSettings, urls: Mapping[str, str] | None) -> Document:
    _check(settings)
    document: Document = {}
    if settings.email_to:
        document["global"] = _mail_server(settings)
    document["route"] = _routes(settings)
    document["inhibit_rules"] = data_file("inhibit_rules.yml").document
    document["receivers"] = _receivers(settings, urls)
    return document


def _check(settings: MonitorSettings) -> None:
    if settings.webhook_url is not None:
        if settings.webhook_url_file is not None:
            allowed = "monitor.webhook_url_file is set too; keep one"
            raise SettingsError("monitor.webhook_url", allowed=allowed)
        if "@" in settings.webhook_url.partition("//")[2].partition("/")[0]:
            allowed = "it holds a user or password; put the URL into monitor.webhook_url_file"
            raise SettingsError("monitor.webhook_url", allowed=allowed)
    elif settings.webhook_token_file is not None and settings.webhook_url_file is None:
        raise SettingsError("monitor.webhook_token_file", allowed="no webhook is set; set monitor.webhook_url too")
    if settings.smtp_user and settings.smtp_password_file is None:
        raise SettingsError("monitor.smtp_user", allowed="monitor.smtp_password_file is missing; set both")
    if settings.smtp_password_file is not None and not settings.smtp_user:
        raise SettingsError("monitor.smtp_password_file", allowed="monitor.smtp_user is missing; set both")


def _mail_server(settings: MonitorSettings) -> Document:
    server: Document = {
        "smtp_smarthost": settings.smtp,
        "smtp_from": settings.email_from,
        "smtp_require_tls": settings.smtp_tls,
    }
    password = secret_file(settings, "smtp_password_file")
    if password is not None:
        server["smtp_auth_username"] = settings.smtp_user
        server["smtp_auth_password_file"] = password.seen
    return server


def _routes(settings: MonitorSettings) -> Document:
    return {
        # An alert without a severity is sent as well.
        "receiver": "warning",
        "group_by": ["alertname", "job", "colour"],
        "group_wait": duration(settings.group_wait_ms),
        "group_interval": duration(settings.group_interval_ms),
        "repeat_interval": duration(settings.repeat_interval_ms),
        "routes": [
            {
                "receiver": "watchdog",
                "matchers": [f'alertname="{WATCHDOG}"'],
                "group_wait": "0s",
                "group_interval": "1m",
                "repeat_interval": _WATCHDOG_REPEAT,
            },
            {"receiver": "critical", "matchers": ['severity="critical"']},
            {"receiver": "warning", "matchers": ['severity="warning"']},
            {"receiver": "nobody", "matchers": ['severity="info"']},
        ],
    }


def _receivers(settings: MonitorSettings, urls: Mapping[str, str] | None) -> list[Document]:
    webhook = _webhook(settings, urls)
    critical: Document = {"name": "critical"}
    if settings.email_to:
        critical["email_configs"] = [
            {
                "to": ", ".join(settings.email_to),
                "send_resolved": True,
                "headers": {"Subject": _SUBJECT},
                "html": "",
                "text": _TEXT,
            }
        ]
    warning: Document = {"name": "warning"}
    for receiver in (critical, warning):
        if webhook:
            receiver["webhook_configs"] = [webhook]
    watchdog: Document = {"name": "watchdog"}
    beat = secret_file(settings, "watchdog_url_file")
    if beat is not None:
        # It must not hear "resolved": silence is the message.
        watchdog["webhook_configs"] = [{**_url_of(beat, urls), "send_resolved": False}]
    return [critical, warning, watchdog, {"name": "nobody"}]


def _webhook(settings: MonitorSettings, urls: Mapping[str, str] | None) -> Document:
    file = secret_file(settings, "webhook_url_file")
    webhook: Document
    if file is not None:
        webhook = _url_of(file, urls)
    elif settings.webhook_url is not None:
        webhook = {"url": settings.webhook_url}
    else:
        return {}
    webhook["send_resolved"] = True
    token = secret_file(settings, "webhook_token_file")
    if token is not None:
        webhook["http_config"] = {"authorization": {"credentials_file": token.seen}}
    return webhook


def _url_of(file: SecretFile, urls: Mapping[str, str] | None) -> Document:
    return {"url_file": file.seen} if urls is None else {"url": urls[file.seen]}
