"""The Helm chart, rendered by the real helm: the objects of the production overlay, and others as its values say."""

from __future__ import annotations

import copy
import functools
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.manifests.test_objects import NEWEST
from tests.support import ROOT
from tests.support.manifests.objects import KUSTOMIZE, Object, container, kustomized, objects
from tests.support.manifests.programs import program, run
from tests.support.manifests.schemas import CUSTOM_GROUPS
from trunkline.settings.load import load

CHART = ROOT / "deploy" / "helm" / "trunkline"
OF_HELM = {"app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart"}


@functools.cache
def chart(*options: str) -> dict[tuple[str, str], Object]:
    """The chart's objects under options such as `--set a=b`."""
    return objects(run("helm", "template", "live", CHART, "--namespace", "trunkline", *options))


def refused(*options: str) -> str:
    """Why helm does not render the chart under these options."""
    done = subprocess.run(
        [program("helm"), "template", "live", str(CHART), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0, done.stdout
    return done.stderr


def plain(each: Object) -> Object:
    """An object without what each of the two tools adds: labels, hashes of settings, the namespace."""
    found = copy.deepcopy(each)
    meta = found["metadata"]
    meta.pop("namespace", None)
    meta["name"] = without_hash(meta["name"])
    # Names and components of objects are for people; what selects is compared.
    meta["labels"] = {
        name: value
        for name, value in meta.get("labels", {}).items()
        if name not in OF_HELM and not name.startswith("app.kubernetes.io/")
    }
    if template := found.get("spec", {}).get("template"):
        template["metadata"].pop("annotations", None)
        template["metadata"]["labels"].pop("app.kubernetes.io/part-of", None)
        for own in template["spec"]["containers"]:
            for source in own.get("envFrom", ()):
                for reference in source.values():
                    reference["name"] = without_hash(reference["name"])
        for volume in template["spec"].get("volumes", ()):
            if "configMap" in volume:
                volume["configMap"]["name"] = without_hash(volume["configMap"]["name"])
    for subject in found.get("subjects", ()):
        subject.pop("namespace", None)
    if found["kind"] == "ConfigMap":
        found["data"] = {name: without_comments(text) for name, text in found["data"].items()}
    if found["kind"] == "StatefulSet":
        for container in found["spec"]["template"]["spec"]["containers"]:
            container["ports"].sort(key=lambda port: port["name"])
            container.get("env", []).sort(key=lambda variable: variable["name"])
        found["spec"]["template"]["spec"]["containers"].sort(key=lambda own: own["name"])
        found["spec"]["template"]["spec"]["volumes"].sort(key=lambda one: one["name"])
    return found


def without_hash(name: str) -> str:
    """The name that kustomize gave a hash, or helm the number of its revision."""
    return re.sub(r"-[0-9bcdfghkmt2456789]{10}$|(?<=-prepare)-1$", "", name)


def without_comments(text: str) -> str:
    """A configuration as the program reads it."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def test_the_chart_makes_the_objects_of_the_production_overlay() -> None:
    wanted = {
        (kind, without_hash(name)): plain(each)
        for (kind, name), each in objects(kustomized("production")).items()
        if kind != "Namespace"  # helm install --create-namespace
    }
    made = {(kind, without_hash(name)): plain(each) for (kind, name), each in chart().items()}
    assert made.keys() == wanted.keys()
    for key, each in made.items():
        assert each == wanted[key], key


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--set", "traefik.enabled=false,balancer.mode=relay,balancer.public.enabled=true,monitoring.enabled=false"),
        ("--set", "nats.enabled=false,autoscaling.enabled=false,networkPolicies.enabled=false"),
        ("--set", "nats.replicas=1,name=shop,nodes.colours.green.version=2.1,image.pullSecrets[0].name=registry"),
    ],
)
def test_kubernetes_takes_every_object(options: tuple[str, ...]) -> None:
    for key, each in chart(*options).items():
        if each["apiVersion"].partition("/")[0] not in CUSTOM_GROUPS:
            try:
                kubernetes_validate.validate(each, NEWEST, strict=True)
            except kubernetes_validate.ValidationError as error:
                pytest.fail(f"{key} at {'.'.join(map(str, error.path))}: {error.message}")
        assert each["kind"] != "ConfigMap" or "data" in each


def test_helm_has_nothing_to_complain_of() -> None:
    assert "0 chart(s) failed" in run("helm", "lint", "--strict", CHART)


def test_a_relay_is_reached_by_clients_and_shows_them_its_data_port_alone() -> None:
    made = chart(
        "--set", "traefik.enabled=false,balancer.mode=relay,balancer.public.enabled=true,monitoring.enabled=false"
    )
    service = made["Service", "trunkline-relay"]["spec"]
    assert (service["type"], [port["targetPort"] for port in service["ports"]]) == ("LoadBalancer", ["http"])
    assert "from" not in made["NetworkPolicy", "trunkline-balancer"]["spec"]["ingress"][0]
    assert not {kind for kind, _ in made} & {"IngressRoute", "Middleware", "ServiceMonitor", "PrometheusRule"}


def test_settings_of_yours_are_added_and_replace() -> None:
    made = chart(
        "--set",
        r"settings.TRUNKLINE_SERVER_ORIGINS=https://a.example\,https://b.example",
        "--set",
        "settings.TRUNKLINE_SERVER_DRAIN_MS=5s",
    )
    found = load(None, made["ConfigMap", "trunkline-settings"]["data"], {}).settings
    assert found.server.origins == ("https://a.example", "https://b.example")
    assert found.server.drain_ms == 5000
    assert found.server.port == 3001


def test_numbers_of_a_values_file_stay_what_they_are(tmp_path: Path) -> None:
    """To helm they are floats, large ones in scientific notation."""
    values = tmp_path / "values.yaml"
    values.write_text("settings: {TRUNKLINE_BUS_MAX_BYTES: 1073741824, TRUNKLINE_SERVER_MESSAGE_BYTES: 65536}\n")
    found = load(None, chart("--values", str(values))["ConfigMap", "trunkline-settings"]["data"], {}).settings
    assert (found.bus.max_bytes, found.server.message_bytes) == (1 << 30, 1 << 16)
    # Nothing could tell 2.10 from 2.1.
    values.write_text("nodes: {colours: {green: {replicas: 1, version: 2.10}}}\n")
    assert "got number, want string" in refused("--values", str(values))


def test_streams_are_those_of_the_application() -> None:
    """Its channel rules say which; options of `serve` are none of `bus prepare`."""

    def arguments(*options: str) -> list[str]:
        template = chart(*options)["Job", "trunkline-prepare-1"]["spec"]["template"]
        return list(container(template, "prepare")["args"])

    assert arguments() == ["bus", "prepare"]
    assert arguments("--set", "nodes.args={shop:app,--workers=2}") == ["bus", "prepare", "shop:app"]
    assert arguments("--set", "nodes.args={--workers=2}") == ["bus", "prepare"]


def test_changed_settings_restart_the_pods() -> None:
    """A chart's ConfigMap keeps its name, so the pods carry a hash of it."""

    def marks(*options: str) -> dict[str, Any]:
        return {
            name: each["spec"]["template"]["metadata"]["annotations"]["trunkline/settings"]
            for (kind, name), each in chart(*options).items()
            if kind in ("Deployment", "StatefulSet")
        }

    before, after = marks(), marks("--set", "settings.TRUNKLINE_LOG_LEVEL=debug")
    assert {name for name in before if before[name] != after[name]} == {
        "trunkline-blue", "trunkline-green", "trunkline-balancer",
    }  # fmt: skip


def test_what_cannot_be_meant_is_refused() -> None:
    assert "traefik.enabled needs balancer.mode steer" in refused("--set", "balancer.mode=relay")
    assert "nats.replicas" in refused("--set", "nats.replicas=2").replace("/", ".")
    assert "additional properties" in refused("--set", "nodes.replicas=3").lower()
    assert "the chart's port" in refused("--set", "settings.TRUNKLINE_SERVER_PORT=4000")
    assert "use balancer.mode" in refused("--set", "settings.TRUNKLINE_BALANCER_MODE=relay")


@pytest.mark.parametrize("file", ["prometheus-rule.yaml", "service-monitors.yaml", "nats.conf", "accounts.conf"])
def test_files_that_both_have_are_the_same(file: str) -> None:
    """A chart can read nothing outside of it."""
    beside: Path = KUSTOMIZE / ("base/nats" if file.endswith(".conf") else "components/monitoring")
    assert (CHART / "files" / file).read_text() == (beside / file).read_text(), f"copy {beside / file}"
