"""Where the parts of the monitoring find each other: on one machine, or as services of one Compose network. Pure.

Rule: with `monitor.compose` the programs that the Compose file brings are named by service, and an address of the
operator's on loopback is refused, because in a container that is the container.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from trunkline.errors import SettingsError
from trunkline.settings.monitor import MonitorSettings
from trunkline.settings.sections import Settings

PROMETHEUS, ALERTMANAGER, NODE_EXPORTER, CADVISOR, POSTGRES_EXPORTER, GRAFANA = (
    "prometheus", "alertmanager", "node-exporter", "cadvisor", "postgres-exporter", "grafana",
)  # fmt: skip
"""Services of the Compose file."""

_LISTS = ("nodes", "balancers", "traefik", "nats_exporters", "node_exporters", "cadvisors", "postgres_exporters")
_LOOPBACK = ("localhost", "127.", "[::1]")


class Addresses(NamedTuple):
    """Host and port of each target by its kind.

    Attributes:
        prometheus_url: where Grafana and Prometheus itself find Prometheus.
        alertmanagers: those that get the alerts, and are scraped.
    """

    prometheus_url: str
    alertmanagers: tuple[str, ...]
    nodes: tuple[str, ...]
    balancers: tuple[str, ...]
    traefik: tuple[str, ...]
    nats_exporters: tuple[str, ...]
    node_exporters: tuple[str, ...]
    cadvisors: tuple[str, ...]
    postgres_exporters: tuple[str, ...]


def addresses(settings: Settings) -> Addresses:
    """The targets that the settings name, and what follows from them.

    Args:
        settings: `monitor`, and `server.port` when `monitor` names no nodes at all.

    Raises:
        SettingsError: with `monitor.compose`, a target, a mail server or a webhook on loopback, or no nodes.
    """
    monitor = settings.monitor
    nodes = monitor.nodes
    if not (nodes or monitor.nodes_file or monitor.nodes_dns or monitor.nodes_docker):
        if monitor.compose:
            allowed = "with monitor.compose it, nodes_file, nodes_dns or nodes_docker must say where the nodes are"
            raise SettingsError("monitor.nodes", allowed=allowed)
        nodes = (f"127.0.0.1:{settings.server.port}",)
    found = Addresses(
        prometheus_url=monitor.prometheus_url.rstrip("/"),
        alertmanagers=_once(monitor.alertmanagers),
        nodes=_once(nodes),
        balancers=_once(monitor.balancers),
        traefik=_once(monitor.traefik),
        nats_exporters=_once(monitor.nats_exporters),
        node_exporters=_once(monitor.node_exporters),
        cadvisors=_once(monitor.cadvisors),
        postgres_exporters=_once(monitor.postgres_exporters),
    )
    if not monitor.compose:
        return found
    for name in _LISTS:
        for target in getattr(found, name):
            _check_reachable(f"monitor.{name}", target, target)
    if monitor.email_to:
        _check_reachable("monitor.smtp", monitor.smtp, monitor.smtp)
    if monitor.webhook_url is not None:
        _check_reachable("monitor.webhook_url", monitor.webhook_url, host_and_path(monitor.webhook_url)[1])
    return _by_service(found)


def _once(targets: tuple[str, ...]) -> tuple[str, ...]:
    """Each target once: Prometheus would scrape one that stands twice in a job twice, as the same series."""
    return tuple(dict.fromkeys(targets))


def host_and_path(url: str) -> tuple[str, str, str]:
    """Scheme, host with port, and path of a URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc, parts.path.rstrip("/")


def _check_reachable(key: str, value: str, host: str) -> None:
    if host.startswith(_LOOPBACK):
        allowed = "with monitor.compose that is the container itself; name a host that containers reach"
        raise SettingsError(key, value=value, allowed=allowed)


def _by_service(found: Addresses) -> Addresses:
    defaults = MonitorSettings()
    url, alertmanagers = found.prometheus_url, found.alertmanagers
    return found._replace(
        prometheus_url=f"http://{PROMETHEUS}:9090" if url == defaults.prometheus_url else url,
        alertmanagers=(f"{ALERTMANAGER}:9093",) if alertmanagers == defaults.alertmanagers else alertmanagers,
        # The operator may have named them too.
        node_exporters=_once((f"{NODE_EXPORTER}:9100", *found.node_exporters)),
        cadvisors=_once((f"{CADVISOR}:8080", *found.cadvisors)),
    )
