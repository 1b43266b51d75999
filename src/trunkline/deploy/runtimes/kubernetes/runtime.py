"""Starts and stops the nodes of a colour by its Deployment (see `rollout`, which decides).

Facts:

- Each colour has a Deployment, made once by whoever made the rest (manifests, a chart): the one of a colour that does
  not run has 0 replicas. A deploy changes its image, its `server.version` and its replicas, and nothing else.
- Whom clients get to is for the traffic table to say. Both colours may be in one Service, or in none.
- The Deployment of a colour that was removed stays, with 0 replicas; a HorizontalPodAutoscaler rests meanwhile.
- Pods that were evicted are no nodes. Their Deployment makes others, and leaves them there even when it is scaled to 0.
- An API server that is away for `PATIENCE_S`, as while its machine is upgraded, fails no deploy.
- It needs `RULES` in its namespace, those of Deployments for the names of the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from trunkline.deploy.runtimes.base import RuntimeFailed, RuntimeNode, What
from trunkline.deploy.runtimes.kubernetes.objects import Container, Deployment, Pod
from trunkline.deploy.runtimes.kubernetes.rollout import (
    Scale,
    Scaled,
    change,
    container_of,
    image_fault,
    nodes_of,
    version_fault,
)
from trunkline.kubernetes.access import Access
from trunkline.kubernetes.client import ApiClient
from trunkline.kubernetes.failures import ApiFailed, ApiForbidden, ApiNotFound, ApiUnreachable, Rule
from trunkline.kubernetes.objects import DEPLOYMENTS, PODS, Listed
from trunkline.settings.kubernetes import KubernetesSettings

RULES: Final = (
    Rule("apps", ("deployments",), ("get", "patch")),
    Rule("", ("pods",), ("list",)),
    Rule("", ("pods/log",), ("get",)),
)
"""What the Role of `trunkline deploy` has to allow."""

LOOK_S: Final = 1.0
LONGER_S: Final = 60.0
"""Beyond the grace period of its pods a colour may take so much longer to go."""

PATIENCE_S: Final = 20.0
LOG_BYTES: Final = 256 * 1024

T = TypeVar("T")


class _Missing(RuntimeFailed):
    """There is no such object."""


class KubernetesRuntime:
    """See `base.Runtime`.

    Args:
        access: the API server.
        settings: `[kubernetes]`.
        look_s: seconds between two looks at pods that are to go, and between tries.
        patience_s: seconds for which a server that is away is tried again.
    """

    name = "kubernetes"

    def __init__(
        self, access: Access, settings: KubernetesSettings, *, look_s: float = LOOK_S, patience_s: float = PATIENCE_S
    ) -> None:
        self._client = ApiClient(access)
        self._settings = settings
        self._namespace = settings.namespace or access.namespace
        self._look_s = look_s
        self._patience_s = patience_s
        self._node = settings.container  # the container whose log is that of the node, once it is known

    @property
    def starts(self) -> bool:
        """Yes."""
        return True

    async def check(self, colour: str, what: What) -> str:
        """Why it cannot run: no Deployment or container, no name of an image, what the API server would refuse."""
        if what.app or what.python:
            return "--app and --python: nodes in a cluster run an image; name it with --image"
        if what.image and (fault := image_fault(what.image)):
            return fault
        try:
            deployment = await self._deployment(colour)
            container = self._container(deployment)
            if deployment.spec.paused:
                name = deployment.metadata.name
                return f"the Deployment {name} is paused: kubectl rollout resume deployment/{name} -n {self._namespace}"
            if fault := version_fault(container, what.version):
                return fault
            await self._pods(deployment)
        except RuntimeFailed as error:
            return str(error)
        return await self._refusal(deployment, change(container, deployment.spec.replicas, what))

    async def _refusal(self, deployment: Deployment, changed: object) -> str:
        """Why the API server would not take a change: RBAC, a policy of the cluster, a Deployment that is not valid."""
        name = deployment.metadata.name
        try:
            await self._client.patch(DEPLOYMENTS, Deployment, self._namespace, name, changed, try_only=True)
        except ApiFailed as error:
            # Others say nothing of the change itself: an admission webhook may not support a try.
            return str(error) if error.status in (403, 422) else ""
        return ""

    async def list(self, colour: str) -> tuple[RuntimeNode, ...]:
        """The pods of a colour; raises RuntimeFailed."""
        deployment = await self._deployment(colour)
        container = self._container(deployment)
        return nodes_of(colour, container.name, deployment, await self._pods(deployment))

    async def ensure(self, colour: str, count: int, what: What) -> None:
        """Have `count` pods run `what`; raises RuntimeFailed."""
        deployment = await self._deployment(colour)
        await self._patch(deployment, change(self._container(deployment), count, what))

    async def remove(self, colour: str) -> None:
        """Scale the Deployment to 0, and return when its pods are gone; raises RuntimeFailed."""
        deployment = await self._deployment(colour)
        await self._patch(deployment, Scaled(Scale(0)))
        within_s = deployment.spec.template.spec.termination_grace_period_seconds + LONGER_S
        left: tuple[Pod, ...] = ()
        try:
            async with asyncio.timeout(within_s):
                while left := await self._pods(deployment):  # noqa: ASYNC110 - the event is in another process
                    await asyncio.sleep(self._look_s)
        except TimeoutError:
            pod = left[0]
            where = f" on {pod.spec.node_name}" if pod.spec.node_name else ""
            others = f", nor have {len(left) - 1} others of {colour}" if left[1:] else ""
            why = f"pod {pod.metadata.name}{where} has not ended after {within_s:g} s{others}"
            raise RuntimeFailed(f"{why}: does the kubelet of that machine answer?") from None

    async def logs(self, node: str, lines: int = 20) -> tuple[str, ...]:
        """The last lines of a pod, of its run before if it does not run now; empty where they cannot be had."""
        for before in ({}, {"previous": "true"}):
            query = {"tailLines": str(lines), "limitBytes": str(LOG_BYTES), **before}
            if self._node:
                query["container"] = self._node
            try:
                text = await self._client.text(PODS, self._namespace, node, "log", query)
            except ApiForbidden as error:
                return (str(error),)
            except ApiFailed:
                continue
            if text.strip():
                return tuple(text.splitlines())
        return ()

    async def close(self) -> None:
        """End its connections."""
        await self._client.close()

    async def _deployment(self, colour: str) -> Deployment:
        """The one of a colour; raises RuntimeFailed when there is none."""
        name = self._settings.deployment.replace("{colour}", colour)
        try:
            return await self._asked(lambda: self._client.read(DEPLOYMENTS, Deployment, self._namespace, name))
        except _Missing:
            step = "apply the manifests of both colours, with replicas: 0 for the one that rests, or set"
            why = f"namespace {self._namespace} has no Deployment {name}: {step} kubernetes.deployment"
            raise RuntimeFailed(why) from None

    def _container(self, deployment: Deployment) -> Container:
        found = container_of(deployment, self._settings.container)
        if found is not None:
            self._node = found.name
            return found
        names = ", ".join(each.name for each in deployment.spec.template.spec.containers)
        raise RuntimeFailed(
            f"which container of the Deployment {deployment.metadata.name} is the node? It has {names}: set "
            "kubernetes.container, or the annotation kubectl.kubernetes.io/default-container of its template"
        )

    async def _pods(self, deployment: Deployment) -> tuple[Pod, ...]:
        """Those that run or may come to."""
        query = {"labelSelector": str(deployment.spec.selector)}
        found = await self._asked(lambda: self._client.read(PODS, Listed[Pod], self._namespace, query=query))
        return tuple(pod for pod in found.items or () if not pod.over)

    async def _patch(self, deployment: Deployment, changed: object) -> None:
        name = deployment.metadata.name
        await self._asked(lambda: self._client.patch(DEPLOYMENTS, Deployment, self._namespace, name, changed))

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the API server answers, which is asked again while it is away; each request may be made twice."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._patience_s
        while True:
            try:
                return await ask()
            except ApiNotFound as error:
                raise _Missing(str(error)) from None
            except ApiFailed as error:
                # 409: something else has changed the object between reading and writing.
                away = isinstance(error, ApiUnreachable) or error.status >= 500 or error.status in (409, 429)
                left_s = ends_at - loop.time()
                if not away or left_s < 0:
                    raise RuntimeFailed(str(error)) from None
                await asyncio.sleep(min(max(self._look_s, error.retry_after_s), left_s))
