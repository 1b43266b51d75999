"""A fleet whose nodes are containers: NATS and a balancer beside them, and `trunkline deploy` as a person runs it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp

from tests.support.docker.daemon import DockerDaemon
from tests.support.environment import environment
from tests.support.patience import patient
from trunkline.fleet.children.nats_server import find_binary

TOKEN: Final = "t0ken-of-the-test-that-deploys"
NATS_PORT, EDGE_PORT, ADMIN_PORT = 4222, 8080, 8081
BLUE: Final = {"trunkline.colour": "blue"}
NETWORK: Final = "fleet"


class ContainerFleet:
    """The fleet; all of its ports are inside the daemon's network namespace."""

    def __init__(self, daemon: DockerDaemon, image: str, folder: Path) -> None:
        self.daemon = daemon
        self.image = image
        self.folder = folder
        daemon.docker("network", "create", NETWORK)
        gateway = daemon.docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", NETWORK)
        self.bus = f"nats://{gateway.strip()}:{NATS_PORT}"
        self._programs: list[subprocess.Popen[bytes]] = []

    async def start(self, nodes: int = 1) -> None:
        """Start NATS, the balancer and nodes of blue, and wait until they are seen."""
        self._run("nats", find_binary(), "-js", "-sd", str(self.folder / "nats"), "-a", "0.0.0.0", "-p", str(NATS_PORT))
        self._run(
            "balance", sys.executable, "-m", "trunkline", "balance", "--listen", f"127.0.0.1:{EDGE_PORT}",
            "--bus", self.bus,
        )  # fmt: skip
        for number in range(1, nodes + 1):
            self.add(f"websocket-blue-{number}" if nodes > 1 else "websocket-blue", "--detach")
        async with asyncio.timeout(patient(40)):
            while await self.ready() < nodes:
                await asyncio.sleep(0.1)

    def add(
        self, name: str, *options: str, verb: str = "run", colour: str = "blue", command: tuple[str, ...] = ()
    ) -> None:
        """Run or create the container of a node.

        Args:
            name: its name.
            options: further ones of the docker command.
            verb: `run` or `create`.
            colour: of the node.
            command: what it runs instead of a node.
        """
        settings = {
            "BUS_URL": self.bus, "ADMIN_TOKEN": TOKEN, "SERVER_COLOUR": colour, "SERVER_NAME": name,
            "LIMITS_EXEMPT": '["0.0.0.0/0"]',
        }  # fmt: skip
        variables = [f"--env=TRUNKLINE_{name}={value}" for name, value in settings.items()]
        labels = [f"--label={key}={value}" for key, value in {"trunkline.colour": colour}.items()]
        self.daemon.docker(
            verb,
            "--name",
            name,
            "--network",
            NETWORK,
            "--read-only",
            *variables,
            *labels,
            *options,
            self.image,
            *command,
        )

    def containers(self) -> list[str]:
        """The names of all, those that do not run too."""
        return sorted(self.daemon.docker("ps", "--all", "--format", "{{.Names}}").split())

    async def ready(self) -> int:
        """How many nodes take connections, as the balancer sees it."""
        with contextlib.suppress(OSError, aiohttp.ClientError):
            async with (
                self.daemon.namespace.forwarded(ADMIN_PORT) as port,
                aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http,
                http.get(f"http://127.0.0.1:{port}/balancer-metrics") as answer,
            ):
                services = (await answer.json())["services"]
                return sum(1 for each in services if each["usable"])
        return 0

    async def deploy(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start `trunkline deploy run`, with pipes; errors come with the output."""
        command = (
            sys.executable, "-m", "trunkline", "deploy", "run", *arguments, "--runtime", "docker", "--bus", self.bus,
            "--balancer", f"http://127.0.0.1:{ADMIN_PORT}", "--edge", f"ws://127.0.0.1:{EDGE_PORT}/ws",
            "--over", "2s", "--verify", "2s", "--keep", "0s", "--witnesses", "5", "--yes",
        )  # fmt: skip
        return await asyncio.create_subprocess_exec(
            *self.daemon.namespace.inside(*command), cwd=self.folder, env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    def stop(self) -> None:
        """End all that it started beside containers."""
        for program in reversed(self._programs):
            program.terminate()
        for program in self._programs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(patient(10))
            program.kill()

    def _run(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as output:
            inside = self.daemon.namespace.inside(*command)
            program = subprocess.Popen(inside, cwd=self.folder, env=self._environment(), stdout=output, stderr=output)
        self._programs.append(program)

    def _environment(self) -> dict[str, str]:
        docker = {key: value for key, value in self.daemon.environment.items() if key.startswith("DOCKER_")}
        return environment(self.folder, TRUNKLINE_ADMIN_TOKEN=TOKEN, **docker)


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
        fleet.stop()
        await daemon.clear()
