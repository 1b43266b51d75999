"""Starts the nodes of a new colour as containers made from those of the present one, and removes them.

Rules:

- Containers of the new colour are those that have the label `trunkline.deploy` with the id of this deploy; those of the
  old one have `trunkline.colour`, and are in the same project of Compose, or in none as well. Nothing else is touched.
- A container of the new colour that this deploy did not make and that does not run, such as one of `docker compose
  create`, is the better model: it says what the operator wants of this colour. It is replaced.
- Each request has a connection of its own: a daemon that was away is asked again by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import msgspec
from aiodocker import Docker, DockerError

from trunkline.deploy.runtimes.base import RuntimeFailed, RuntimeNode, What
from trunkline.deploy.runtimes.docker import images
from trunkline.deploy.runtimes.docker import model as models
from trunkline.deploy.runtimes.docker.containers import (
    COLOUR,
    DEPLOY,
    PROJECT,
    SWARM_SERVICE,
    Attachment,
    Container,
    Listed,
    node_of,
)
from trunkline.deploy.runtimes.docker.exchange import Gone, known, read
from trunkline.docker.connection import FAILURES, answered, connected, reason, unreached
from trunkline.docker.endpoint import NO_CONFIG, Endpoint

ANSWER_S: Final = 60.0
"""To create and start a container; a busy daemon takes its time."""

STOP_S: Final = 600.0
"""A container is killed by the daemon after its own stop time-out; this is for a daemon that hangs."""

GONE_EVERY_S: Final = 0.1


class Scope(NamedTuple):
    """Which containers a deploy is for.

    Attributes:
        deploy: its id.
        from_colour: the colour that has the clients, empty for none.
        to_colour: the new one.
        project: of Compose; empty for the only one that has containers of these colours.
    """

    deploy: str
    from_colour: str
    to_colour: str
    project: str = ""


class DockerRuntime:
    """See `base.Runtime`.

    Args:
        endpoint: the daemon.
        scope: which containers.
        config_dir: directory of docker's configuration, where credentials of registries are.
    """

    name = "docker"

    def __init__(self, endpoint: Endpoint, scope: Scope, config_dir: Path = NO_CONFIG) -> None:
        self._endpoint = endpoint
        self._scope = scope
        self._config_dir = config_dir

    @property
    def starts(self) -> bool:
        """Yes."""
        return True

    async def check(self, colour: str, what: What) -> str:
        """Why it could not be started: no daemon, no container to go by, no such image, a port that is taken."""
        if named := [f"--{name}" for name, value in (("app", what.app), ("python", what.python)) if value]:
            return f"{', '.join(named)}: a container runs what its image holds; name one with --image"
        try:
            async with self._daemon() as docker:
                found = await self._coloured(docker)
                model = self._model(found)
                if why := self._refusal(model, found):
                    return why
                await images.need_or_pull(docker, what.image or model.config.image, self._endpoint, self._config_dir)
        except RuntimeFailed as error:
            return str(error)
        return ""

    async def list(self, colour: str) -> tuple[RuntimeNode, ...]:
        """The containers of a colour; raises RuntimeFailed."""
        async with self._daemon() as docker:
            return tuple(node_of(one) for one in await self._of_colour(docker, colour))

    async def ensure(self, colour: str, count: int, what: What) -> None:
        """Have `count` containers of the colour created and started; raises RuntimeFailed."""
        async with self._daemon() as docker:
            found = await self._coloured(docker)
            mine = [one for one in found if self._is_mine(one)]
            await self._delete(docker, mine[count:])
            model = self._model(found)
            for one in mine[:count]:
                if one.state.status == "created":  # whoever made it ended before it was in all networks, and started
                    there = (one.network_settings.networks or {}).keys()
                    wanted = models.attachments(model, one.called, colour)
                    await self._attach(docker, one.id, {name: wanted[name] for name in wanted.keys() - there})
                    await self._start(docker, one.id, one.called)
            if len(mine) >= count:
                return
            image = await images.need(docker, what.image or model.config.image, self._endpoint)
            models_image = await images.find(docker, model.image)
            await self._delete(docker, [one for one in self._leftovers(found) if not one.state.running])
            taken = frozenset(one.name for one in await self._all(docker))
            new_names = models.names(model, colour, taken)
            for _ in range(count - len(mine)):
                new = models.New(
                    name=next(new_names),
                    colour=colour,
                    image=what.image or model.config.image,
                    image_id=image.id,
                    version=what.version,
                    deploy=self._scope.deploy,
                )
                await self._create(docker, models.like(model, models_image, new))

    async def remove(self, colour: str) -> None:
        """Stop and delete all containers of the colour, and return when they are gone; raises RuntimeFailed."""
        async with self._daemon() as docker:
            await self._delete(docker, await self._of_colour(docker, colour))

    async def logs(self, node: str, lines: int = 20) -> tuple[str, ...]:
        """The last lines that a container wrote; empty where they cannot be had."""
        try:
            async with self._daemon() as docker:
                found = await docker.containers.container(node).log(stdout=True, stderr=True, tail=lines)
        except RuntimeFailed:
            return ()
        return tuple("".join(found).splitlines())[-lines:]

    async def close(self) -> None:
        """Nothing: each request has a connection of its own."""

    @contextlib.asynccontextmanager
    async def _daemon(self) -> AsyncIterator[Docker]:
        try:
            async with connected(self._endpoint, answer_s=ANSWER_S) as docker:
                yield docker
        except FAILURES as error:
            text = f"the Docker daemon at {self._endpoint}"
            what = "cannot be reached" if unreached(error) else "refuses it"
            raise RuntimeFailed(f"{text} {what}: {reason(error)}{_hint(error)}") from None

    async def _all(self, docker: Docker, *labels: str) -> tuple[Listed, ...]:
        filters = msgspec.json.encode({"label": labels}).decode() if labels else "{}"
        found = await docker.containers.list(all=True, filters=filters)
        return tuple(read(one._container, Listed) for one in found)

    async def _coloured(self, docker: Docker) -> tuple[Container, ...]:
        """All containers of any colour in the project."""
        return self._in_project(await self._inspect(docker, await self._all(docker, COLOUR)))

    async def _of_colour(self, docker: Docker, colour: str) -> tuple[Container, ...]:
        if colour == self._scope.to_colour:
            return await self._inspect(docker, await self._all(docker, f"{DEPLOY}={self._scope.deploy}"))
        return tuple(one for one in await self._coloured(docker) if one.colour == colour)

    async def _inspect(self, docker: Docker, listed: Iterable[Listed]) -> tuple[Container, ...]:
        found = []
        for one in listed:
            with contextlib.suppress(Gone):
                async with known():
                    found.append(read(await docker.containers.container(one.id).show(), Container))
        return tuple(sorted(found, key=lambda one: one.called))

    def _is_mine(self, container: Container) -> bool:
        return container.labels.get(DEPLOY) == self._scope.deploy

    def _leftovers(self, found: Sequence[Container]) -> Sequence[Container]:
        """Of the new colour, and not made by this deploy."""
        return tuple(one for one in found if one.colour == self._scope.to_colour and not self._is_mine(one))

    def _in_project(self, found: Sequence[Container]) -> tuple[Container, ...]:
        """Those of the project that is meant; raises RuntimeFailed where that could be several."""
        own = {one.labels.get(PROJECT, "") for one in found if self._is_mine(one)}
        meant = {self._scope.project} if self._scope.project else own or {
            one.labels.get(PROJECT, "")
            for one in found
            if one.colour in (self._scope.from_colour, self._scope.to_colour) or not self._scope.from_colour
        }  # fmt: skip
        if len(meant) > 1:
            listed = ", ".join(sorted(name or "none" for name in meant))
            raise RuntimeFailed(
                f"containers of {self._scope.from_colour or 'a colour'} are in several projects of Compose ({listed}): "
                "name one with --project"
            )
        return tuple(one for one in found if one.labels.get(PROJECT, "") in meant)

    def _model(self, found: Sequence[Container]) -> Container:
        """The container that new ones are made from; raises RuntimeFailed when there is none."""
        stopped = [one for one in self._leftovers(found) if not one.state.running]
        old = [one for one in found if one.colour == self._scope.from_colour]
        others = [one for one in found if one.colour != self._scope.to_colour]
        for group in (stopped, old, others, [one for one in found if self._is_mine(one)]):
            if group:
                return min(group, key=lambda one: (not one.state.running, one.called))
        project = f" in the project {self._scope.project}" if self._scope.project else ""
        raise RuntimeFailed(
            f"no container{project} has the label {COLOUR}={self._scope.from_colour or '…'}: new ones are made from "
            f"those of the present colour, so give them this label"
        )

    def _refusal(self, model: Container, found: Sequence[Container]) -> str:
        """What speaks against containers like `model`, empty for nothing."""
        if service := model.labels.get(SWARM_SERVICE):
            return (
                f"{model.called} is a task of the Swarm service {service}, which Swarm itself starts and stops: "
                f"use docker service update, or --runtime none"
            )
        to = self._scope.to_colour
        if running := [one.called for one in self._leftovers(found) if one.state.running]:
            return f"{running[0]} of {to} runs already: stop it, or deploy to another colour"
        mode = model.host.network_mode
        if mode == "host" or mode.startswith("container:"):
            whose = "its machine" if mode == "host" else "another container"
            return (
                f"{model.called} is in the network of {whose}, where a second one finds its port taken: give it a "
                "network of its own"
            )
        ports = model.host.fixed_ports
        for one in found:
            if one.state.running and (taken := sorted(ports & one.host.fixed_ports)):
                return (
                    f"{one.called} publishes port {taken[0][0]} of its machine, which a container of {to} beside it "
                    "cannot have: leave ports out where the edge leads to the nodes, or give each colour its own"
                )
        return ""

    async def _create(self, docker: Docker, planned: models.Planned) -> None:
        body = msgspec.json.decode(msgspec.json.encode(planned.body))
        try:
            made = await docker.containers.create(body, name=planned.name)
            await self._attach(docker, made.id, planned.further)
        except DockerError as error:
            if not answered(error):
                raise
            raise RuntimeFailed(f"{planned.name} cannot be created: {reason(error)}") from None
        await self._start(docker, made.id, planned.name)

    async def _attach(self, docker: Docker, container: str, networks: Mapping[str, Attachment]) -> None:
        for network, attachment in networks.items():
            there = await docker.networks.get(network)
            await there.connect({"Container": container, "EndpointConfig": msgspec.to_builtins(attachment)})

    async def _start(self, docker: Docker, container: str, name: str) -> None:
        try:
            await docker.containers.container(container).start()
        except DockerError as error:
            if not answered(error):
                raise
            raise RuntimeFailed(f"{name} cannot be started: {reason(error)}") from None

    async def _delete(self, docker: Docker, containers: Iterable[Container]) -> None:
        # Each takes as long as its clients need to leave.
        jobs = (self._delete_one(docker, one) for one in containers)
        for outcome in await asyncio.gather(*jobs, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _delete_one(self, docker: Docker, one: Container) -> None:
        container = docker.containers.container(one.id)
        with contextlib.suppress(Gone):
            async with known():
                if one.state.running or one.state.restarting:
                    await container.stop(timeout=aiohttp.ClientTimeout(total=STOP_S))
            async with known(409):  # it is being removed
                await container.delete(force=True, v=True, timeout=aiohttp.ClientTimeout(total=STOP_S))
        with contextlib.suppress(Gone):
            while True:
                async with known():
                    await container.show()
                await asyncio.sleep(GONE_EVERY_S)


def _hint(error: BaseException) -> str:
    return "; its user has to be in the group docker" if "Permission denied" in reason(error) else ""
