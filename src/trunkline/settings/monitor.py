"""[monitor]: what Prometheus scrapes, who gets alerts, what Grafana gets. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from trunkline.settings.types import Ms, PositiveMs, about

HostPort = Annotated[
    str,
    Meta(
        pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}$",
        extra={"allowed": 'host and port, such as "10.0.0.1:3001"'},
    ),
]
HttpUrl = Annotated[str, Meta(pattern=r"^https?://[^\s]+$", extra={"allowed": "an http:// or https:// URL"})]
Share = Annotated[float, Meta(gt=0, lt=1)]

DEFAULT_SCRAPE_TIMEOUT_MS = 10_000


class MonitorSettings(msgspec.Struct, frozen=True):
    """[monitor]: rendering and running Prometheus, Alertmanager and Grafana's provisioning."""

    scrape_interval_ms: Annotated[PositiveMs, about("How often every target is scraped.")] = 15_000
    scrape_timeout_ms: Annotated[
        PositiveMs | None, about("How long a scrape may take; by default 10 s, or the interval when that is shorter.")
    ] = None
    evaluation_interval_ms: Annotated[PositiveMs, about("How often rules are evaluated.")] = 15_000
    patience: Annotated[
        float,
        about(
            "Factor for the time that every alert must last: 1 as declared, less for trying a fleet out.",
            ge=0.01,
            le=100,
        ),
    ] = 1.0
    retention_days: Annotated[int, about("Days that Prometheus keeps samples.", ge=1, le=3650)] = 15
    nodes: Annotated[tuple[HostPort, ...], about("Nodes to scrape, when they are few and fixed.")] = ()
    nodes_file: Annotated[str, about("File (Prometheus's file_sd) that names the nodes; empty: none.")] = ""
    nodes_dns: Annotated[str, about("DNS name whose A records are the nodes; empty: none.")] = ""
    nodes_dns_port: Annotated[int, about("Data port of those.", ge=1, le=65535)] = 3001
    nodes_docker: Annotated[bool, about("Find nodes by their Docker label trunkline.enable.")] = False
    balancers: Annotated[tuple[HostPort, ...], about("Balancers: data port, or admin port on their machine.")] = ()
    token_file: Annotated[
        Path | None, about("File with the admin token, for nodes and balancers that do not allow Prometheus's network.")
    ] = None
    traefik: Annotated[tuple[HostPort, ...], about("Addresses of Traefik's metrics.")] = ()
    nats_exporters: Annotated[tuple[HostPort, ...], about("Addresses of prometheus-nats-exporter.")] = ()
    node_exporters: Annotated[tuple[HostPort, ...], about("Addresses of node_exporter, mostly port 9100.")] = ()
    cadvisors: Annotated[tuple[HostPort, ...], about("Addresses of cAdvisor, mostly port 8080.")] = ()
    postgres_exporters: Annotated[tuple[HostPort, ...], about("Addresses of postgres_exporter, mostly 9187.")] = ()
    alertmanagers: Annotated[tuple[HostPort, ...], about("Alertmanagers that get the alerts.")] = ("127.0.0.1:9093",)
    idle_colour: Annotated[str, about("Deploy group that has no clients now, and is not missed; empty: none.")] = ""
    webhook_url_file: Annotated[Path | None, about("File that holds the URL that gets every alert.")] = None
    webhook_url: Annotated[HttpUrl | None, about("The same URL when it is no secret; keep one of the two.")] = None
    webhook_token_file: Annotated[Path | None, about("File with the bearer token of the webhook.")] = None
    watchdog_url_file: Annotated[
        Path | None, about("File with the URL that gets the Watchdog alert, and reports when it stays away.")
    ] = None
    email_to: Annotated[tuple[str, ...], about("Addresses that get critical alerts.")] = ()
    email_from: Annotated[str, about("Sender of those mails.")] = "trunkline@localhost"
    smtp: Annotated[HostPort, about("Mail server.")] = "127.0.0.1:25"
    smtp_user: Annotated[str, about("User at the mail server; empty: no log-in.")] = ""
    smtp_password_file: Annotated[Path | None, about("File that holds that user's password.")] = None
    smtp_tls: Annotated[bool, about("Refuse a mail server without TLS.")] = True
    group_wait_ms: Annotated[Ms, about("How long the first alert of a group waits for others.")] = 30_000
    group_interval_ms: Annotated[PositiveMs, about("Time between two messages of a group.")] = 300_000
    repeat_interval_ms: Annotated[PositiveMs, about("Time after which an alert is sent again.")] = 14_400_000
    grafana_url: Annotated[HttpUrl, about("Where people find Grafana, for links.")] = "http://localhost:3000"
    runbook_url: Annotated[str, about("Where people find docs/runbooks; empty: the path in this project.")] = ""
    prometheus_url: Annotated[HttpUrl, about("Where Grafana finds Prometheus.")] = "http://localhost:9090"
    grafana_credentials: Annotated[Literal["file", "vault"], about("Source of Grafana's user and password.")] = "file"
    grafana_user_file: Annotated[Path | None, about("File that holds Grafana's admin user; by default admin.")] = None
    grafana_password_file: Annotated[Path | None, about("File with its password; by default one is made.")] = None
    grafana_dashboards_path: Annotated[str, about("Directory in which Grafana finds the dashboards.")] = (
        "/var/lib/grafana/dashboards/trunkline"
    )
    vault_url: Annotated[HttpUrl | None, about("Address of Vault; by default the one of VAULT_ADDR.")] = None
    vault_token_file: Annotated[
        Path | None, about("File with the token for Vault; by default VAULT_TOKEN, or ~/.vault-token.")
    ] = None
    vault_role_id: Annotated[str, about("Role ID to log in to Vault by AppRole, in the place of a token.")] = ""
    vault_secret_id_file: Annotated[Path | None, about("File with the secret ID of that role.")] = None
    vault_approle_path: Annotated[str, about("Where AppRole is enabled in Vault, below auth/.")] = "approle"
    vault_path: Annotated[str, about("Secret in Vault (KV v2), as mount/path, with admin_user and admin_password.")] = (
        "secret/trunkline/grafana"
    )
    compose: Annotated[bool, about("Render docker-compose.yml too, with its services as addresses.")] = False
    kubernetes: Annotated[bool, about("Render objects of Prometheus's operator too.")] = False
    slo_handshake: Annotated[Share, about("Share of handshakes that are to succeed.")] = 0.999
    slo_delivery: Annotated[Share, about("Share of publications to be delivered within slo_delivery_ms.")] = 0.99
    slo_delivery_ms: Annotated[
        Literal[10, 25, 50, 100, 250, 500, 1000, 2500, 5000], about("Limit of a delivery; a bucket of its histogram.")
    ] = 250

    @property
    def scrape_limit_ms(self) -> int:
        """How long a scrape may take, with the default that fits the interval."""
        if self.scrape_timeout_ms is not None:
            return self.scrape_timeout_ms
        return min(DEFAULT_SCRAPE_TIMEOUT_MS, self.scrape_interval_ms)
