"""A fleet in a cluster: real nodes as pods, with addresses of their own, behind a real balancer on a real NATS."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.balancer.balance_process import Command
from tests.support.balancer.talking import Scene, open_scene
from tests.support.deploy.real_fleet import TOKEN, RealFleet
from tests.support.free_ports import free_port
from tests.support.kubernetes.api_server import ApiServer
from tests.support.kubernetes.cluster import Cluster, Stop
from tests.support.kubernetes.kubeconfig import write_kubeconfig
from tests.support.kubernetes.slices import endpoint, endpoint_slice
from tests.support.kubernetes.store import Object
from tests.support.patience import patient
from trunkline.deploy.parts import Parts
from trunkline.deploy.runtimes.kubernetes.runtime import KubernetesRuntime
from trunkline.kubernetes.kubeconfig import access_of
from trunkline.settings.kubernetes import KubernetesSettings

OLD, NEW = "shop:1", "shop:2"


class ClusterFleet:
    """The fleet; pods have addresses of loopback and one port, as those of a Deployment have.

    Attributes:
        cluster: its Deployments.
        scene: its NATS and nodes.
    """

    def __init__(self, api: ApiServer, scene: Scene, kubeconfig: Path) -> None:
        self.cluster = Cluster(api, OLD, NEW, start=self._start)
        self.scene = scene
        self.kubeconfig = kubeconfig
        self.real: RealFleet | None = None
        self._port = free_port()
        self._addresses = iter(range(11, 250))
        self._endpoints: dict[str, Object] = {}

    async def _start(self, pod: Object) -> Stop:
        """A kubelet starts the node of a pod, and the controller of endpoints notices."""
        name, labels = pod["metadata"]["name"], pod["metadata"]["labels"]
        address = f"127.0.0.{next(self._addresses)}"
        node = await self.scene.node(
            name, host=address, port=self._port, colour=labels["trunkline.colour"], pod_name=name, pod_ip=address,
            version=labels.get("app.kubernetes.io/version", ""), limits={"exempt": ("127.0.0.0/8",)},
        )  # fmt: skip
        self._endpoints[name] = endpoint(address, name)
        self._write_slice()

        async def stop() -> None:
            self._endpoints[name] = endpoint(address, name, ready=False, serving=True, terminating=True)
            self._write_slice()
            await self.scene.stop(node)
            del self._endpoints[name]
            self._write_slice()

        return stop

    def _write_slice(self) -> None:
        port = {"name": "http", "port": self._port, "protocol": "TCP"}
        found = endpoint_slice("nodes-a", *self._endpoints.values(), service="trunkline-nodes", ports=[port])
        self.cluster.api.put("endpointslices", "live", found)

    @contextlib.asynccontextmanager
    async def parts(self) -> AsyncIterator[Parts]:
        """Those of a tool that deploys by the cluster."""
        assert self.real is not None

        def runtime(_: object) -> KubernetesRuntime:
            return KubernetesRuntime(access_of([self.kubeconfig], ""), KubernetesSettings(), look_s=0.1)

        async with self.real.parts() as parts:
            yield dataclasses.replace(parts, runtime=runtime)


@contextlib.asynccontextmanager
async def cluster_fleet(folder: Path) -> AsyncIterator[ClusterFleet]:
    """Two pods of blue, which get all connections, and none of green; the balancer watches their Service as well."""
    async with ApiServer().serving() as api:
        kubeconfig = write_kubeconfig(folder, api.url)
        scene = await open_scene(folder)
        fleet = ClusterFleet(api, scene, kubeconfig)
        balancer: Command | None = None
        try:
            fleet.cluster.deployment("trunkline-blue", "blue", 2, OLD)
            fleet.cluster.deployment("trunkline-green", "green", 0, OLD)
            balancer = await Command.start(
                folder, "balance", "--listen", "127.0.0.1:0", "--bus", scene.bus.url, KUBECONFIG=str(kubeconfig),
                TRUNKLINE_BALANCER_KUBERNETES="trunkline-nodes:http",
                TRUNKLINE_BUS_PREFIX=scene.bus.prefix, TRUNKLINE_ADMIN_TOKEN=TOKEN,
            )  # fmt: skip
            await balancer.ready("balancer_up")
            fleet.real = RealFleet(scene, balancer, {})
            async with fleet.parts() as parts:
                async with asyncio.timeout(patient(15)):
                    while len([node for node in (await parts.world.look()).nodes if node.usable]) < 2:
                        await asyncio.sleep(0.05)
                await parts.world.put_traffic(0, {"blue": 100.0})
            yield fleet
        finally:
            if balancer is not None:
                await balancer.stop()
            await fleet.cluster.close()
            await scene.close()
