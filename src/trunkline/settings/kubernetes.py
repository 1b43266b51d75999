"""[kubernetes]: the cluster whose API server the balancer and `trunkline deploy` ask. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from trunkline.settings.types import about

Namespace = Annotated[
    str,
    Meta(
        pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$",
        extra={"allowed": "at most 63 lower-case letters, digits and '-', or empty"},
    ),
]
ForColour = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9.-]*\{colour\}[a-z0-9.-]*$",
        extra={"allowed": 'a name with {colour} in it, such as "trunkline-{colour}"'},
    ),
]


class KubernetesSettings(msgspec.Struct, frozen=True):
    """[kubernetes]: a cluster, and the Deployments of the colours in it."""

    kubeconfig: Annotated[
        Path | None,
        about("Kubeconfig file; by default KUBECONFIG, else ~/.kube/config, else the pod's service account."),
    ] = None
    context: Annotated[str, about("Context in it; by default the current one.")] = ""
    namespace: Annotated[
        Namespace, about("Namespace of what is named without one; by default that of the context or the pod.")
    ] = ""
    deployment: Annotated[ForColour, about("Name of the Deployment of a colour.")] = "trunkline-{colour}"
    container: Annotated[
        str, about("Container of a pod that is the node; by default the only one, or the pod's default container.")
    ] = ""
