"""A fleet whose parts are containers of the product's image, and `trunkline deploy` as a person runs it beside them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp

from tests.support.docker.daemon import DockerDaemon
from tests.support.environment import environment
from tests.support.patience import patient

TOKEN: Final = "t0ken-of-the-test-that-deploys"
NETWORK: Final = "fleet"

_SHUT: Final = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", f"--network={NETWORK}")
_OWN: Final = "uid=10001,gid=10001"


class ContainerFleet:
    """The fleet; its addresses are inside the daemon's network namespace."""

    def __init__(self, daemon: DockerDaemon, image: str, folder: Path) -> None:
        self.daemon = daemon
        self.image = image
        self.folder = folder
        self._bus = self._edge = ""

    async def start(self, nodes: int) -> None:
        """Start NATS, a balancer and nodes of blue, and wait until they are seen."""
        self.daemon.docker("network", "create", NETWORK)
        nats = ("--jetstream", "--store_dir=/tmp/store")
        self.daemon.docker(
            "run", "--detach", "--name=nats", *_SHUT, f"--tmpfs=/tmp/store:{_OWN}", "--entrypoint=nats-server",
            self.image, *nats,
        )  # fmt: skip
        for number in range(1, nodes + 1):
            self.add(f"websocket-blue-{number}", "--detach")
        self.add("edge", "--detach", f"--tmpfs=/var/lib/trunkline:{_OWN}", colour="", command=("balance",))
        self._bus, self._edge = await self.daemon.address("nats", NETWORK), await self.daemon.address("edge", NETWORK)
        async with asyncio.timeout(patient(40)):
            while await self.ready() < nodes:
                await asyncio.sleep(0.1)

    def add(
        self, name: str, *options: str, verb: str = "run", colour: str = "blue", command: tuple[str, ...] = ()
    ) -> None:
        """Run or create a container.

        Args:
            name: its name.
            options: further ones of the docker command.
            verb: `run` or `create`.
            colour: of a node, empty for what is none.
            command: what it runs instead of a node.
        """
        settings = {
            "BUS_URL": "nats://nats:4222", "ADMIN_TOKEN": TOKEN, "LIMITS_EXEMPT": "0.0.0.0/0",
            "BALANCER_EXEMPT": "0.0.0.0/0", "BALANCER_ADMIN_HOST": "0.0.0.0",
        }  # fmt: skip
        more = []
        if colour:
            settings |= {"SERVER_COLOUR": colour, "SERVER_NAME": name}
            more = [f"--label=trunkline.colour={colour}"]
        variables = [f"--env=TRUNKLINE_{key}={value}" for key, value in settings.items()]
        self.daemon.docker(verb, "--name", name, *_SHUT, *variables, *more, *options, self.image, *command)

    def nodes(self) -> list[str]:
        """The names of all containers of nodes, those that do not run too."""
        return sorted(
            self.daemon.docker("ps", "--all", "--filter=label=trunkline.colour", "--format={{.Names}}").split()
        )

    async def ready(self) -> int:
        """How many nodes take connections, as the balancer sees it."""
        with contextlib.suppress(OSError, aiohttp.ClientError):
            async with (
                self.daemon.namespace.forwarded(8081, self._edge) as port,
                aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http,
                http.get(f"http://127.0.0.1:{port}/balancer-metrics") as answer,
            ):
                services = (await answer.json())["services"]
                return sum(1 for each in services if each["usable"])
        return 0

    async def deploy(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start `trunkline deploy run`, with pipes; errors come with the output."""
        command = (
            sys.executable, "-m", "trunkline", "deploy", "run", *arguments, "--runtime", "docker",
            "--bus", f"nats://{self._bus}:4222", "--balancer", f"http://{self._edge}:8081",
            "--edge", f"ws://{self._edge}:8080/ws", "--over", "1s", "--verify", "1s", "--keep", "0s",
            "--witnesses", "5", "--yes",
        )  # fmt: skip
        docker = {key: value for key, value in self.daemon.environment.items() if key.startswith("DOCKER_")}
        return await asyncio.create_subprocess_exec(
            *self.daemon.namespace.inside(*command), cwd=self.folder,
            env=environment(self.folder, TRUNKLINE_ADMIN_TOKEN=TOKEN, **docker),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip


async def said(process: asyncio.subprocess.Process, word: str = "", within_s: float = 90) -> str:
    """What a process prints until a line has `word` in it, or all that it prints; kills it when that takes too long."""
    assert process.stdout is not None
    printed = ""
    try:
        async with asyncio.timeout(patient(within_s)):
            while line := (await process.stdout.readline()).decode():
                printed += line
                if word and word in line:
                    return printed
            await process.wait()
    except TimeoutError:
        process.kill()
        raise AssertionError(f"{word or 'its end'} did not come: {printed}") from None
    assert not word, printed
    return printed


@contextlib.asynccontextmanager
async def container_fleet(
    daemon: DockerDaemon, image: str, folder: Path, *, nodes: int = 1
) -> AsyncIterator[ContainerFleet]:
    """One that is ready."""
    fleet = ContainerFleet(daemon, image, folder)
    try:
        await fleet.start(nodes)
        yield fleet
    finally:
        if not daemon.runs:  # the test has ended while it was away
            await asyncio.to_thread(daemon.start)
        await daemon.clear()
        daemon.docker("network", "rm", NETWORK)
