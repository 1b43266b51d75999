"""Backends among the containers of a Docker daemon: those with labels for it (see `labels`).

Facts:

- Every such container is inspected once, then the daemon's events are followed: start, pause, health and network
  changes inspect it again; a signal that ends it (`docker stop`, `docker kill`) makes it draining at once, before it is
  gone; its death removes it. Every 30 s all are listed again, should an event have been lost.
- Access to the daemon is control of its machine. Best give the balancer a proxy of the socket that passes GET of
  /version, /info, /events, /containers/json and /containers/<id>/json alone: it needs nothing else.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
from aiodocker import Docker, DockerError

from trunkline.balancer.sources.base import Update
from trunkline.balancer.sources.docker import labels
from trunkline.balancer.sources.docker.follower import Follower
from trunkline.balancer.sources.docker.labels import Container
from trunkline.docker.endpoint import Endpoint
from trunkline.process.bounds import end_tasks

_RELIST_S = 30.0
_INSPECTIONS_AT_ONCE = 8
_EVENTS = (
    "start", "die", "destroy", "kill", "pause", "unpause", "health_status", "rename", "connect", "disconnect",
)  # fmt: skip
# `docker kill --signal HUP` mostly means a reload; these signals end a process.
_ENDING = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGKILL, signal.SIGTERM})


class _Listed(msgspec.Struct, rename="pascal"):
    id: str
    labels: dict[str, str] | None = None


class _Health(msgspec.Struct, rename="pascal"):
    status: str = ""


class _State(msgspec.Struct, rename="pascal"):
    status: str = ""
    started_at: str = ""
    health: _Health | None = None


class _Config(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None
    stop_signal: str | None = None


class _HostConfig(msgspec.Struct, rename="pascal"):
    network_mode: str = ""


class _Network(msgspec.Struct):
    address: str | None = msgspec.field(name="IPAddress", default=None)
    address_6: str | None = msgspec.field(name="GlobalIPv6Address", default=None)


class _NetworkSettings(msgspec.Struct, rename="pascal"):
    networks: dict[str, _Network | None] | None = None
    ports: dict[str, Any] | None = None  # only the keys are read: "8080/tcp"


class _Inspected(msgspec.Struct, rename="pascal"):
    id: str
    name: str
    state: _State
    config: _Config
    network_settings: _NetworkSettings
    host_config: _HostConfig


class _Actor(msgspec.Struct):
    id: str = msgspec.field(name="ID", default="")
    attributes: dict[str, str] = msgspec.field(name="Attributes", default_factory=dict)


class _Event(msgspec.Struct, rename="pascal"):
    type: str = ""
    action: str = ""
    actor: _Actor = msgspec.field(default_factory=_Actor)

    @property
    def container(self) -> str:
        """Id of the container that it is about, empty for none."""
        return self.actor.id if self.type == "container" else self.actor.attributes.get("container", "")


class DockerSource:
    """The labelled containers of one daemon.

    Args:
        endpoint: the daemon.
        network: network whose addresses are used, `balancer.docker_network`; empty for a container's first.
    """

    def __init__(self, endpoint: Endpoint, network: str = "") -> None:
        self._follower = Follower(endpoint, network, "docker")
        self._rows: dict[str, _Inspected] = {}
        # By id, the start of the run that is being stopped: its end and a new start may be missed while the daemon is
        # away, and a container that drains for ever would be lost.
        self._stopping: dict[str, str] = {}

    async def run(self, update: Update) -> None:
        """Follow the daemon and give its backends at each change, until cancelled."""
        await self._follower.run(lambda docker: self._follow(docker, update), update)

    async def _follow(self, docker: Docker, update: Update) -> None:
        """List, then follow the events; returns when their stream ends."""
        # The events begin at a moment before the listing, by the daemon's clock, so that nothing between the two is
        # missed; an event of a change that the list has already does no harm.
        now = datetime.fromisoformat((await docker.system.info())["SystemTime"])
        # Not its own task: aiodocker would raise the stream's error out of close().
        events = docker.events.subscribe(create_task=False)  # type: ignore[no-untyped-call]  # aiodocker has none
        filters = json.dumps({"type": ["container", "network"], "event": list(_EVENTS)})
        stream = asyncio.create_task(docker.events.run(since=f"{now.timestamp():.6f}", filters=filters))
        try:
            while True:
                await self._list_all(docker)
                self._send(update)
                if stream.done():
                    await stream  # a daemon that lists but gives no events is not back
                    return
                self._follower.is_back()
                try:
                    async with asyncio.timeout(_RELIST_S):
                        while await self._take(docker, await _batch(events.queue)):
                            self._send(update)
                        # Its end is an event that is None; the reason is in the task.
                        await stream
                        return
                except TimeoutError:
                    if stream.done():
                        raise
        finally:
            await end_tasks([stream])

    async def _list_all(self, docker: Docker) -> None:
        found = await docker.containers.list()
        wanted = []
        for one in found:
            listed = msgspec.convert(one._container, _Listed)  # it is a mapping by key alone, which convert needs whole
            if labels.asks(listed.labels or {}):
                wanted.append(listed.id)
        for gone in self._rows.keys() - wanted:
            self._forget(gone)
        await self._inspect_all(docker, wanted)

    async def _inspect_all(self, docker: Docker, containers: Iterable[str]) -> None:
        gate = asyncio.Semaphore(_INSPECTIONS_AT_ONCE)
        jobs = (self._inspect(docker, container, gate) for container in containers)
        # Not a TaskGroup, which would wrap the errors that the caller distinguishes.
        for outcome in await asyncio.gather(*jobs, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _inspect(self, docker: Docker, container: str, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                found = await docker.containers.container(container).show()
            except DockerError as error:
                if error.status != 404:
                    raise
                self._forget(container)
                return
        row = msgspec.convert(found, _Inspected)
        if labels.asks(row.config.labels or {}) and row.state.status in ("running", "paused"):
            self._rows[row.id] = row
        else:
            self._forget(row.id)

    def _forget(self, container: str) -> None:
        self._rows.pop(container, None)
        self._stopping.pop(container, None)

    async def _take(self, docker: Docker, batch: list[dict[str, Any] | None]) -> bool:
        """Take over a run of events; False when the stream has ended."""
        again: dict[str, None] = {}
        for raw in batch:
            if raw is None:
                return False
            event = msgspec.convert(raw, _Event)
            container = event.container
            match event.action.partition(":")[0]:
                case "die" | "destroy":
                    self._forget(container)
                    again.pop(container, None)
                case "kill":
                    row = self._rows.get(container)
                    if row is not None and _ends(event.actor.attributes.get("signal", ""), row.config.stop_signal):
                        self._stopping[container] = row.state.started_at
                case _ if container:
                    again[container] = None
        await self._inspect_all(docker, again)
        return True

    def _send(self, update: Update) -> None:
        rows = sorted(self._rows.values(), key=lambda row: row.name)
        found = {row.id: _container(row, self._stopping.get(row.id) == row.state.started_at) for row in rows}
        self._follower.give(found, update)


async def _batch(queue: asyncio.Queue[dict[str, Any] | None]) -> list[dict[str, Any] | None]:
    """The next event and all that wait behind it, so that a burst costs each container one inspection."""
    batch = [await queue.get()]
    while not queue.empty():
        batch.append(queue.get_nowait())
    return batch


def _container(row: _Inspected, stopping: bool) -> Container:
    networks = {
        name: (network.address or network.address_6 or "") if network is not None else ""
        for name, network in (row.network_settings.networks or {}).items()
    }
    exposed = [key.partition("/") for key in row.network_settings.ports or ()]
    health = row.state.health.status if row.state.health is not None else ""
    return Container(
        name=row.name.removeprefix("/"),
        labels=row.config.labels or {},
        ports=tuple(int(port) for port, _, kind in exposed if kind in ("", "tcp") and port.isdecimal()),
        networks=networks,
        host_network=row.host_config.network_mode == "host",
        state=row.state.status,
        health="" if health == "none" else health,
        stopping=stopping,
    )


def _ends(sent: str, stop_signal: str | None) -> bool:
    """Whether a signal, by number or name, ends a container whose stop signal is `stop_signal`."""
    number = _signal(sent)
    return number is not None and (number in _ENDING or number == _signal(stop_signal or "SIGTERM"))


def _signal(text: str) -> int | None:
    if text.isdecimal():
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    return signal.Signals[name].value if name in signal.Signals.__members__ else None
