"""Deployments and pods as far as the runtime reads them. Pure."""

from __future__ import annotations

import msgspec

from trunkline.kubernetes.objects import Meta, selector


class FieldRef(msgspec.Struct, frozen=True, rename="camel"):
    """A field of the pod, as `metadata.labels['trunkline.colour']`."""

    field_path: str = ""


class ValueFrom(msgspec.Struct, frozen=True, rename="camel"):
    """Where the value of a variable comes from."""

    field_ref: FieldRef | None = None


class Variable(msgspec.Struct, frozen=True, rename="camel"):
    """A variable of a container's environment."""

    name: str
    value_from: ValueFrom | None = None


class Container(msgspec.Struct, frozen=True):
    """A container of a template or of a pod."""

    name: str
    image: str = ""
    env: tuple[Variable, ...] | None = None


class PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    """`spec` of a pod, and of the template of one."""

    containers: tuple[Container, ...] = ()
    node_name: str = ""
    termination_grace_period_seconds: int = 30


class TemplateMeta(msgspec.Struct, frozen=True):
    """`metadata` of a template."""

    annotations: dict[str, str] | None = None


class Template(msgspec.Struct, frozen=True):
    """The template of a Deployment's pods."""

    spec: PodSpec = PodSpec()
    metadata: TemplateMeta = TemplateMeta()


class Expression(msgspec.Struct, frozen=True):
    """One of `matchExpressions`; the operators are In, NotIn, Exists and DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] | None = None

    def __str__(self) -> str:
        match self.operator:
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
        return f"{self.key} {self.operator.lower()} ({','.join(self.values or ())})"


class Selector(msgspec.Struct, frozen=True, rename="camel"):
    """Which pods are those of a Deployment."""

    match_labels: dict[str, str] | None = None
    match_expressions: tuple[Expression, ...] | None = None

    def __str__(self) -> str:
        return ",".join(filter(None, (selector(self.match_labels or {}), *map(str, self.match_expressions or ()))))


class DeploymentSpec(msgspec.Struct, frozen=True):
    """`spec` of a Deployment."""

    replicas: int = 1
    selector: Selector = Selector()
    template: Template = Template()
    paused: bool = False


class Condition(msgspec.Struct, frozen=True):
    """A condition of a Deployment or a pod."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class DeploymentStatus(msgspec.Struct, frozen=True, rename="camel"):
    """`status` of a Deployment; the generation says up to which change it holds."""

    observed_generation: int = 0
    conditions: tuple[Condition, ...] | None = None


class Deployment(msgspec.Struct, frozen=True):
    """A Deployment."""

    metadata: Meta
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


class Waiting(msgspec.Struct, frozen=True):
    """A container that does not run yet, or not now."""

    reason: str = ""
    message: str = ""


class Terminated(msgspec.Struct, frozen=True, rename="camel"):
    """A container that has ended."""

    reason: str = ""
    message: str = ""
    exit_code: int = 0


class Running(msgspec.Struct, frozen=True):
    """A container that runs."""


class ContainerState(msgspec.Struct, frozen=True):
    """One of the three."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, frozen=True, rename="camel"):
    """How a container of a pod is, and how its last run ended."""

    name: str
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    """`status` of a pod."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None
    init_container_statuses: tuple[ContainerStatus, ...] | None = None


class Pod(msgspec.Struct, frozen=True):
    """A pod."""

    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def over(self) -> bool:
        """It was evicted, or its machine did not take it: it never runs again, and another takes its place."""
        return self.status.phase in ("Failed", "Succeeded")
