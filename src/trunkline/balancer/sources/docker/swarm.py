"""Backends among the services of a Docker Swarm: each running task of a service with labels for it (see `labels`).

Facts:

- Labels are those of the service (in Compose `deploy.labels`), as Traefik reads them. They name a port: a service does
  not say which ones its image exposes.
- Tasks have no events, so services and tasks are listed every other second. A task is a backend while it runs; once
  Swarm wants it gone, it drains. A task with a health check runs only when that has passed.
- The address of a task is that in `balancer.docker_network`, or in its first network other than the ingress, which
  leads to whatever task it likes. A task in the network of its machine has that machine's address.
- The daemon has to be a manager. It needs GET of /version, /services, /tasks and /nodes alone.
"""

from __future__ import annotations

import asyncio

import msgspec
from aiodocker import Docker

from trunkline.balancer.sources.base import Update
from trunkline.balancer.sources.docker import labels
from trunkline.balancer.sources.docker.follower import Follower
from trunkline.balancer.sources.docker.labels import Container
from trunkline.docker.endpoint import Endpoint

_EVERY_S = 2.0
_HOST = "host"


class _ServiceSpec(msgspec.Struct, rename="pascal"):
    name: str
    labels: dict[str, str] | None = None


class _Service(msgspec.Struct, rename="pascal"):
    id: str = msgspec.field(name="ID")
    spec: _ServiceSpec


class _NetworkSpec(msgspec.Struct, rename="pascal"):
    name: str = ""
    ingress: bool = False


class _Network(msgspec.Struct, rename="pascal"):
    spec: _NetworkSpec


class _Attachment(msgspec.Struct, rename="pascal"):
    network: _Network
    addresses: list[str] | None = None


class _Status(msgspec.Struct, rename="pascal"):
    state: str = ""


class _Task(msgspec.Struct, rename="pascal"):
    id: str = msgspec.field(name="ID")
    service: str = msgspec.field(name="ServiceID")
    node: str = msgspec.field(name="NodeID", default="")
    slot: int = 0
    status: _Status = msgspec.field(default_factory=_Status)
    desired_state: str = ""
    networks: list[_Attachment] | None = msgspec.field(name="NetworksAttachments", default=None)


class _NodeStatus(msgspec.Struct, rename="pascal"):
    addr: str = ""


class _Node(msgspec.Struct, rename="pascal"):
    id: str = msgspec.field(name="ID")
    status: _NodeStatus


class SwarmSource:
    """The labelled services of one Swarm.

    Args:
        endpoint: a manager.
        network: network whose addresses are used, `balancer.docker_network`; empty for a task's first.
    """

    def __init__(self, endpoint: Endpoint, network: str = "") -> None:
        self._follower = Follower(endpoint, network, "swarm")

    async def run(self, update: Update) -> None:
        """Follow the Swarm and give its backends at each change, until cancelled."""
        await self._follower.run(lambda docker: self._follow(docker, update), update)

    async def _follow(self, docker: Docker, update: Update) -> None:
        while True:
            self._follower.give(await _tasks(docker), update)
            self._follower.is_back()
            await asyncio.sleep(_EVERY_S)


async def _tasks(docker: Docker) -> dict[str, Container]:
    """The running tasks of labelled services, by id."""
    services = {one.id: one for one in msgspec.convert(await docker.services.list(), list[_Service])}
    wanted = [id for id, service in services.items() if labels.asks(service.spec.labels or {})]
    if not wanted:
        return {}
    listed = msgspec.convert(await docker.tasks.list(filters={"service": wanted}), list[_Task])
    running = [task for task in listed if task.status.state == "running" and task.service in services]
    machines: dict[str, str] = {}
    if any(_on_host(task) for task in running):
        machines = {node.id: node.status.addr for node in msgspec.convert(await docker.nodes.list(), list[_Node])}
    named = [(_container(task, services[task.service].spec, machines), task.id) for task in running]
    return {id: container for container, id in sorted(named, key=lambda each: each[0].name)}


def _container(task: _Task, service: _ServiceSpec, machines: dict[str, str]) -> Container:
    networks = {
        each.network.spec.name: (each.addresses or [""])[0].partition("/")[0]
        for each in task.networks or ()
        if not each.network.spec.ingress
    }
    return Container(
        # As the container of the task is called; one of a global service has no slot.
        name=f"{service.name}.{task.slot or task.node}.{task.id}",
        labels=service.labels or {},
        networks=networks,
        host_network=_on_host(task),
        machine=machines.get(task.node, ""),
        stopping=task.desired_state != "running",
        service=service.name,
    )


def _on_host(task: _Task) -> bool:
    return any(each.network.spec.name == _HOST for each in task.networks or ())
