"""The runtime and the balancer's source against the manifests of this repository: names, rights, labels."""

from __future__ import annotations

import pytest

from tests.support.kubernetes.api_server import ApiServer
from tests.support.kubernetes.cluster import Cluster
from tests.support.manifests.objects import Object, kustomized, objects
from trunkline.balancer.sources.kubernetes.slices import parse_entry
from trunkline.balancer.sources.kubernetes.source import RULE
from trunkline.deploy.runtimes.base import What
from trunkline.deploy.runtimes.kubernetes.runtime import RULES, KubernetesRuntime
from trunkline.kubernetes.access import Access
from trunkline.kubernetes.credentials import FixedToken
from trunkline.kubernetes.failures import Rule
from trunkline.settings.kubernetes import KubernetesSettings
from trunkline.settings.secret import Secret

pytestmark = pytest.mark.process
NAMESPACE = "trunkline"


@pytest.fixture(scope="module")
def production() -> dict[tuple[str, str], Object]:
    return objects(kustomized("production"))


def rules(role: Object) -> set[Rule]:
    return {
        Rule(group, tuple(rule["resources"]), tuple(rule["verbs"]))
        for rule in role["rules"]
        for group in rule["apiGroups"]
    }


def test_roles_allow_what_is_needed_and_nothing_else(production: dict[tuple[str, str], Object]) -> None:
    assert rules(production["Role", "trunkline-deploy"]) == set(RULES)
    assert RULE in rules(production["Role", "trunkline-balancer"])


def test_the_balancer_watches_the_service_of_the_nodes(production: dict[tuple[str, str], Object]) -> None:
    (settings,) = (each for (kind, _), each in production.items() if kind == "ConfigMap" and "settings" in _)
    entry = parse_entry(settings["data"]["TRUNKLINE_BALANCER_KUBERNETES"])
    ports = production["Service", entry.service]["spec"]["ports"]
    assert entry.port in [port["name"] for port in ports]


async def test_a_deploy_finds_both_colours_and_changes_what_it_should(
    production: dict[tuple[str, str], Object],
) -> None:
    """Each Deployment is that of its colour; its node is the container, and its version stands in the pods' label."""
    async with ApiServer().serving() as api:
        cluster = Cluster(api, "shop:2", namespace=NAMESPACE)
        for colour in ("blue", "green"):
            found = production["Deployment", f"trunkline-{colour}"]
            assert found["spec"]["template"]["metadata"]["labels"]["trunkline.colour"] == colour
            assert found["spec"]["selector"]["matchLabels"]["trunkline.colour"] == colour
            api.put("deployments", NAMESPACE, found)
        access = Access(api.url, FixedToken(Secret("")), NAMESPACE)
        runtime = KubernetesRuntime(access, KubernetesSettings(), look_s=0.02)
        try:
            what = What(image="shop:2", version="2")
            assert await runtime.check("green", what) == ""
            await runtime.ensure("green", 2, what)
            assert len(await runtime.list("green")) == 2
            template = cluster.get("trunkline-green")["spec"]["template"]
            assert template["metadata"]["labels"]["app.kubernetes.io/version"] == "2"
            assert [container["image"] for container in template["spec"]["containers"]] == ["shop:2"]
            await runtime.remove("green")
        finally:
            await runtime.close()
            await cluster.close()
