"""The runtime against an API server with Deployments whose pods start, fail, and go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.kubernetes.api_server import ApiServer
from tests.support.kubernetes.cluster import Cluster
from tests.support.patience import patient
from trunkline.deploy.runtimes.base import RuntimeFailed, RuntimeNode, What
from trunkline.deploy.runtimes.kubernetes.runtime import RULES, KubernetesRuntime
from trunkline.kubernetes.access import Access
from trunkline.kubernetes.credentials import FixedToken
from trunkline.settings.kubernetes import KubernetesSettings
from trunkline.settings.secret import Secret

OLD, NEW = "shop:1", "shop:2"


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Blue runs two pods, green none."""
    async with ApiServer().serving() as api:
        made = Cluster(api, OLD, NEW)
        made.deployment("trunkline-blue", "blue", 2, OLD)
        made.deployment("trunkline-green", "green", 0, OLD)
        # Exactly what the runtime says that it needs.
        api.tokens = {"t0ken": "system:serviceaccount:live:deploy"}
        api.rules = {
            (verb, f"{plural}.{rule.group}".rstrip(".") if "/" not in plural else plural)
            for rule in RULES
            for plural in rule.resources
            for verb in rule.verbs
        }
        try:
            yield made
        finally:
            await made.close()


@contextlib.asynccontextmanager
async def runtime_of(cluster: Cluster, **settings: Any) -> AsyncIterator[KubernetesRuntime]:
    access = Access(cluster.api.url, FixedToken(Secret("t0ken")), "live")
    runtime = KubernetesRuntime(access, KubernetesSettings(**settings), look_s=0.02, patience_s=0.5)
    try:
        yield runtime
    finally:
        await runtime.close()


async def until(runtime: KubernetesRuntime, holds: Any, *, within_s: float = 10.0) -> tuple[RuntimeNode, ...]:
    async with asyncio.timeout(patient(within_s)):
        while not holds(nodes := await runtime.list("green")):
            await asyncio.sleep(0.02)
    return nodes


async def test_a_colour_is_started_with_its_image_and_version_and_removed(cluster: Cluster) -> None:
    """Asked twice nothing more happens; the Deployment stays, with no pods; the other colour is left alone."""
    blue = cluster.get("trunkline-blue")
    async with runtime_of(cluster) as runtime:
        what = What(image=NEW, version="2")
        assert await runtime.check("green", what) == ""
        await runtime.ensure("green", 3, what)
        nodes = await until(runtime, lambda nodes: len(nodes) == 3 and all(node.running for node in nodes))
        assert {node.colour for node in nodes} == {"green"}
        template = cluster.get("trunkline-green")["spec"]["template"]
        assert template["spec"]["containers"][0]["image"] == NEW
        assert template["metadata"]["labels"]["app.kubernetes.io/version"] == "2"
        assert "value" not in template["spec"]["containers"][0]["env"][0]
        version = cluster.api.store.version
        await runtime.ensure("green", 3, what)
        assert cluster.api.store.version == version
        await runtime.remove("green")
        assert cluster.pods("green") == []
        await runtime.remove("green")
        assert await runtime.list("green") == ()
        assert cluster.get("trunkline-green")["spec"]["replicas"] == 0
    assert cluster.get("trunkline-blue") == blue


async def test_without_an_image_it_runs_what_its_manifest_says(cluster: Cluster) -> None:
    """A repository of manifests may be what decides on images."""
    before = cluster.get("trunkline-green")["spec"]["template"]
    async with runtime_of(cluster) as runtime:
        await runtime.ensure("green", 1, What())
        await until(runtime, lambda nodes: [node.running for node in nodes] == [True])
    assert cluster.get("trunkline-green")["spec"]["template"] == before


async def test_an_image_that_cannot_be_pulled_is_named(cluster: Cluster) -> None:
    async with runtime_of(cluster) as runtime:
        await runtime.ensure("green", 1, What(image="shop:typo"))
        (node,) = await until(runtime, lambda nodes: any(node.given_up for node in nodes))
    assert node.given_up == 'ImagePullBackOff: Back-off pulling image "shop:typo": not found'
    assert not node.running


async def test_an_image_that_crashes_is_named_and_shows_its_last_lines(cluster: Cluster) -> None:
    cluster.crashing[NEW] = (1, "one\ntwo\nModuleNotFoundError: No module named 'shop'\n")
    async with runtime_of(cluster) as runtime:
        await runtime.ensure("green", 1, What(image=NEW))
        (node,) = await until(runtime, lambda nodes: any(node.given_up for node in nodes))
        assert (node.given_up, node.failures) == ("it has ended 3 times (Error, exit code 1)", 3)
        assert await runtime.logs(node.name, 2) == ("two", "ModuleNotFoundError: No module named 'shop'")
        assert await runtime.logs("no-such-pod") == ()


async def test_of_several_containers_the_log_of_the_node_is_shown(cluster: Cluster) -> None:
    """Which one that is stands in the template."""
    template = cluster.get("trunkline-green")["spec"]["template"]
    template["metadata"]["annotations"] = {"kubectl.kubernetes.io/default-container": "node"}
    template["spec"]["containers"].append({"name": "proxy", "image": "proxy:1"})
    cluster.deployment("trunkline-green", "green", 0, OLD, template=template)
    async with runtime_of(cluster) as runtime:
        await runtime.ensure("green", 1, What(image=NEW))
        (node,) = await until(runtime, lambda nodes: [node.running for node in nodes] == [True])
        cluster.api.logs[node.name] = "ready\n"
        assert await runtime.logs(node.name) == ("ready",)
    images = [each["image"] for each in cluster.get("trunkline-green")["spec"]["template"]["spec"]["containers"]]
    assert images == [NEW, "proxy:1"]


async def test_a_quota_that_allows_no_pod_is_named(cluster: Cluster) -> None:
    cluster.quota = 2
    async with runtime_of(cluster) as runtime:
        await runtime.ensure("green", 1, What(image=NEW))
        (node,) = await until(runtime, bool)
    assert (node.name, node.running) == ("trunkline-green", False)
    assert node.given_up == 'FailedCreate: pods "trunkline-green-" is forbidden: exceeded quota: pods'


async def test_an_evicted_pod_is_no_node(cluster: Cluster) -> None:
    """Another one takes its place. What is left of it does not go with its colour, and holds nothing up."""
    async with runtime_of(cluster) as runtime:
        await runtime.ensure("green", 1, What(image=NEW))
        (node,) = await until(runtime, lambda nodes: [node.running for node in nodes] == [True])
        cluster.evict(node.name)
        (other,) = await until(runtime, lambda nodes: [node.running for node in nodes] == [True])
        assert other.name != node.name
        async with asyncio.timeout(patient(10)):
            await runtime.remove("green")
    assert [pod["metadata"]["name"] for pod in cluster.pods("green")] == [node.name]


async def test_a_selector_of_expressions_selects_the_pods_of_its_deployment_alone(cluster: Cluster) -> None:
    selector = {"matchExpressions": [{"key": "trunkline.colour", "operator": "In", "values": ["green"]}]}
    cluster.deployment("trunkline-green", "green", 0, OLD, selector=selector)
    async with runtime_of(cluster) as runtime:
        assert await runtime.list("green") == ()
        await runtime.ensure("green", 1, What(image=NEW))
        await until(runtime, lambda nodes: [node.running for node in nodes] == [True])


@pytest.mark.parametrize(("verb", "resource"), [("patch", "deployments.apps"), ("list", "pods")])
async def test_a_missing_right_is_found_before_anything_starts(cluster: Cluster, verb: str, resource: str) -> None:
    assert cluster.api.rules is not None
    cluster.api.rules.remove((verb, resource))
    async with runtime_of(cluster) as runtime:
        why = await runtime.check("green", What(image=NEW))
    assert why.startswith(f"RBAC does not let system:serviceaccount:live:deploy {verb} {resource}")


async def test_a_change_that_the_api_server_refuses_is_found_before_anything_starts(cluster: Cluster) -> None:
    """It is tried and not done: a version in a label that the Deployment selects by, a policy. Webhooks may not try."""
    template = cluster.get("trunkline-green")["spec"]["template"]
    labels = {**template["metadata"]["labels"], "app.kubernetes.io/version": "1"}
    template["metadata"]["labels"] = labels
    cluster.deployment("trunkline-green", "green", 0, OLD, template=template, selector={"matchLabels": labels})
    version = cluster.api.store.version
    async with runtime_of(cluster) as runtime:
        assert "`selector` does not match template `labels`" in await runtime.check("green", What(version="2"))
        assert await runtime.check("green", What(image=NEW, version="1")) == ""
        for code, refused in ((403, True), (400, False)):
            cluster.api.refusals_of["patch"] = [(code, {})]
            assert bool(await runtime.check("green", What(image=NEW, version="1"))) == refused
    assert cluster.api.store.version == version


async def test_a_log_that_may_not_be_read_is_named_and_a_long_one_is_cut(cluster: Cluster) -> None:
    assert cluster.api.rules is not None
    async with runtime_of(cluster) as runtime:
        (pod,) = [pod["metadata"]["name"] for pod in cluster.pods("blue")][:1]
        cluster.api.logs[pod] = "x" * 1_000_000
        assert [len(line) for line in await runtime.logs(pod)] == [256 * 1024]
        cluster.api.rules.remove(("get", "pods/log"))
        (line,) = await runtime.logs(pod)
    assert line.endswith('lacks the rule apiGroups: [""], resources: [pods/log], verbs: [get]')


async def test_a_pod_without_a_place_waits(cluster: Cluster) -> None:
    """The cluster may get another machine."""
    cluster.full = True
    async with runtime_of(cluster) as runtime:
        await runtime.ensure("green", 1, What(image=NEW))
        (node,) = await until(runtime, lambda nodes: any(node.waits for node in nodes))
    assert (node.given_up, node.waits) == ("", "Unschedulable: 0/3 nodes are available: 3 Insufficient memory.")


async def test_pods_that_do_not_go_are_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a machine that is lost: its kubelet says nothing any more."""
    monkeypatch.setattr("trunkline.deploy.runtimes.kubernetes.runtime.LONGER_S", -0.7)
    async with runtime_of(cluster) as runtime:
        await runtime.ensure("green", 1, What(image=NEW))
        (node,) = await until(runtime, lambda nodes: [node.running for node in nodes] == [True])
        cluster.stuck = True
        with pytest.raises(RuntimeFailed, match=rf"pod {node.name} has not ended after 0\.3 s: does the"):
            await runtime.remove("green")


@pytest.mark.parametrize(
    ("colour", "what", "why"),
    [
        ("red", What(image=NEW), "namespace live has no Deployment trunkline-red: apply the manifests of both colours"),
        ("green", What(image="Shop:2"), "--image: 'Shop:2' is no name of an image"),
        ("green", What(app="shop:app"), "--app and --python: nodes in a cluster run an image; name it with --image"),
        ("green", What(image=NEW, version="a/b"), "--version: 'a/b' cannot be the value of the label"),
    ],
)
async def test_what_cannot_run_is_refused_before_anything_starts(
    cluster: Cluster, colour: str, what: What, why: str
) -> None:
    async with runtime_of(cluster) as runtime:
        assert (await runtime.check(colour, what)).startswith(why)
    assert not cluster.api.asked["patch deployments.apps"]


async def test_a_paused_deployment_is_refused(cluster: Cluster) -> None:
    cluster.deployment("trunkline-green", "green", 0, OLD, paused=True)
    async with runtime_of(cluster) as runtime:
        assert (await runtime.check("green", What())) == (
            "the Deployment trunkline-green is paused: kubectl rollout resume deployment/trunkline-green -n live"
        )


async def test_names_and_the_container_are_settings(cluster: Cluster) -> None:
    async with runtime_of(cluster, deployment="{colour}-shop", namespace="live") as runtime:
        assert "no Deployment green-shop" in await runtime.check("green", What())
    async with runtime_of(cluster, container="typo") as runtime:
        why = await runtime.check("green", What())
    assert why.startswith("which container of the Deployment trunkline-green is the node? It has node: set")


@pytest.mark.parametrize(
    ("verb", "resource", "rule"),
    [
        ("get", "deployments.apps", 'apiGroups: ["apps"], resources: [deployments], verbs: [get]'),
        ("patch", "deployments.apps", 'apiGroups: ["apps"], resources: [deployments], verbs: [patch]'),
        ("list", "pods", 'apiGroups: [""], resources: [pods], verbs: [list]'),
    ],
)
async def test_what_rbac_forbids_is_named_with_the_missing_rule(
    cluster: Cluster, verb: str, resource: str, rule: str
) -> None:
    assert cluster.api.rules is not None
    cluster.api.rules.remove((verb, resource))
    async with runtime_of(cluster) as runtime:
        with pytest.raises(RuntimeFailed) as failed:
            await (runtime.ensure("green", 1, What(image=NEW)) if verb == "patch" else runtime.list("green"))
    assert str(failed.value).endswith(f"its Role in namespace live lacks the rule {rule}")
    assert str(failed.value).startswith(f"RBAC does not let system:serviceaccount:live:deploy {verb} {resource}")


async def test_a_server_that_is_away_for_a_moment_is_asked_again(cluster: Cluster) -> None:
    """For a while; what it refuses is not asked again."""
    async with runtime_of(cluster) as runtime:
        cluster.api.refusals = [(503, {}), (429, {}), (409, {})]
        await runtime.ensure("green", 1, What(image=NEW))
        cluster.api.refusals = [(500, {})] * 1000
        with pytest.raises(RuntimeFailed, match="500"):
            await runtime.list("green")
        cluster.api.refusals = [(429, {"Retry-After": "50"})] * 2
        with pytest.raises(RuntimeFailed, match="429"):
            await runtime.list("green")
        cluster.api.refusals = [(422, {})]
        with pytest.raises(RuntimeFailed, match="422"):
            await runtime.list("green")
        assert not cluster.api.refusals
