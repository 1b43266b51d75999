"""Prometheus's own file: what is scraped, how often, and what of it is kept. Pure.

Rules:

- A job's name is the one that rules and dashboards use; it is written here and nowhere else.
- Every job has a limit of samples and of labels: a target that runs wild loses its scrape, not everybody's memory.
- What discovery knows of a node (its colour) becomes a label of the target; the node's own label for it is dropped, so
  that all series of an instance have the same.
- How long samples are kept is no part of this file but a flag; see `arguments`.
"""

from __future__ import annotations

import re
from typing import Final

from trunkline.errors import SettingsError
from trunkline.monitor.files.addresses import Addresses, addresses, host_and_path
from trunkline.monitor.files.secret_paths import secret_file
from trunkline.monitor.rules import foreign_series
from trunkline.monitor.rules.render import rules_path
from trunkline.monitor.text.yaml_writer import Document, dump
from trunkline.settings.quantities import duration
from trunkline.settings.sections import Settings

NODES: Final = "trunkline-node"
BALANCERS: Final = "trunkline-balancer"
DOCKER_SOCKET: Final = "unix:///var/run/docker.sock"

_LABELS: Final[Document] = {"label_limit": 64, "label_name_length_limit": 200, "label_value_length_limit": 1000}
_OWN_LABELS: Final[Document] = {"label_limit": 24, "label_name_length_limit": 64, "label_value_length_limit": 300}
# A node has some 230 samples, however many connections; the rest is room for reasons and aliases.
NODE_SAMPLES: Final = 2_000
BALANCER_SAMPLES: Final = 20_000
_EXPORTER_SAMPLES: Final = 20_000
_CADVISOR_SAMPLES: Final = 50_000


def prometheus_yaml(settings: Settings, groups: tuple[str, ...]) -> str:
    """Text of prometheus.yml.

    Args:
        settings: `monitor`, and what it leans on.
        groups: names of the rule groups.

    Raises:
        SettingsError: values that Prometheus would refuse, or that cannot be meant.
    """
    monitor = settings.monitor
    if monitor.scrape_limit_ms > monitor.scrape_interval_ms:
        allowed = f"it must not be above monitor.scrape_interval_ms ({monitor.scrape_interval_ms})"
        raise SettingsError("monitor.scrape_timeout_ms", value=str(monitor.scrape_timeout_ms), allowed=allowed)
    found = addresses(settings)
    document: Document = {
        "global": {
            "scrape_interval": duration(monitor.scrape_interval_ms),
            "scrape_timeout": duration(monitor.scrape_limit_ms),
            "evaluation_interval": duration(monitor.evaluation_interval_ms),
        },
        # By name: a file that an older version left in the directory is not loaded.
        "rule_files": [rules_path(name) for name in groups],
    }
    if found.alertmanagers:
        document["alerting"] = {
            "alertmanagers": [{"api_version": "v2", "static_configs": [{"targets": list(found.alertmanagers)}]}]
        }
    document["scrape_configs"] = _jobs(settings, found)
    return dump(document, f"Start Prometheus with: {' '.join(arguments(settings))}")


def arguments(settings: Settings) -> tuple[str, ...]:
    """Flags of Prometheus that follow from the settings, beside where its file and data are."""
    return (f"--storage.tsdb.retention.time={settings.monitor.retention_days}d",)


def service_defaults(settings: Settings) -> str:
    """Text of the file from which Debian's service takes its flags: /etc/default/prometheus."""
    return f'ARGS="{" ".join(arguments(settings))}"\n'


def _jobs(settings: Settings, found: Addresses) -> list[Document]:
    scheme, own, path = host_and_path(found.prometheus_url)
    jobs = [_nodes(settings, found)]
    if found.balancers:
        jobs.append(
            {
                "job_name": BALANCERS,
                # The data port and the admin port both have this path; the Accept header chooses Prometheus's format.
                "metrics_path": settings.balancer.balancer_metric_path,
                "sample_limit": BALANCER_SAMPLES,
                **_OWN_LABELS,
                **_authorization(settings),
                **_static(found.balancers),
            }
        )
    for name, targets, limit in (
        ("traefik", found.traefik, _EXPORTER_SAMPLES),
        ("nats", found.nats_exporters, _EXPORTER_SAMPLES),
        ("node", found.node_exporters, _EXPORTER_SAMPLES),
        ("cadvisor", found.cadvisors, _CADVISOR_SAMPLES),
        ("postgres", found.postgres_exporters, _EXPORTER_SAMPLES),
        ("alertmanager", found.alertmanagers, _EXPORTER_SAMPLES),
    ):
        if targets:
            job: Document = {"job_name": name, "sample_limit": limit, **_LABELS, **_static(targets)}
            if name == "cadvisor":
                job |= _less_of_cadvisor()
            jobs.append(job)
    itself: Document = {"job_name": "prometheus", "scheme": scheme, "metrics_path": f"{path}/metrics"}
    jobs.append({**itself, "sample_limit": _EXPORTER_SAMPLES, **_LABELS, **_static((own,))})
    return jobs


def _nodes(settings: Settings, found: Addresses) -> Document:
    monitor = settings.monitor
    job: Document = {
        "job_name": NODES,
        "sample_limit": NODE_SAMPLES,
        "body_size_limit": "1MB",
        **_OWN_LABELS,
        **_authorization(settings),
    }
    if found.nodes:
        job |= _static(found.nodes)
    if monitor.nodes_file:
        job["file_sd_configs"] = [{"files": [monitor.nodes_file], "refresh_interval": "1m"}]
    if monitor.nodes_dns:
        names, port = [monitor.nodes_dns], monitor.nodes_dns_port
        job["dns_sd_configs"] = [{"names": names, "type": "A", "port": port, "refresh_interval": "15s"}]
    if monitor.nodes_docker:
        job["docker_sd_configs"] = [
            {
                "host": settings.balancer.docker or DOCKER_SOCKET,
                "refresh_interval": "15s",
                "filters": [{"name": "label", "values": ["trunkline.enable=true"]}],
            }
        ]
        job["relabel_configs"] = _from_docker(settings.balancer.docker_network)
    job["metric_relabel_configs"] = [{"action": "labeldrop", "regex": "exported_(colour|node)"}]
    return job


def _from_docker(network: str) -> list[Document]:
    """Steps that make one target of a container; the targets of other discoveries pass them unchanged.

    Docker's discovery makes a target of every port and network. With `trunkline.port` they all become the same one, and
    Prometheus keeps it once.
    """
    container = "__meta_docker_container"
    steps: list[Document] = []
    if network:
        # The first half is empty for targets that are not Docker's.
        labels = [f"{container}_id", "__meta_docker_network_name"]
        steps.append({"source_labels": labels, "regex": f";|.+;{re.escape(network)}", "action": "keep"})
    address = ["__meta_docker_network_ip", f"{container}_label_trunkline_port"]
    steps += [
        {"source_labels": address, "separator": ":", "regex": "([^:]+):([0-9]+)", "target_label": "__address__",
         "replacement": "${1}:${2}"},
        {"source_labels": [f"{container}_label_trunkline_colour"], "regex": "(.+)", "target_label": "colour"},
        {"source_labels": [f"{container}_name"], "regex": "/?(.+)", "target_label": "container"},
    ]  # fmt: skip
    return steps


def _less_of_cadvisor() -> Document:
    """What is left out of cAdvisor's answer, thousands of series for each container.

    Kept are the series that rules and dashboards use; those without a container's name are the machine's own cgroups,
    which node_exporter reports better; each label of a container is one more label on each of its series.
    """
    kept = sorted(series.name for series in foreign_series.SERIES if series.source == "cadvisor")
    steps: list[Document] = []
    if kept:
        names = "|".join(f"{name}(_bucket|_sum|_count)?" for name in kept)
        steps.append({"source_labels": ["__name__"], "regex": names, "action": "keep"})
    steps += [
        {"source_labels": ["__name__", "name"], "regex": "container_[^;]+;", "action": "drop"},
        {"regex": "container_label_.*|container_env_.*", "action": "labeldrop"},
    ]
    return {"metric_relabel_configs": steps}


def _authorization(settings: Settings) -> Document:
    file = secret_file(settings.monitor, "token_file")
    return {"authorization": {"credentials_file": file.seen}} if file else {}


def _static(targets: tuple[str, ...]) -> Document:
    return {"static_configs": [{"targets": list(targets)}]}
