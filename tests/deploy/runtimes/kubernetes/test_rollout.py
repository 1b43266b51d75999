"""What Deployments and pods say of a rollout, and what is changed to order one."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.support.kubernetes.store import matches
from trunkline.deploy.runtimes.base import What
from trunkline.deploy.runtimes.kubernetes.objects import Container, Deployment, Pod, Selector
from trunkline.deploy.runtimes.kubernetes.rollout import change, container_of, image_fault, nodes_of, version_fault

LABEL = {"fieldRef": {"fieldPath": "metadata.labels['app.kubernetes.io/version']"}}
BY_LABEL = msgspec.convert(
    {"name": "node", "env": [{"name": "TRUNKLINE_SERVER_VERSION", "valueFrom": LABEL}]}, Container
)
PLAIN = Container("node")


def deployment(*conditions: dict[str, str], seen: int = 2, replicas: int = 2, **template: Any) -> Deployment:
    given = {
        "metadata": {"name": "trunkline-green", "generation": 2},
        "spec": {
            "replicas": replicas,
            "template": {"spec": {"containers": [{"name": "node", "image": "app:2"}]}, **template},
        },
        "status": {"observedGeneration": seen, "conditions": list(conditions)},
    }
    return msgspec.convert(given, Deployment)


def pod(state: dict[str, Any], *, image: str = "app:2", **more: Any) -> Pod:
    status = {"containerStatuses": [{"name": "node", "state": state, **more.pop("own", {})}], **more.pop("status", {})}
    containers = [{"name": "node", "image": image}]
    return msgspec.convert(
        {"metadata": {"name": "green-1", **more}, "spec": {"containers": containers}, "status": status}, Pod
    )


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("found", "running", "given_up", "waits"),
    [
        (pod({"running": {}}), True, "", ""),
        (pod(waiting("ContainerCreating")), False, "", "ContainerCreating"),
        (pod(waiting("ErrImagePull", "no such host")), False, "", "ErrImagePull: no such host"),
        (pod(waiting("ImagePullBackOff", "not found")), False, "ImagePullBackOff: not found", ""),
        (pod(waiting("InvalidImageName")), False, "InvalidImageName", ""),
        (pod(waiting("CreateContainerConfigError", 'secret "x" not found')), False,
         'CreateContainerConfigError: secret "x" not found', ""),
        (pod(waiting("CrashLoopBackOff"), own={"restartCount": 1, "lastState": ended(1)}), False, "",
         "CrashLoopBackOff"),
        (pod(waiting("CrashLoopBackOff"), own={"restartCount": 3, "lastState": ended(137, "OOMKilled")}), False,
         "it has ended 3 times (OOMKilled, exit code 137)", ""),
        (pod(ended(2, message="setting server.port")), False,
         "it cannot use its settings (Error, exit code 2): setting server.port", ""),
        (pod({"running": {}}, own={"restartCount": 9, "lastState": ended(1)}), True, "", ""),
        (pod(waiting("PodInitializing"), status={"initContainerStatuses": [
            {"name": "init", "state": waiting("ImagePullBackOff", "init:1")}]}), False,
         "container init: ImagePullBackOff: init:1", ""),
        (pod(waiting("PodInitializing"), status={"initContainerStatuses": [
            {"name": "init", "state": ended(2)}]}), False, "", "PodInitializing"),
        (pod(waiting("PodInitializing"), status={"initContainerStatuses": [
            {"name": "init", "restartCount": 3, "state": ended(2)}]}), False,
         "its container init has ended 3 times (Error, exit code 2)", ""),
        (pod({}, status={"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}),
         False, "", "Unschedulable: 0/3 nodes"),
    ],
)  # fmt: skip
def test_pods(found: Pod, running: bool, given_up: str, waits: str) -> None:
    (node,) = nodes_of("green", "node", deployment(), [found])
    assert (node.name, node.running, node.given_up, node.waits) == ("green-1", running, given_up, waits)


@pytest.mark.parametrize("more", [{"image": "app:1"}, {"deletionTimestamp": "2026-01-01T00:00:00Z"}])
def test_faults_of_an_earlier_rollout_do_not_count(more: dict[str, str]) -> None:
    """Nor do those of a pod that is to go; whether it runs does."""
    (node,) = nodes_of("green", "node", deployment(), [pod(waiting("ImagePullBackOff"), **more)])
    assert (node.running, node.given_up, node.waits) == (False, "", "")
    (node,) = nodes_of("green", "node", deployment(), [pod({"running": {}}, **more)])
    assert node.running


QUOTA = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
LATE = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}


@pytest.mark.parametrize(
    ("found", "given_up"),
    [
        (deployment(QUOTA), "FailedCreate: exceeded quota"),
        (deployment(LATE), "ProgressDeadlineExceeded"),
        (deployment(QUOTA, seen=1), None),
        (deployment(QUOTA, replicas=0), None),
        (deployment({"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}), None),
    ],
)
def test_a_deployment_without_pods_stands_for_them(found: Deployment, given_up: str | None) -> None:
    """What it says holds for the last change alone, once its controller has seen that."""
    nodes = nodes_of("green", "node", found, [])
    assert [(node.name, node.given_up) for node in nodes] == ([("trunkline-green", given_up)] if given_up else [])


VARIABLE = "TRUNKLINE_SERVER_VERSION"
BY_VALUE = msgspec.convert({"name": "node", "env": [{"name": VARIABLE, "value": "1"}]}, Container)
LABELLED = "app.kubernetes.io/version"
SET = {"name": VARIABLE, "value": "2", "valueFrom": None}


@pytest.mark.parametrize(
    ("container", "what", "labels", "node"),
    [
        (PLAIN, What(image="app:2"), {}, {"image": "app:2"}),
        (PLAIN, What(version="2"), {}, {"env": [SET]}),
        (BY_VALUE, What(image="app:2", version="2"), {}, {"image": "app:2", "env": [SET]}),
        (BY_VALUE, What(image="app:2"), {}, {"image": "app:2", "env": [{"name": VARIABLE, "$patch": "delete"}]}),
        (BY_LABEL, What(image="app:2", version="2"), {LABELLED: "2"}, {"image": "app:2"}),
        (BY_LABEL, What(image="app:2"), {LABELLED: None}, {"image": "app:2"}),
    ],
)
def test_a_change_is_a_strategic_merge(
    container: Container, what: What, labels: dict[str, str | None], node: dict[str, Any]
) -> None:
    """The version goes where the container has it from; another image without one loses that of the image before."""
    template = {
        "metadata": {"labels": labels} if labels else {},
        "spec": {"containers": [{"name": "node", **node}]},
    }
    made = json.loads(msgspec.json.encode(change(container, 3, what)))
    assert made == {"spec": {"replicas": 3, "template": template}}


def test_without_image_and_version_it_scales_alone() -> None:
    assert msgspec.to_builtins(change(BY_LABEL, 3, What())) == {"spec": {"replicas": 3}}


def test_a_version_that_no_label_can_have_is_refused() -> None:
    assert (
        version_fault(BY_LABEL, "1.4.2-rc1") == version_fault(PLAIN, "main@4f2a/x") == version_fault(BY_LABEL, "") == ""
    )
    assert "'main@4f2a/x' cannot be the value of the label app.kubernetes.io/version" in version_fault(
        BY_LABEL, "main@4f2a/x"
    )


@pytest.mark.parametrize(
    ("image", "good"),
    [
        ("app", True), ("app:1.4.2", True), ("registry.example.org:5000/team/app:1", True),
        ("ghcr.io/team/app@sha256:" + "a" * 64, True), ("app:1@sha256:" + "0" * 64, True), ("a/b__c/d--e", True),
        ("App", False), ("app:", False), ("app 1", False), ("https://ghcr.io/app", False), ("app@sha256:abc", False),
        ("app:-1", False), ("", False), ("app:1\n", False),
    ],
)  # fmt: skip
def test_names_of_images(image: str, good: bool) -> None:
    """What no registry can have is refused before anything starts."""
    assert (image_fault(image) == "") == good


def test_pods_are_those_of_labels_and_expressions() -> None:
    """An expression that is left out would select the pods of everybody else too."""
    given = {
        "matchLabels": {"app": "ws"},
        "matchExpressions": [
            {"key": "colour", "operator": "In", "values": ["green", "lime"]},
            {"key": "tier", "operator": "NotIn", "values": ["test"]},
            {"key": "live", "operator": "Exists"},
            {"key": "old", "operator": "DoesNotExist"},
        ],
    }
    text = str(msgspec.convert(given, Selector))
    assert text == "app=ws,colour in (green,lime),tier notin (test),live,!old"
    labels = {"app": "ws", "colour": "lime", "live": ""}
    for changed, selected in (({}, True), ({"colour": "blue"}, False), ({"tier": "test"}, False), ({"old": ""}, False)):
        assert matches({"metadata": {"name": "a", "labels": labels | changed}}, text) == selected


def test_the_container_that_is_the_node() -> None:
    two = {"spec": {"containers": [{"name": "proxy"}, {"name": "ws"}]}}
    default = {"metadata": {"annotations": {"kubectl.kubernetes.io/default-container": "ws"}}, **two}
    assert container_of(deployment(), "") == Container("node", "app:2")
    assert container_of(deployment(**two), "") is None
    assert container_of(deployment(**two), "proxy") == Container("proxy")
    assert container_of(deployment(**default), "") == Container("ws")
    assert container_of(deployment(**default), "typo") is None
