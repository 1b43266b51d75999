"""What Prometheus's operator reads in a Kubernetes cluster: the rules as one object, and what is scraped. Pure.

Rules:

- Rules on machines, containers and databases are left out: an operator's stack brings its own, by its own job names.
- Jobs have the names by which rules and dashboards ask for them, and the limits of prometheus.yml.
- The Services are found by the labels that deploy/kubernetes gives them, in the namespace of these objects.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

from trunkline.monitor.files import prometheus
from trunkline.monitor.rules import load, render
from trunkline.monitor.text.yaml_writer import Document, dump
from trunkline.settings.quantities import duration
from trunkline.settings.sections import Settings

NEIGHBOURS: Final = ("trunkline-containers", "trunkline-machine", "trunkline-postgres")
"""Groups of rules that a cluster's own monitoring stands for."""

_API: Final = "monitoring.coreos.com/v1"
_LABELS: Final = {"app.kubernetes.io/name": "trunkline", "app.kubernetes.io/part-of": "trunkline"}
_NATS_SAMPLES: Final = 20_000
_COLOUR: Final = "__meta_kubernetes_pod_label_trunkline_colour"


def files(settings: Settings) -> dict[str, str]:
    """Relative path and text of each file.

    Args:
        settings: `monitor`, and the balancer's path for metrics.
    """
    return {
        "kubernetes/prometheus-rule.yaml": _rules(settings),
        "kubernetes/service-monitors.yaml": "---\n".join(
            dump(each) if first else _plain(each)
            for first, each in zip((True, False, False), _monitors(settings), strict=True)
        ),
    }


def _rules(settings: Settings) -> str:
    groups: list[Any] = []
    for group in load.groups(settings.monitor):
        if group.name not in NEIGHBOURS:
            groups += yaml.safe_load(render.rules_yaml(group, settings.monitor.patience))["groups"]
    for each in groups:
        # Rules of other things may have such names too, and Prometheus shows groups of all namespaces on one page.
        each["name"] = f"trunkline-{each['name'].removeprefix('trunkline-')}"
    return dump(
        {"apiVersion": _API, "kind": "PrometheusRule", "metadata": _metadata("trunkline"), "spec": {"groups": groups}}
    )


def _monitors(settings: Settings) -> tuple[Document, Document, Document]:
    colour = {"sourceLabels": [_COLOUR], "targetLabel": "colour"}
    nodes = _monitor(
        "trunkline-nodes",
        {"app.kubernetes.io/name": "trunkline", "app.kubernetes.io/component": "node"},
        _endpoint(settings, prometheus.NODES, "http", "/metrics", colour)
        | {"metricRelabelings": [{"action": "labeldrop", "regex": "exported_(colour|node)"}]},
        prometheus.NODE_SAMPLES,
    )
    balancers = _monitor(
        "trunkline-balancer",
        {"app.kubernetes.io/name": "trunkline", "app.kubernetes.io/component": "balancer"},
        _endpoint(settings, prometheus.BALANCERS, "admin", settings.balancer.balancer_metric_path),
        prometheus.BALANCER_SAMPLES,
    )
    nats = _monitor(
        "trunkline-nats",
        {"app.kubernetes.io/name": "nats", "app.kubernetes.io/component": "bus"},
        _endpoint(settings, "nats", "metrics", "/metrics"),
        _NATS_SAMPLES,
    )
    return nodes, balancers, nats


def _monitor(name: str, labels: dict[str, str], endpoint: Document, samples: int) -> Document:
    return {
        "apiVersion": _API,
        "kind": "ServiceMonitor",
        "metadata": _metadata(name),
        "spec": {
            "selector": {"matchLabels": labels},
            "endpoints": [endpoint],
            "sampleLimit": samples,
            "labelLimit": 64,
            "labelNameLengthLimit": 200,
            "labelValueLengthLimit": 1000,
        },
    }


def _endpoint(settings: Settings, job: str, port: str, path: str, *more: Document) -> Document:
    return {
        "port": port,
        "path": path,
        "interval": duration(settings.monitor.scrape_interval_ms),
        "scrapeTimeout": duration(settings.monitor.scrape_limit_ms),
        "relabelings": [{"targetLabel": "job", "replacement": job}, *more],
    }


def _metadata(name: str) -> Document:
    return {"name": name, "labels": dict(_LABELS)}


def _plain(document: Document) -> str:
    return dump(document).partition("\n")[2]
