"""What the manifests tell our processes is what these understand, and the numbers of both fit together."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml
from typer.testing import CliRunner

from tests.support import ROOT
from tests.support.manifests.objects import KUSTOMIZE, OVERLAYS, Object, container, kustomized, objects, pods, variables
from trunkline.cli import commands
from trunkline.metrics.series import BY_NAME
from trunkline.server.node.capacity import max_connections
from trunkline.settings.load import load
from trunkline.settings.reading.source import variables as known_variables
from trunkline.settings.sections import PLAIN_ENVIRONMENT, SECTIONS, Settings
from trunkline.settings.types import PRIVATE

ADAPTER = KUSTOMIZE / "components/autoscaling/prometheus-adapter-values.yaml"
PARTS = {"trunkline-blue": "node", "trunkline-green": "node", "trunkline-balancer": "balancer"}
WORKLOADS = PARTS | {"trunkline-prepare": "prepare"}


def template_of(overlay: str, workload: str) -> Object:
    """The pod template of a workload."""
    return dict(pods(kustomized(overlay)))[workload]


def settings(overlay: str, workload: str) -> Settings:
    """The settings of a workload's process, as far as they are in files."""
    found = variables(kustomized(overlay), template_of(overlay, workload), WORKLOADS[workload])
    return load(None, found, {}).settings


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_variable_is_a_setting(overlay: str, workload: str) -> None:
    """Names of variables are real, those from Secrets and the downward API too, and values can be read."""
    settings(overlay, workload)
    real = {name for each in known_variables(SECTIONS, PLAIN_ENVIRONMENT).values() for name in each.environment}
    own = container(template_of(overlay, workload), WORKLOADS[workload])
    assert {each["name"] for each in own["env"]} <= real


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_argument_is_one_of_the_command(overlay: str, workload: str) -> None:
    own = container(template_of(overlay, workload), WORKLOADS[workload])
    assert "command" not in own  # the image's own
    done = CliRunner().invoke(commands.app, [*own["args"], "--help"])
    assert done.exit_code == 0, f"{shlex.join(own['args'])}: {done.output}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_drain_fits_into_the_grace_period(overlay: str) -> None:
    """SIGTERM comes after preStop, and the kernel's end must not come before ours."""
    for workload, part in PARTS.items():
        template = template_of(overlay, workload)
        found = settings(overlay, workload)
        slept_s = container(template, part)["lifecycle"]["preStop"]["sleep"]["seconds"]
        if part == "node":
            assert found.server.drain_ms < found.server.shutdown_deadline_ms
            ends_s = found.server.shutdown_deadline_ms / 1000
        else:
            ends_s = found.balancer.drain_ms / 1000
        assert slept_s + ends_s + 10 <= template["spec"]["terminationGracePeriodSeconds"], workload


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ports_are_those_of_the_settings(overlay: str) -> None:
    node, balancer = settings(overlay, "trunkline-blue"), settings(overlay, "trunkline-balancer")
    ports = {
        name: {port["name"]: port["containerPort"] for port in container(template_of(overlay, name), part)["ports"]}
        for name, part in PARTS.items()
    }
    assert ports["trunkline-blue"] == ports["trunkline-green"] == {"http": node.server.port}
    assert ports["trunkline-balancer"] == {"http": balancer.balancer.port, "admin": balancer.balancer.admin_port}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_node_learns_who_it_is(overlay: str) -> None:
    """The downward API: pod, address, machine, colour and version of the load report."""
    fields = {
        each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"]
        for each in container(template_of(overlay, "trunkline-green"), "node")["env"]
        if "fieldRef" in each["valueFrom"]
    }
    assert fields == {
        "POD_NAME": "metadata.name",
        "POD_IP": "status.podIP",
        "NODE_NAME": "spec.nodeName",
        "TRUNKLINE_SERVER_NAME": "metadata.name",
        "TRUNKLINE_SERVER_COLOUR": "metadata.labels['trunkline.colour']",
        "TRUNKLINE_SERVER_VERSION": "metadata.labels['app.kubernetes.io/version']",
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_written_has_a_volume(overlay: str) -> None:
    """The root is read-only: whatever a setting names must be mounted."""
    balancer = settings(overlay, "trunkline-balancer")
    mounts = [
        each["mountPath"] for each in container(template_of(overlay, "trunkline-balancer"), "balancer")["volumeMounts"]
    ]
    assert str(balancer.balancer.store_dir) in mounts
    assert str(balancer.admin.token_file).rpartition("/")[0] in mounts


def test_the_autoscaler_aims_at_less_than_a_node_takes() -> None:
    """Its target is 70 % of what a node makes of its memory limit, and it counts a series that nodes have."""
    found = objects(kustomized("production"))
    for colour in ("blue", "green"):
        scaler = found["HorizontalPodAutoscaler", f"trunkline-{colour}"]["spec"]
        assert scaler["scaleTargetRef"]["name"] == f"trunkline-{colour}"
        (metric,) = scaler["metrics"]
        memory = container(template_of("production", f"trunkline-{colour}"), "node")["resources"]["limits"]["memory"]
        assert memory == "1Gi"
        server = settings("production", f"trunkline-{colour}").server
        most = max_connections(1 << 30, server.memory_base_bytes, server.memory_per_connection_bytes)
        assert int(metric["pods"]["target"]["averageValue"]) == int(0.7 * most)
        name = metric["pods"]["metric"]["name"]
        assert name in BY_NAME
        (rule,) = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
        assert rule["name"]["as"] == name
        assert rule["seriesQuery"].startswith(f"{name}{{")
        # Held for longer than a deploy, in which the new colour is empty.
        assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 600
    assert found["Deployment", "trunkline-blue"]["spec"]["replicas"] >= scaler["minReplicas"]


def test_every_setting_that_knows_private_networks_alone_is_on_the_page() -> None:
    """Pods may have other addresses. The four take one, and by default all know the same kinds of private ones."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    (text,) = re.findall(r"beyond the private ranges.*?\n\n", page, re.DOTALL)
    names = re.findall(r"`(TRUNKLINE_\w+)`", text)
    found = load(None, dict.fromkeys(names, "100.64.0.0/10"), {}).settings
    taken = [found.server.trusted_proxies, found.server.metrics_networks, found.balancer.metrics_networks]
    assert [*taken, found.traefik.networks] == [("100.64.0.0/10",)] * len(names)
    trusted = settings("production", "trunkline-blue").server.trusted_proxies
    assert set(trusted) == {each for each in PRIVATE if not each.startswith(("127.", "::1", "169.254", "fe80"))}


def test_an_image_has_one_tag_in_all_of_the_project() -> None:
    """NATS and its exporter, here and in the compose stack."""
    compose = "".join(file.read_text() for file in (ROOT / "deploy/compose").glob("*.yaml"))
    own = {each["image"] for each in template_of("production", "trunkline-nats")["spec"]["containers"]}
    assert own <= set(re.findall(r"image: (\S+)", compose))


def test_the_image_runs_as_the_user_of_the_manifests() -> None:
    """The same number, and the entry point that takes the arguments."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    context = template_of("production", "trunkline-blue")["spec"]["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in dockerfile
    assert 'ENTRYPOINT ["trunkline"]' in dockerfile


def test_what_a_deploy_changes_can_be_left_out_by_a_label() -> None:
    """`kubectl apply -l '!trunkline.colour'` applies all but the two colours."""
    found = objects(kustomized("production"))
    coloured = {key for key, each in found.items() if "trunkline.colour" in each["metadata"].get("labels", {})}
    kinds = ("Deployment", "PodDisruptionBudget", "HorizontalPodAutoscaler")
    assert coloured == {(kind, f"trunkline-{colour}") for kind in kinds for colour in ("blue", "green")}


def test_every_overlay_keeps_the_colour_that_rests_at_nothing() -> None:
    """A first deploy starts it; a canary has one of it."""
    counts = {
        overlay: objects(kustomized(overlay))["Deployment", "trunkline-green"]["spec"]["replicas"]
        for overlay in OVERLAYS
    }
    assert counts == {"local": 0, "production": 0, "canary": 1}
