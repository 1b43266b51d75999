"""The Roles allow what our parts ask of the API server and nothing else, and these parts work with the objects."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.kubernetes.api_server import ApiServer
from tests.support.kubernetes.cluster import Cluster
from tests.support.manifests.objects import OVERLAYS, container, kustomized, objects
from tests.support.patience import patient
from trunkline.balancer.sources.kubernetes.slices import parse_entry
from trunkline.balancer.sources.kubernetes.source import RULE
from trunkline.deploy.runtimes.base import What
from trunkline.deploy.runtimes.kubernetes.runtime import RULES, KubernetesRuntime
from trunkline.kubernetes.access import Access
from trunkline.kubernetes.credentials import FixedToken
from trunkline.kubernetes.failures import Rule
from trunkline.settings.kubernetes import KubernetesSettings
from trunkline.settings.secret import Secret


def rules(overlay: str, role: str) -> tuple[Rule, ...]:
    """The rules of a Role, a group each as ours have it."""
    found = []
    for each in objects(kustomized(overlay))["Role", role]["rules"]:
        (group,) = each["apiGroups"]
        found.append(Rule(group, tuple(each["resources"]), tuple(each["verbs"])))
    return tuple(found)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_role_has_the_rules_of_what_uses_it(overlay: str) -> None:
    assert rules(overlay, "trunkline-balancer") == (RULE,)
    assert rules(overlay, "trunkline-deploy") == RULES


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_source_names_a_service_and_a_port_that_are_there(overlay: str) -> None:
    found = objects(kustomized(overlay))
    (settings,) = (each["data"] for (kind, name), each in found.items() if kind == "ConfigMap" and "-settings-" in name)
    entry = parse_entry(settings["TRUNKLINE_BALANCER_KUBERNETES"])
    assert entry.namespace == ""  # that of the pod
    service = found["Service", entry.service]
    assert entry.port in {port["name"] for port in service["spec"]["ports"]}


async def test_a_deploy_starts_and_removes_the_colour_that_rests() -> None:
    """The runtime, with the rights of our Role, on our Deployments: image, version and replicas, then nothing again."""
    green, old = "trunkline-green", "registry.example.org/trunkline:0.1.0"
    new = "registry.example.org/trunkline:0.2.0"
    async with ApiServer().serving() as api:
        cluster = Cluster(api, old, new, namespace="trunkline")
        for colour in ("blue", "green"):
            each = objects(kustomized("production"))["Deployment", f"trunkline-{colour}"]
            api.put("deployments", "trunkline", each)
        cluster.reconcile()
        api.tokens = {"t0ken": "system:serviceaccount:trunkline:trunkline-deploy"}
        api.rules = {
            (verb, f"{plural}.{rule.group}".rstrip("."))
            for rule in rules("production", "trunkline-deploy")
            for plural in rule.resources
            for verb in rule.verbs
        }
        settings = KubernetesSettings(namespace="trunkline")
        runtime = KubernetesRuntime(
            Access(api.url, FixedToken(Secret("t0ken")), "default"), settings, look_s=0.02, patience_s=0.5
        )
        try:
            what = What(image=new, version="0.2.0")
            assert await runtime.check("green", what) == ""
            await runtime.ensure("green", 3, what)
            async with asyncio.timeout(patient(10)):
                while not (len(nodes := await runtime.list("green")) == 3 and all(node.running for node in nodes)):
                    await asyncio.sleep(0.02)
            template = cluster.get(green)["spec"]["template"]
            assert container(template, "node")["image"] == new
            assert template["metadata"]["labels"]["app.kubernetes.io/version"] == "0.2.0"
            await runtime.remove("green")
            assert cluster.pods("green") == []
            assert len(cluster.pods("blue")) == 3
        finally:
            await runtime.close()
            await cluster.close()
