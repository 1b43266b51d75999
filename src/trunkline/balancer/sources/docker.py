"""Backends among the containers of a Docker daemon: those with labels for it (see `docker_labels`).

Facts:

- Every such container is inspected once, then the daemon's events are followed: start, pause, health and network
  changes inspect it again; a signal that ends it (`docker stop`, `docker kill`) makes it draining at once, before it is
  gone; its death removes it. Every 30 s all are listed again, should an event have been lost.
- A daemon that goes away takes no backend with it: their list stays, and is replaced after the daemon is back. It is
  tried again after half a second, then ever later, at most every 15 s.
- A container that has the labels but cannot be used is named in one log line with the reason, until the reason changes.
- A daemon on a `tcp://` endpoint is reached over TLS with DOCKER_TLS_VERIFY=1, with the files in DOCKER_CERT_PATH.
- Access to the daemon is control of its machine. Best give the balancer a proxy of the socket that passes GET of
  /version, /info, /events, /containers/json and /containers/<id>/json alone: it needs nothing else.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog

from trunkline.balancer.sources import docker_labels
from trunkline.balancer.sources.base import Update
from trunkline.balancer.sources.docker_labels import Container
from trunkline.errors import SettingsError, StartError
from trunkline.placement.backend import BackendSpec
from trunkline.process.bounds import end_tasks

if TYPE_CHECKING:
    from aiodocker import Docker

log = structlog.get_logger("trunkline.balancer")

_RELIST_S = 30.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0
_INSPECTIONS_AT_ONCE = 8
_TIMEOUT = aiohttp.ClientTimeout(total=10.0, sock_connect=5.0)
_EVENTS = (
    "start", "die", "destroy", "kill", "pause", "unpause", "health_status", "rename", "connect", "disconnect",
)  # fmt: skip
# `docker kill --signal HUP` mostly means a reload; these signals end a process.
_ENDING = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGKILL, signal.SIGTERM})

# What aiodocker and the code below raise over an answer of another shape: what listens there is no daemon, or half up.
_BAD_SHAPE = (ValueError, TypeError, LookupError, AttributeError)


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
        endpoint: the daemon, `balancer.docker`: `unix:///path` or `tcp://host:port`.
        network: network whose addresses are used, `balancer.docker_network`; empty for a container's first.

    Raises:
        SettingsError: the endpoint has another scheme.
        StartError: the package aiodocker is not installed.
    """

    def __init__(self, endpoint: str, network: str = "") -> None:
        try:
            parts = urlsplit(endpoint)
        except ValueError:  # half a pair of brackets
            parts = urlsplit("")
        if not ((parts.scheme == "unix" and parts.path) or (parts.scheme == "tcp" and parts.hostname)):
            allowed = 'allowed: "unix:///var/run/docker.sock" or "tcp://host:2375"'
            raise SettingsError("balancer.docker", value=endpoint, allowed=allowed)
        try:
            import aiodocker
        except ImportError:
            step = "Install it with: pip install 'trunkline[docker]'"
            raise StartError("balancer.docker needs the package aiodocker", step) from None
        self._client = aiodocker.Docker
        self._api_error: type[aiodocker.DockerError] = aiodocker.DockerError
        self._endpoint = endpoint
        self._network = network
        self._host = parts.hostname or "127.0.0.1"
        self._rows: dict[str, _Inspected] = {}
        # By id, the start of the run that is being stopped: its end and a new start may be missed while the daemon is
        # away, and a container that drains for ever would be lost.
        self._stopping: dict[str, str] = {}
        self._sent: tuple[BackendSpec, ...] | None = None
        self._problems: dict[str, str] = {}
        self._noted: set[tuple[str, str]] = set()
        self._lost = False

    async def run(self, update: Update) -> None:
        """Follow the daemon and give its backends at each change, until cancelled."""
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE_S
        while True:
            began = loop.time()
            try:
                async with self._client(url=self._endpoint, timeout=_TIMEOUT) as docker:
                    await self._follow(docker, update)
                why = "it ended the stream of events"
            except (OSError, aiohttp.ClientError, self._api_error, *_BAD_SHAPE) as error:
                why = str(error) or type(error).__name__
            if self._sent is None:
                self._sent = ()
                update(())
            if not self._lost:
                self._lost = True
                log.warning("docker_lost", endpoint=self._endpoint, why=why, keeps_backends=len(self._sent))
            if loop.time() - began > _LONGEST_PAUSE_S:  # it worked for a while; a daemon that flaps is tried less often
                pause = _FIRST_PAUSE_S
            await asyncio.sleep(pause * random.uniform(0.75, 1.0))  # noqa: S311 - jitter is no secret
            pause = min(pause * 2, _LONGEST_PAUSE_S)

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
                if self._lost:
                    self._lost = False
                    log.info("docker_back", endpoint=self._endpoint, backends=len(self._sent or ()))
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
            if docker_labels.asks(listed.labels or {}):
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
            except self._api_error as error:
                if error.status != 404:
                    raise
                self._forget(container)
                return
        row = msgspec.convert(found, _Inspected)
        if docker_labels.asks(row.config.labels or {}) and row.state.status in ("running", "paused"):
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
        specs = []
        problems: dict[str, str] = {}
        for row in sorted(self._rows.values(), key=lambda row: row.name):
            container = _container(row, stopping=self._stopping.get(row.id) == row.state.started_at)
            verdict = docker_labels.read(container, network=self._network, host=self._host)
            if verdict.spec is not None:
                specs.append(verdict.spec)
            if verdict.problem:
                problems[row.id] = verdict.problem
                if self._problems.get(row.id) != verdict.problem:
                    log.warning("docker_container_left_out", container=container.name, why=verdict.problem)
            for note in verdict.notes:
                if (row.id, note) not in self._noted:
                    self._noted.add((row.id, note))
                    log.info("docker_label_ignored", container=container.name, note=note)
        self._problems = problems
        self._noted = {noted for noted in self._noted if noted[0] in self._rows}
        if tuple(specs) != self._sent:
            self._sent = tuple(specs)
            update(self._sent)


async def _batch(queue: asyncio.Queue[dict[str, Any] | None]) -> list[dict[str, Any] | None]:
    """The next event and all that wait behind it, so that a burst costs each container one inspection."""
    batch = [await queue.get()]
    while not queue.empty():
        batch.append(queue.get_nowait())
    return batch


def _container(row: _Inspected, *, stopping: bool) -> Container:
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
