"""What Prometheus's operator gets: the rules that Prometheus takes, jobs by the names that rules ask for."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.support.monitor.watchers import monitor, needs, said
from trunkline.monitor.files import bundle
from trunkline.monitor.files.kubernetes import NEIGHBOURS
from trunkline.monitor.rules import load

SETTINGS = monitor(kubernetes=True)


def rendered(name: str) -> str:
    """One of the files."""
    return bundle.files(SETTINGS, dashboards=False)[f"kubernetes/{name}"]


def test_nothing_is_rendered_unasked() -> None:
    assert not [path for path in bundle.files(monitor(), dashboards=False) if path.startswith("kubernetes/")]


def test_all_rules_but_those_on_neighbours_are_there() -> None:
    groups = yaml.safe_load(rendered("prometheus-rule.yaml"))["spec"]["groups"]
    wanted = {
        rule.name for group in load.groups(SETTINGS.monitor) if group.name not in NEIGHBOURS for rule in group.rules
    }
    assert {rule.get("alert") or rule["record"] for group in groups for rule in group["rules"]} == wanted
    assert len(wanted) > 60
    assert all(group["name"].startswith("trunkline-") for group in groups)
    assert set(NEIGHBOURS) < {group.name for group in load.groups(SETTINGS.monitor)}


@needs("promtool")
def test_prometheus_takes_them(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(yaml.safe_load(rendered("prometheus-rule.yaml"))["spec"]))
    assert "SUCCESS" in said("promtool", "check", "rules", str(file))


def test_jobs_and_bounds_are_those_of_prometheus_yml() -> None:
    settings = monitor(
        kubernetes=True, balancers=("edge:8081",), nats_exporters=("nats:7777",), scrape_interval_ms=5000
    )
    texts = bundle.files(settings, dashboards=False)
    jobs = {job["job_name"]: job for job in yaml.safe_load(texts["prometheus/prometheus.yml"])["scrape_configs"]}
    seen = set()
    for each in yaml.safe_load_all(texts["kubernetes/service-monitors.yaml"]):
        (endpoint,) = each["spec"]["endpoints"]
        (name,) = (step["replacement"] for step in endpoint["relabelings"] if step["targetLabel"] == "job")
        job = jobs[name]
        seen.add(name)
        assert each["spec"]["sampleLimit"] == job["sample_limit"]
        assert endpoint["path"] == job.get("metrics_path", "/metrics")
        assert endpoint["interval"] == "5s"
        dropped = [step["regex"] for step in endpoint.get("metricRelabelings", ())]
        assert dropped == [step["regex"] for step in job.get("metric_relabel_configs", ())]
    assert seen == {"trunkline-node", "trunkline-balancer", "nats"}


def test_a_cluster_without_a_node_is_an_alert() -> None:
    """Discovery by a ServiceMonitor that finds nothing is a failure."""
    assert "vector(0)" in rendered("prometheus-rule.yaml")
