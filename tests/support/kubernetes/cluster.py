"""What acts on Deployments in a cluster: the controller that makes pods of them, and kubelets that start these.

Rules, as in a real cluster:

- Pods of another template than the present one are replaced; the controller says up to which generation it has seen.
- A pod whose image cannot be pulled, or whose process ends, says so in the status of its container.
- A pod that was evicted is replaced, and is not deleted, when its Deployment is scaled to 0 as well.
- A pod that is deleted is there, with a deletion timestamp, until its process has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tests.support.kubernetes.api_server import ApiServer
from tests.support.kubernetes.store import Missing, Object

Stop = Callable[[], Awaitable[None]]
Start = Callable[[Object], Awaitable[Stop]]


async def _nothing() -> None:
    pass


async def start_nothing(pod: Object) -> Stop:
    """A pod that runs nothing."""
    return _nothing


class Cluster:
    """One namespace with Deployments.

    Args:
        api: whose objects they are.
        start: starts the process of a pod; what it returns ends it.

    Attributes:
        images: those that can be pulled.
        crashing: exit code and last words of images that end at once.
        quota: pods there may be.
        full: whether no machine has room.
        stuck: whether pods that are deleted stay.
    """

    def __init__(self, api: ApiServer, *images: str, start: Start = start_nothing, namespace: str = "live") -> None:
        self.api = api
        self.images = set(images)
        self.crashing: dict[str, tuple[int, str]] = {}
        self.quota = 100
        self.full = False
        self.stuck = False
        self.namespace = namespace
        self._start = start
        self._ends: dict[str, Stop] = {}
        self._numbers = 0
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        api.patched = self.reconcile

    def deployment(self, name: str, colour: str, replicas: int, image: str, **spec: Any) -> Object:
        """Apply one, as the manifests have it."""
        labels = {"app.kubernetes.io/name": "trunkline", "trunkline.colour": colour}
        version = {"fieldRef": {"fieldPath": "metadata.labels['app.kubernetes.io/version']"}}
        env = [{"name": "TRUNKLINE_SERVER_VERSION", "valueFrom": version}]
        pod = {"containers": [{"name": "node", "image": image, "env": env}], "terminationGracePeriodSeconds": 1}
        found: Object = {
            "kind": "Deployment",
            "apiVersion": "apps/v1",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
                **spec,
            },
        }
        self.api.put("deployments", self.namespace, found)
        self.reconcile()
        return found

    def get(self, name: str) -> Object:
        return self.api.store.get("deployments", self.namespace, name)

    def pods(self, colour: str) -> list[Object]:
        return self.api.store.all("pods", self.namespace, f"trunkline.colour={colour}")

    def reconcile(self) -> None:
        """Make the pods as the Deployments want them."""
        for deployment in self.api.store.all("deployments", self.namespace):
            self._reconcile(deployment)

    def evict(self, name: str) -> None:
        """Its machine runs short of memory: the pod is over, and stays until somebody deletes it."""
        self._say(name, {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."})

    async def close(self) -> None:
        """End everything that runs."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in list(self._ends.values()):
            await end()

    def _reconcile(self, deployment: Object) -> None:
        template = deployment["spec"]["template"]
        made_of = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
        labels = {**template["metadata"]["labels"], "pod-template-hash": made_of}
        own = [
            pod
            for pod in self._of(deployment)
            if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("phase") != "Failed"
        ]
        current = [pod for pod in own if pod["metadata"]["labels"]["pod-template-hash"] == made_of]
        wanted = deployment["spec"]["replicas"]
        for pod in [pod for pod in own if pod not in current] + current[wanted:]:
            self._delete(pod)
        conditions = []
        for _ in range(wanted - len(current)):
            if len(self.api.store.all("pods", self.namespace)) >= self.quota:
                message = f'pods "{deployment["metadata"]["name"]}-" is forbidden: exceeded quota: pods'
                conditions = [
                    {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
                ]
                break
            self._numbers += 1
            name = f"{deployment['metadata']['name']}-{made_of}-{self._numbers:05}"
            pod = {
                "kind": "Pod",
                "apiVersion": "v1",
                "metadata": {"name": name, "labels": labels},
                "spec": {**template["spec"]},
                "status": {},
            }
            self.api.put("pods", self.namespace, pod)
            self._runs[name] = self._spawn(self._run(name))
        left = self._of(deployment)
        updated = [pod for pod in left if pod["metadata"]["labels"]["pod-template-hash"] == made_of]
        runs = [pod for pod in left if pod["status"].get("phase") == "Running"]
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(left),
            "updatedReplicas": len(updated),
            "availableReplicas": len(runs),
            "conditions": conditions or None,
        }
        self.api.put("deployments", self.namespace, {**deployment, "status": status})

    def _of(self, deployment: Object) -> list[Object]:
        labels = deployment["spec"]["selector"].get("matchLabels") or deployment["metadata"]["labels"]
        return self.api.store.all("pods", self.namespace, ",".join(f"{name}={value}" for name, value in labels.items()))

    def _delete(self, pod: Object) -> None:
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self.api.put("pods", self.namespace, pod)
        if not self.stuck:
            self._spawn(self._end(pod["metadata"]["name"]))

    async def _run(self, name: str) -> None:
        """What a kubelet does with a new pod."""
        pod = self.api.store.get("pods", self.namespace, name)
        image = pod["spec"]["containers"][0]["image"]
        if self.full:
            why = {"reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient memory."}
            scheduled = {"type": "PodScheduled", "status": "False", **why}
            return self._say(name, {"phase": "Pending", "conditions": [scheduled]})
        if image not in self.images:
            for reason in ("ContainerCreating", "ErrImagePull", "ImagePullBackOff"):
                message = f'Back-off pulling image "{image}": not found' if reason.endswith("Off") else ""
                state = {"waiting": {"reason": reason, "message": message}}
                self._say(name, {"phase": "Pending", "containerStatuses": [{"name": "node", "state": state}]})
                await asyncio.sleep(0.05)
            return None
        if image in self.crashing:
            code, words = self.crashing[image]
            for restarts in range(1, 4):
                self.api.logs[name] = words
                status = {
                    "name": "node",
                    "restartCount": restarts,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting node"}},
                    "lastState": {"terminated": {"reason": "Error", "exitCode": code}},
                }
                self._say(name, {"phase": "Running", "containerStatuses": [status]})
                await asyncio.sleep(0.05)
            return None
        self._ends[name] = await self._start(pod)
        running = {"name": "node", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
        return self._say(name, {"phase": "Running", "containerStatuses": [running]})

    async def _end(self, name: str) -> None:
        await self._runs.pop(name)
        await self._ends.pop(name, _nothing)()
        with contextlib.suppress(Missing):
            self.api.delete("pods", self.namespace, name)
            self.reconcile()

    def _say(self, name: str, status: Object) -> None:
        with contextlib.suppress(Missing):
            pod = self.api.store.get("pods", self.namespace, name)
            self.api.put("pods", self.namespace, {**pod, "status": status})
            self.reconcile()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
