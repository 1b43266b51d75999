"""prometheus.yml: what Prometheus itself makes of it, beside real nodes and a real balancer."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.free_ports import free_port, free_ports
from tests.support.monitor.serving import running
from tests.support.monitor.watchers import laid_out, monitor, needs, prometheus, said, series
from trunkline.errors import SettingsError
from trunkline.monitor.files.prometheus import arguments, prometheus_yaml, service_defaults
from trunkline.monitor.rules import foreign_series
from trunkline.settings.sections import Settings

EVERYTHING: dict[str, Any] = {
    "nodes": ("10.0.0.1:3001", "10.0.0.2:3001"),
    "nodes_file": "/etc/trunkline/nodes.yml",
    "nodes_dns": "nodes.internal",
    "nodes_docker": True,
    "balancers": ("10.0.0.3:8080",),
    "token_file": Path("/etc/trunkline/admin.token"),
    "traefik": ("10.0.0.4:8082",),
    "nats_exporters": ("10.0.0.5:7777",),
    "node_exporters": ("10.0.0.6:9100",),
    "cadvisors": ("10.0.0.6:8080",),
    "postgres_exporters": ("10.0.0.7:9187",),
}
QUICK: dict[str, Any] = {"scrape_interval_ms": 500, "scrape_timeout_ms": 500, "alertmanagers": ()}


def jobs(settings: Settings) -> dict[str, dict[str, Any]]:
    """The jobs by name."""
    document = yaml.safe_load(prometheus_yaml(settings, ()))
    return {job["job_name"]: job for job in document["scrape_configs"]}


def check(directory: Path, settings: Settings, code: int = 0) -> str:
    """What promtool says of the file."""
    laid_out(directory, {"prometheus/prometheus.yml": prometheus_yaml(settings, ())})
    return said("promtool", "check", "config", "--syntax-only", f"{directory}/prometheus/prometheus.yml", code=code)


@needs("promtool")
@pytest.mark.parametrize("changes", [{}, EVERYTHING, {**EVERYTHING, "balancer__docker_network": "front"}])
def test_promtool_takes_the_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    """With the defaults and with every kind of target."""
    assert "SUCCESS" in check(tmp_path, monitor(**changes))


def test_every_job_has_the_name_that_rules_use_and_limits() -> None:
    """No job may fill Prometheus's memory, whatever its target says."""
    found = jobs(monitor(**EVERYTHING))
    assert list(found) == [
        "trunkline-node", "trunkline-balancer", "traefik", "nats", "node", "cadvisor", "postgres", "alertmanager",
        "prometheus",
    ]  # fmt: skip
    for job in found.values():
        assert {"sample_limit", "label_limit", "label_name_length_limit", "label_value_length_limit"} <= job.keys()


def test_scrapes_are_every_15_seconds() -> None:
    """Nothing else is set for any single job."""
    document = yaml.safe_load(prometheus_yaml(monitor(**EVERYTHING), ()))
    assert document["global"] == {"scrape_interval": "15s", "scrape_timeout": "10s", "evaluation_interval": "15s"}
    assert not any("scrape_interval" in job for job in document["scrape_configs"])


def test_without_any_node_named_it_is_the_one_of_these_settings() -> None:
    """The first render on a machine watches the node of that machine."""
    assert jobs(monitor(server__port=4001))["trunkline-node"]["static_configs"] == [{"targets": ["127.0.0.1:4001"]}]
    assert "static_configs" not in jobs(monitor(nodes_dns="nodes.internal"))["trunkline-node"]


def test_only_our_own_programs_get_the_token() -> None:
    """An exporter of somebody else must not see it."""
    found = jobs(monitor(**EVERYTHING))
    with_token = {name for name, job in found.items() if "authorization" in job}
    assert with_token == {"trunkline-node", "trunkline-balancer"}


def test_of_cadvisor_the_declared_series_are_kept() -> None:
    """A series that a rule or dashboard uses passes; others go."""
    keep = jobs(monitor(**EVERYTHING))["cadvisor"]["metric_relabel_configs"][0]
    declared = [found.name for found in foreign_series.SERIES if found.source == "cadvisor"]
    assert declared
    assert keep["action"] == "keep"
    assert [name for name in declared if not re.fullmatch(keep["regex"], name)] == []
    assert not re.fullmatch(keep["regex"], "container_network_advance_tcp_stats_total")


def test_a_scrape_never_takes_longer_than_the_interval() -> None:
    """Where its limit is not set, it is the default or the interval, whichever is shorter."""
    for interval, limit in ((5_000, "5s"), (60_000, "10s")):
        document = yaml.safe_load(prometheus_yaml(monitor(scrape_interval_ms=interval), ()))
        assert document["global"]["scrape_timeout"] == limit


def test_a_target_that_is_named_twice_is_scraped_once() -> None:
    """Also one of the Compose file that the operator names too."""
    twice = ("10.0.0.1:3001", "10.0.0.1:3001")
    own = {"node_exporters": ("node-exporter:9100", "10.0.0.1:9100"), "cadvisors": ("cadvisor:8080",)}
    document = yaml.safe_load(prometheus_yaml(monitor(compose=True, nodes=twice, traefik=twice, **own), ()))
    for job in document["scrape_configs"]:
        targets = [target for group in job["static_configs"] for target in group["targets"]]
        assert len(targets) == len(set(targets)), job["job_name"]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"scrape_timeout_ms": 20_000}, "monitor.scrape_timeout_ms"),
        ({"token_file": Path("admin.token")}, "monitor.token_file"),
        ({"compose": True}, "monitor.nodes"),
        ({"compose": True, "nodes": ("127.0.0.1:3001",)}, "monitor.nodes"),
        ({"compose": True, "nodes": ("10.0.0.1:3001",), "email_to": ("oncall@example.org",)}, "monitor.smtp"),
        ({"compose": True, "nodes": ("10.0.0.1:3001",), "webhook_url": "http://[::1]:8/"}, "monitor.webhook_url"),
        ({"compose": True, "nodes": ("10.0.0.1:3001",), "traefik": ("localhost:80",)}, "monitor.traefik"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(changes: dict[str, Any], key: str) -> None:
    """Before Prometheus refuses it, or takes it and watches nothing."""
    with pytest.raises(SettingsError) as raised:
        prometheus_yaml(monitor(**changes), ())
    assert raised.value.key == key


def test_compose_uses_the_names_of_its_services() -> None:
    """Programs of one Compose network find each other by name, and what the operator named stays."""
    found = jobs(monitor(compose=True, nodes=("app:3001",), node_exporters=("10.0.0.6:9100",)))
    targets = {name: job["static_configs"][0]["targets"] for name, job in found.items()}
    assert targets == {
        "trunkline-node": ["app:3001"],
        "node": ["node-exporter:9100", "10.0.0.6:9100"],
        "cadvisor": ["cadvisor:8080"],
        "alertmanager": ["alertmanager:9093"],
        "prometheus": ["prometheus:9090"],
    }


def test_prometheus_behind_a_path_is_scraped_there() -> None:
    """Its own metrics move with --web.external-url."""
    job = jobs(monitor(prometheus_url="https://watch.example.org/prometheus/"))["prometheus"]
    assert (job["scheme"], job["metrics_path"]) == ("https", "/prometheus/metrics")
    assert job["static_configs"] == [{"targets": ["watch.example.org"]}]


@pytest.mark.parametrize(("days", "flag"), [(15, "15d"), (30, "30d")])
def test_retention_is_a_flag(days: int, flag: str) -> None:
    """It is in the line that starts Prometheus, and in Debian's file for its service."""
    settings = monitor(retention_days=days)
    assert arguments(settings) == (f"--storage.tsdb.retention.time={flag}",)
    assert service_defaults(settings) == f'ARGS="--storage.tsdb.retention.time={flag}"\n'
    assert f"time={flag}" in prometheus_yaml(settings, ()).splitlines()[1]


@needs("prometheus")
async def test_prometheus_scrapes_a_node_and_a_balancer(tmp_path: Path) -> None:
    """On the data port and on the admin port of a real balancer Prometheus's Accept header gets its own format."""
    node, port, watch = free_ports(2), free_ports(2), free_port()
    targets = tmp_path / "nodes.yml"
    targets.write_text(f'- {{targets: ["127.0.0.1:{node}"], labels: {{colour: green}}}}')
    settings = monitor(
        **QUICK, nodes_file=str(targets), balancers=(f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"),
        prometheus_url=f"http://127.0.0.1:{watch}",
    )  # fmt: skip
    laid_out(tmp_path, {"prometheus/prometheus.yml": prometheus_yaml(settings, ())})
    one, two = tmp_path / "node", tmp_path / "balancer"
    one.mkdir()
    two.mkdir()
    backends = json.dumps([{"url": f"http://127.0.0.1:{node}"}])
    async with (
        running(one, "serve", "--port", str(node), ready=f"http://127.0.0.1:{node}/ready"),
        running(
            two, "balance", ready=f"http://127.0.0.1:{port}/balancer-metrics", TRUNKLINE_BALANCER_BACKENDS=backends,
            TRUNKLINE_BALANCER_PORT=str(port),
        ),
        prometheus(tmp_path, watch) as url,
    ):  # fmt: skip
        assert {found["value"][1] for found in await series(url, 'count(up{job="trunkline-balancer"} == 1) == 2')}
        assert len(await series(url, "ws_balancer_build_info")) == 2
        (build,) = await series(url, "ws_build_info")
        (scraped,) = await series(url, 'scrape_samples_scraped{job="trunkline-node"}')
    # The node calls itself blue: what discovery says is the label, and the only one.
    assert build["metric"]["colour"] == "green"
    assert not [name for name in build["metric"] if name.startswith("exported_")]
    assert 100 < int(scraped["value"][1]) < 1000


@needs("prometheus")
async def test_a_node_that_knows_no_network_lets_prometheus_in_by_its_token(tmp_path: Path) -> None:
    """With monitor.token_file the scrape carries the admin token; without it the node refuses."""
    port, watch = free_ports(2), free_port()
    (tmp_path / "token").write_text("a-token-of-sixteen-and-more\n")
    closed = {
        "TRUNKLINE_SERVER_METRICS_NETWORKS": '["10.99.0.0/16"]',
        "TRUNKLINE_ADMIN_TOKEN_FILE": str(tmp_path / "token"),
    }
    common = {**QUICK, "nodes": (f"127.0.0.1:{port}",), "prometheus_url": f"http://127.0.0.1:{watch}"}
    async with running(tmp_path, "serve", "--port", str(port), ready=f"http://127.0.0.1:{port}/ready", **closed):
        for token_file, up in ((None, "0"), (tmp_path / "token", "1")):
            directory = tmp_path / up
            text = prometheus_yaml(monitor(**common, token_file=token_file), ())
            laid_out(directory, {"prometheus/prometheus.yml": text})
            async with prometheus(directory, watch) as url:
                (found,) = await series(url, 'up{job="trunkline-node"}')
            assert found["value"][1] == up


CONTAINER = {
    "Id": "c0ffee", "Names": ["/shop-live-1"], "State": "running",
    "Labels": {"trunkline.enable": "true", "trunkline.colour": "green"},
    "Ports": [{"PrivatePort": 8000, "Type": "tcp"}, {"PrivatePort": 9000, "Type": "tcp"}],
    "HostConfig": {"NetworkMode": "front"},
    "NetworkSettings": {"Networks": {"front": {"NetworkID": "n1", "IPAddress": "127.0.0.1"},
                                     "back": {"NetworkID": "n2", "IPAddress": "127.0.0.2"}}},
}  # fmt: skip
NETWORKS = [{"Id": "n1", "Name": "front", "Scope": "local"}, {"Id": "n2", "Name": "back", "Scope": "local"}]


@contextlib.contextmanager
def docker_api(containers: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """A server that answers Prometheus's two questions as Docker does; its address, and the requests that came."""
    asked: list[str] = []

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            kind = "containers" if "/containers/json" in self.path else "networks" if "/networks" in self.path else ""
            body = json.dumps({"containers": containers, "networks": NETWORKS}.get(kind, "OK")).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("API-Version", "1.41")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"tcp://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


@needs("prometheus")
async def test_a_container_is_one_target_with_its_colour(tmp_path: Path) -> None:
    """Two ports and two networks of a container become the one address that its label and the settings name."""
    watch = free_port()
    container = {**CONTAINER, "Labels": {**CONTAINER["Labels"], "trunkline.port": "8123"}}  # type: ignore[dict-item]
    with docker_api([container]) as (api, asked):
        settings = monitor(
            **QUICK, nodes_docker=True, nodes=("127.0.0.9:3001",), balancer__docker=api,
            balancer__docker_network="front", prometheus_url=f"http://127.0.0.1:{watch}",
        )  # fmt: skip
        laid_out(tmp_path, {"prometheus/prometheus.yml": prometheus_yaml(settings, ())})
        async with prometheus(tmp_path, watch) as url:
            await series(url, 'up{colour="green"}')
            await series(url, 'up{instance="127.0.0.9:3001"}')
            found = await series(url, 'up{job="trunkline-node"}')
    labels = sorted((each["metric"] for each in found), key=lambda each: each["instance"])
    assert labels == [
        {
            "__name__": "up", "job": "trunkline-node", "instance": "127.0.0.1:8123", "colour": "green",
            "container": "shop-live-1",
        },
        {"__name__": "up", "job": "trunkline-node", "instance": "127.0.0.9:3001"},
    ]  # fmt: skip
    assert any("trunkline.enable" in path for path in asked)
