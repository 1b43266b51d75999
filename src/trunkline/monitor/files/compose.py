"""The monitoring as a Docker Compose file: one network, its own volumes, only Grafana reachable from outside. Pure.

Rules:

- Prometheus and Alertmanager are reached within the network alone; Grafana listens on port 3000.
- Memory has a limit, and Prometheus knows it, so that it collects garbage before it is killed.
- Secrets are files that Compose mounts at /run/secrets. They stay readable to one user only, so Grafana runs as that
  user (TRUNKLINE_UID); those of Prometheus and Alertmanager are to be readable to user 65534, as which they run.
"""

from __future__ import annotations

from typing import Final

from trunkline.monitor.files import addresses as names
from trunkline.monitor.files.credentials import DIRECTORY, PASSWORD_FILE, USER_FILE
from trunkline.monitor.files.prometheus import DOCKER_SOCKET, arguments
from trunkline.monitor.files.secret_paths import secret_file
from trunkline.monitor.text.yaml_writer import Document, dump
from trunkline.settings.sections import Settings

PATH: Final = "docker-compose.yml"

IMAGES: Final = {
    names.PROMETHEUS: "prom/prometheus:v3.5.0",
    names.ALERTMANAGER: "prom/alertmanager:v0.28.1",
    names.GRAFANA: "grafana/grafana:12.1.0",
    names.NODE_EXPORTER: "prom/node-exporter:v1.9.1",
    names.CADVISOR: "ghcr.io/google/cadvisor:v0.60.3",
    names.POSTGRES_EXPORTER: "prometheuscommunity/postgres-exporter:v0.17.1",
}
"""Image of each service."""

_POSTGRES_SECRETS: Final = ("postgres_user", "postgres_password")


def compose_yaml(settings: Settings) -> str:
    """Text of docker-compose.yml.

    Args:
        settings: `monitor`, and what it refers to.
    """
    services: Document = {
        names.PROMETHEUS: _prometheus(settings),
        names.ALERTMANAGER: _alertmanager(settings),
        names.GRAFANA: _grafana(settings),
        names.NODE_EXPORTER: _node_exporter(),
        names.CADVISOR: _cadvisor(),
    }
    if any(target.startswith(f"{names.POSTGRES_EXPORTER}:") for target in settings.monitor.postgres_exporters):
        services[names.POSTGRES_EXPORTER] = _postgres_exporter()
    document: Document = {
        "name": "trunkline-monitor",
        "services": {name: {"image": IMAGES[name], **_COMMON, **service} for name, service in services.items()},
        "networks": {"monitoring": {}},
        "volumes": {"prometheus": {}, "alertmanager": {}, "grafana": {}},
        "secrets": _secrets(settings, services),
    }
    return dump(
        document,
        "First: trunkline monitor credentials DIRECTORY_OF_THIS_FILE",
        "Then: TRUNKLINE_UID=$(id -u) docker compose up -d",
    )


_COMMON: Final[Document] = {
    "restart": "unless-stopped",
    "networks": ["monitoring"],
    "security_opt": ["no-new-privileges:true"],
}


def _prometheus(settings: Settings) -> Document:
    service: Document = {
        "command": [
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
            *arguments(settings),
        ],
        "expose": ["9090"],
        "mem_limit": "2g",
        "environment": {"GOMEMLIMIT": "1800MiB"},
        "volumes": ["./prometheus:/etc/prometheus:ro", "prometheus:/prometheus"],
    }
    monitor = settings.monitor
    if monitor.nodes_file.startswith("/"):
        service["volumes"].append(f"{monitor.nodes_file}:{monitor.nodes_file}:ro")
    if monitor.nodes_docker:
        daemon = settings.balancer.docker or DOCKER_SOCKET
        if daemon.startswith("unix://"):
            socket = daemon.removeprefix("unix://")
            service["volumes"].append(f"{socket}:{socket}:ro")
            service["group_add"] = ["${DOCKER_GROUP_ID:?set it to the group id that owns the Docker socket}"]
    return service | _read(settings, "token_file")


def _alertmanager(settings: Settings) -> Document:
    return {
        "command": ["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager"],
        "expose": ["9093"],
        "volumes": ["./alertmanager:/etc/alertmanager:ro", "alertmanager:/alertmanager"],
        **_read(settings, "webhook_url_file", "webhook_token_file", "watchdog_url_file", "smtp_password_file"),
    }


def _grafana(settings: Settings) -> Document:
    monitor = settings.monitor
    environment = {
        "GF_SECURITY_ADMIN_USER__FILE": f"/run/secrets/{USER_FILE}",
        "GF_SECURITY_ADMIN_PASSWORD__FILE": f"/run/secrets/{PASSWORD_FILE}",
        "GF_SERVER_ROOT_URL": _literal(monitor.grafana_url),
        "GF_USERS_ALLOW_SIGN_UP": "false",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    }
    if monitor.email_to:
        environment |= {
            "GF_SMTP_ENABLED": "true",
            "GF_SMTP_HOST": monitor.smtp,
            "GF_SMTP_FROM_ADDRESS": monitor.email_from,
            "GF_SMTP_STARTTLS_POLICY": "MandatoryStartTLS" if monitor.smtp_tls else "OpportunisticStartTLS",
        }
        password = secret_file(monitor, "smtp_password_file")
        if password is not None:
            environment |= {"GF_SMTP_USER": _literal(monitor.smtp_user), "GF_SMTP_PASSWORD__FILE": password.seen}
    read = _read(settings, "webhook_url_file", "webhook_token_file", "smtp_password_file")
    return {
        "user": "${TRUNKLINE_UID:?set it to the output of id -u}",
        "ports": ["3000:3000"],
        "mem_limit": "1g",
        "environment": environment,
        "volumes": [
            "./grafana/provisioning:/etc/grafana/provisioning:ro",
            f"./grafana/dashboards:{monitor.grafana_dashboards_path}:ro",
            "grafana:/var/lib/grafana",
        ],
        "secrets": [USER_FILE, PASSWORD_FILE, *read.get("secrets", [])],
    }


def _node_exporter() -> Document:
    return {
        "command": ["--path.rootfs=/host"],
        "pid": "host",
        "expose": ["9100"],
        "mem_limit": "128m",
        "volumes": ["/:/host:ro,rslave"],
    }


def _cadvisor() -> Document:
    return {
        # Of each container only what rules and dashboards use is counted at all.
        "command": ["--docker_only=true", "--housekeeping_interval=15s", "--store_container_labels=false"],
        "expose": ["8080"],
        "mem_limit": "256m",
        "devices": ["/dev/kmsg"],
        "volumes": ["/:/rootfs:ro", "/var/run:/var/run:ro", "/sys:/sys:ro", "/var/lib/docker:/var/lib/docker:ro"],
    }


def _postgres_exporter() -> Document:
    user, password = _POSTGRES_SECRETS
    return {
        "command": ["--extend.query-path=/etc/postgres_exporter/queries.yml"],
        "expose": ["9187"],
        "mem_limit": "128m",
        "environment": {
            "DATA_SOURCE_URI": "${POSTGRES_URI:?set it to host:port/database?sslmode=require}",
            "DATA_SOURCE_USER_FILE": f"/run/secrets/{user}",
            "DATA_SOURCE_PASS_FILE": f"/run/secrets/{password}",
        },
        "volumes": ["./postgres:/etc/postgres_exporter:ro"],
        "secrets": list(_POSTGRES_SECRETS),
    }


def _literal(text: str) -> str:
    """Compose replaces `$NAME` by the environment; doubled it is a dollar."""
    return text.replace("$", "$$")


def _read(settings: Settings, *keys: str) -> Document:
    found = [file.name for key in keys if (file := secret_file(settings.monitor, key)) is not None]
    return {"secrets": found} if found else {}


def _secrets(settings: Settings, services: Document) -> Document:
    """Where Compose finds each secret that a service mounts: the operator's file, or one beside this file."""
    mounted = {name: None for service in services.values() for name in service.get("secrets", [])}
    own = (USER_FILE, PASSWORD_FILE, *_POSTGRES_SECRETS)
    found: Document = {}
    for name in mounted:
        file = None if name in own else secret_file(settings.monitor, f"{name}_file")
        found[name] = {"file": file.host if file else f"./{DIRECTORY}/{name}"}
    return found
