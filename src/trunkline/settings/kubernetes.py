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
LabelName = Annotated[
    str,
    Meta(
        pattern=r"^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$",
        extra={"allowed": 'the name of a label such as "trunkline.colour" or "example.org/colour"'},
    ),
]
LabelSelector = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z0-9._/-]+=[A-Za-z0-9._-]*(,[A-Za-z0-9._/-]+=[A-Za-z0-9._-]*)*)?$",
        extra={"allowed": 'labels such as "app.kubernetes.io/name=trunkline,tier=edge", or empty'},
    ),
]


class KubernetesSettings(msgspec.Struct, frozen=True):
    """[kubernetes]: a cluster, and the Deployments of the colours in it."""

    kubeconfig: Annotated[
        Path | None,
        about("Kubeconfig file; by default KUBECONFIG, else the pod's service account, else ~/.kube/config."),
    ] = None
    context: Annotated[str, about("Context in it; by default the current one.")] = ""
    namespace: Annotated[
        Namespace, about("Namespace of what is named without one; by default that of the context or the pod.")
    ] = ""
    colour_label: Annotated[LabelName, about("Label of a Deployment whose value is the colour of its nodes.")] = (
        "trunkline.colour"
    )
    selector: Annotated[
        LabelSelector,
        about("Labels that the Deployments of this fleet have besides; for several fleets in a namespace."),
    ] = ""
    container: Annotated[
        str, about("Container of a pod that is the node; by default the only one, or the pod's default container.")
    ] = ""
