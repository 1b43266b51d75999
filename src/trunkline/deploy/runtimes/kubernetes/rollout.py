"""What a Deployment and its pods say about a rollout, and the changes that order one. Pure.

what is seen                                            the node
------------------------------------------------------  ---------------------------------------------------------------
its image cannot be had, or its container not be made   given up, with the kubelet's reason
it ends again and again, or the node with exit code 2   given up, with the exit code of its last run
no place for it, or its image is being fetched          waits, with the reason: more machines may come
no pod is made: a quota, an admission rule              given up, in the name of its Deployment
the Deployment's progress deadline is over              given up, in the name of its Deployment

Rules:

- Pods whose image is not that of the Deployment are of an earlier rollout. They run, or do not; their faults do not
  count against this one.
- What a Deployment says counts once its controller has seen the last change (`observedGeneration`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from trunkline.deploy.runtimes.base import RuntimeNode, What
from trunkline.deploy.runtimes.kubernetes.objects import Container, ContainerStatus, Deployment, Pod

DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
VERSION_VARIABLE: Final = "TRUNKLINE_SERVER_VERSION"

HOPELESS: Final = frozenset(
    {
        "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError",
        "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError",
    }
)  # fmt: skip
"""Reasons of a waiting container that no patience mends; the first failed attempt (ErrImagePull) is not among them."""

BAD_SETTINGS: Final = 2
"""The exit code of `trunkline serve` for settings that it cannot use."""

CRASHES: Final = 3
LONGEST: Final = 300

_LABEL_PATH: Final = re.compile(r"metadata\.labels\['([^']+)'\]")
_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_IMAGE: Final = re.compile(
    r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?/)?"
    r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)


class Scale(msgspec.Struct, frozen=True):
    """`spec` of a Deployment that is scaled."""

    replicas: int


class Scaled(msgspec.Struct, frozen=True):
    """A change that scales."""

    spec: Scale


class _Variable(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    value: str
    value_from: None = None  # null takes away what stood there: a variable may have one of the two


class _NoVariable(msgspec.Struct, frozen=True):
    name: str
    patch: str = msgspec.field(name="$patch", default="delete")


class _ChangedContainer(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    image: str = ""
    env: tuple[_Variable | _NoVariable, ...] = ()


class _ChangedPod(msgspec.Struct, frozen=True):
    containers: tuple[_ChangedContainer, ...]


class _ChangedMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    labels: dict[str, str | None] = {}


class _ChangedTemplate(msgspec.Struct, frozen=True):
    metadata: _ChangedMeta
    spec: _ChangedPod


class _Rollout(msgspec.Struct, frozen=True):
    replicas: int
    template: _ChangedTemplate


class RolledOut(msgspec.Struct, frozen=True):
    """A change that scales and replaces what runs, as a strategic merge: containers and variables merge by name."""

    spec: _Rollout


def change(container: Container, count: int, what: What) -> Scaled | RolledOut:
    """What to change of a Deployment, so that `count` pods run `what`; the same each time.

    The version goes into the pods' label that the container has it from, else into the container's variable. Another
    image without a version has none: that of the image before it would be wrong.
    """
    if not what.image and not what.version:
        return Scaled(Scale(count))
    labels: dict[str, str | None] = {}
    env: tuple[_Variable | _NoVariable, ...] = ()
    if label := _version_label(container):
        labels[label] = what.version or None
    elif what.version:
        env = (_Variable(VERSION_VARIABLE, what.version),)
    elif any(variable.name == VERSION_VARIABLE for variable in container.env or ()):
        env = (_NoVariable(VERSION_VARIABLE),)
    pod = _ChangedPod((_ChangedContainer(container.name, what.image, env),))
    return RolledOut(_Rollout(count, _ChangedTemplate(_ChangedMeta(labels), pod)))


def version_fault(container: Container, version: str) -> str:
    """Why nodes cannot be given this version, empty when they can."""
    label = _version_label(container)
    if not version or not label or _LABEL_VALUE.fullmatch(version):
        return ""
    return (
        f"--version: {version!r} cannot be the value of the label {label}, which has the version of a pod: at most 63 "
        "letters, digits, '-', '_' and '.'"
    )


def _version_label(container: Container) -> str:
    for variable in container.env or ():
        if variable.name == VERSION_VARIABLE and variable.value_from is not None:
            reference = variable.value_from.field_ref
            if reference is not None and (found := _LABEL_PATH.fullmatch(reference.field_path)):
                return found[1]
    return ""


def image_fault(image: str) -> str:
    """Why `image` is no name of an image, empty for one that may be."""
    if _IMAGE.fullmatch(image):
        return ""
    return f"--image: {image!r} is no name of an image; write it as registry.example.org/team/app:1.4.2"


def container_of(deployment: Deployment, wanted: str) -> Container | None:
    """The container that is the node; None where it is not there, or it is not clear which one is."""
    containers = deployment.spec.template.spec.containers
    annotations = deployment.spec.template.metadata.annotations or {}
    name = wanted or annotations.get(DEFAULT_CONTAINER, "")
    if not name and len(containers) == 1:
        return containers[0]
    return next((each for each in containers if each.name == name), None)


def nodes_of(colour: str, container: str, deployment: Deployment, pods: Iterable[Pod]) -> tuple[RuntimeNode, ...]:
    """The nodes of a colour; a Deployment whose pods are not made stands for them."""
    current = {each.name: each.image for each in deployment.spec.template.spec.containers}
    nodes = [_node(colour, container, pod, current.get(container, "")) for pod in pods]
    if fault := _fault(deployment):
        nodes.append(RuntimeNode(deployment.metadata.name, colour, running=False, given_up=fault))
    return tuple(nodes)


def _node(colour: str, container: str, pod: Pod, image: str) -> RuntimeNode:
    statuses = (*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ()))
    own = next((each for each in pod.status.container_statuses or () if each.name == container), None)
    running = own is not None and own.state.running is not None
    earlier = any(each.name == container and each.image != image for each in pod.spec.containers)
    if earlier or pod.metadata.deletion_timestamp:
        return RuntimeNode(pod.metadata.name, colour, running)
    faults = [fault for each in statuses if (fault := _hopeless(each, each.name == container))]
    return RuntimeNode(
        pod.metadata.name,
        colour,
        running,
        failures=own.restart_count if own is not None else 0,
        given_up=faults[0] if faults else "",
        waits="" if running or faults else next(_waits(pod, statuses), ""),
    )


def _hopeless(status: ContainerStatus, is_node: bool) -> str:
    waiting, ended = status.state.waiting, status.state.terminated or status.last_state.terminated
    if waiting is not None and waiting.reason in HOPELESS:
        return _text(waiting.reason if is_node else f"container {status.name}: {waiting.reason}", waiting.message)
    if ended is None or ended.exit_code == 0 or status.state.running is not None:
        return ""
    how = f"{ended.reason or 'ended'}, exit code {ended.exit_code}"
    if is_node and ended.exit_code == BAD_SETTINGS:
        return _text(f"it cannot use its settings ({how})", ended.message)
    if status.restart_count >= CRASHES:
        what = "it" if is_node else f"its container {status.name}"
        return _text(f"{what} has ended {status.restart_count} times ({how})", ended.message)
    return ""


def _waits(pod: Pod, statuses: Sequence[ContainerStatus]) -> Iterator[str]:
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            yield _text(condition.reason, condition.message)
    for status in statuses:
        if (waiting := status.state.waiting) is not None and waiting.reason:
            yield _text(waiting.reason, waiting.message)


def _fault(deployment: Deployment) -> str:
    """Why the pods of a Deployment are not made, or its rollout is given up."""
    if deployment.status.observed_generation < deployment.metadata.generation or not deployment.spec.replicas:
        return ""
    for condition in deployment.status.conditions or ():
        if condition.type == "ReplicaFailure" and condition.status == "True":
            return _text(condition.reason, condition.message)
        if condition.type == "Progressing" and condition.status == "False":
            return _text(condition.reason, condition.message)
    return ""


def _text(reason: str, message: str) -> str:
    return f"{reason}: {message.strip()}"[:LONGEST] if message.strip() else reason
