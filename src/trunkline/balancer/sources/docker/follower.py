"""Keeps a source with its Docker daemon, and gives what it finds there.

Rules:

- A daemon that goes away takes no backend with it: their list stays, and is replaced after the daemon is back. It is
  tried again after half a second, then ever later, at most every 15 s.
- A container that has the labels but cannot be used is named in one log line with the reason, until the reason changes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiodocker import Docker

from trunkline.balancer.sources.base import Update
from trunkline.balancer.sources.docker import labels
from trunkline.balancer.sources.docker.labels import Container
from trunkline.docker.connection import FAILURES, connected, reason
from trunkline.docker.endpoint import Endpoint
from trunkline.placement.backend import BackendSpec

log = structlog.get_logger("trunkline.balancer")

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0


class Follower:
    """Of one source.

    Args:
        endpoint: the daemon.
        network: network whose addresses are used; empty for a container's first.
        source: kind of the source, as its backends name it.
    """

    def __init__(self, endpoint: Endpoint, network: str, source: str) -> None:
        self._endpoint = endpoint
        self._network = network
        self._source = source
        self._sent: tuple[BackendSpec, ...] | None = None
        self._problems: dict[str, str] = {}
        self._noted: set[tuple[str, str]] = set()
        self._lost = False

    async def run(self, follow: Callable[[Docker], Awaitable[None]], update: Update) -> None:
        """Have `follow` follow the daemon, again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE_S
        while True:
            began = loop.time()
            try:
                async with connected(self._endpoint) as docker:
                    await follow(docker)
                why = "it ended the stream of events"
            except FAILURES as error:
                why = reason(error)
            if self._sent is None:
                self._sent = ()
                update(())
            if not self._lost:
                self._lost = True
                log.warning("docker_lost", endpoint=self._endpoint.url, why=why, keeps_backends=len(self._sent))
            if loop.time() - began > _LONGEST_PAUSE_S:  # it worked for a while; a daemon that flaps is tried less often
                pause = _FIRST_PAUSE_S
            await asyncio.sleep(pause * random.uniform(0.75, 1.0))  # noqa: S311 - jitter is no secret
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    def is_back(self) -> None:
        """The daemon does all that it has to: say so if it was lost."""
        if self._lost:
            self._lost = False
            log.info("docker_back", endpoint=self._endpoint.url, backends=len(self._sent or ()))

    def give(self, found: Mapping[str, Container], update: Update) -> None:
        """Give the backends among the containers there are, by id, if they are others than before."""
        specs = []
        problems: dict[str, str] = {}
        for id, container in found.items():
            verdict = labels.read(container, network=self._network, host=self._endpoint.host, source=self._source)
            if verdict.spec is not None:
                specs.append(verdict.spec)
            if verdict.problem:
                problems[id] = verdict.problem
                if self._problems.get(id) != verdict.problem:
                    log.warning("docker_container_left_out", container=container.name, why=verdict.problem)
            for note in verdict.notes:
                if (id, note) not in self._noted:
                    self._noted.add((id, note))
                    log.info("docker_label_ignored", container=container.name, note=note)
        self._problems = problems
        self._noted = {noted for noted in self._noted if noted[0] in found}
        if tuple(specs) != self._sent:
            self._sent = tuple(specs)
            update(self._sent)
