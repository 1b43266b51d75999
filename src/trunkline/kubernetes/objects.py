"""What addresses Kubernetes objects, and the parts that all of them have. Pure.

Rules:

- A struct declares what Trunkline reads; everything else of an object is ignored.
- The API server leaves an empty list out or writes it as null, so that every list may be None.
- A resource version is opaque: it is handed back as it came, and compared for equality alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

import msgspec


class Resource(msgspec.Struct, frozen=True):
    """A kind of object, as the API addresses it.

    Attributes:
        group: API group, empty for the core group.
        version: of the API group.
        plural: name in paths and in RBAC rules.
    """

    group: str
    version: str
    plural: str

    def path(self, namespace: str, name: str = "", part: str = "") -> str:
        """Path of the list in a namespace, of one object of it, or of a part (subresource) of that object."""
        root = f"/apis/{self.group}" if self.group else "/api"
        parts = (root, self.version, "namespaces", namespace, self.plural, name, part)
        return "/".join(part for part in parts if part)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices")
DEPLOYMENTS = Resource("apps", "v1", "deployments")
PODS = Resource("", "v1", "pods")


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """`metadata` of an object."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class KubernetesObject(Protocol):
    """Anything with `metadata`."""

    @property
    def metadata(self) -> Meta:
        """What every object has."""


T = TypeVar("T")


class ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    """`metadata` of a list: where a watch goes on from, and the token of the next page, empty with the last one."""

    resource_version: str = ""
    continues: str = msgspec.field(name="continue", default="")


class Listed(msgspec.Struct, Generic[T], frozen=True):
    """A list, or a page of one."""

    metadata: ListMeta
    items: tuple[T, ...] | None = None


class StatusDetails(msgspec.Struct, frozen=True, rename="camel"):
    """`details` of a status."""

    retry_after_seconds: int = 0


class Status(msgspec.Struct, frozen=True):
    """What the API server answers in place of an object: a failure with its reason."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: StatusDetails | None = None


class WatchEvent(msgspec.Struct, frozen=True):
    """A line of a watch: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR, with an object or a status."""

    type: str
    object: msgspec.Raw


def selector(labels: Mapping[str, str]) -> str:
    """A label selector that all of `labels` have to match."""
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
