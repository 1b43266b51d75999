"""Balancers, nodes and foreign backends under test; none leaves a process behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest_asyncio

from tests.support.balancer.balance_process import Command, ForeignBackend
from tests.support.free_ports import free_port

Start = Callable[..., Awaitable[Command]]


@pytest_asyncio.fixture
async def start_command(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts `trunkline` with any arguments."""
    started: list[Command] = []

    async def start(*arguments: str, files: tuple[int, int] | None = None, **environ: str) -> Command:
        command = await Command.start(tmp_path, *arguments, files=files, **environ)
        started.append(command)
        return command

    yield start
    for command in reversed(started):
        await command.stop()


@pytest_asyncio.fixture
async def start_balancer(start_command: Start) -> Start:
    """Starts `trunkline balance` on a free port over the given backends and waits until it is up."""

    async def start(
        *arguments: str,
        backends: list[str] | tuple[str, ...] = (),
        files: tuple[int, int] | None = None,
        **environ: str,
    ) -> Command:
        named = [word for url in backends for word in ("--backend", url)]
        environ = {"TRUNKLINE_BALANCER_DRAIN_MS": "0", "TRUNKLINE_BALANCER_ADMIN_PORT": str(free_port())} | environ
        command = await start_command("balance", "--listen", "127.0.0.1:0", *named, *arguments, files=files, **environ)
        return await command.ready("balancer_up")

    return start


@pytest_asyncio.fixture
async def start_node(start_command: Start) -> Start:
    """Starts `trunkline serve` on a free port and waits until it is up."""

    async def start(*arguments: str, files: tuple[int, int] | None = None, **environ: str) -> Command:
        environ = {"TRUNKLINE_ADMIN_PORT": "0", "TRUNKLINE_SERVER_DRAIN_MS": "0"} | environ
        command = await start_command("serve", "--host", "127.0.0.1", "--port", "0", *arguments, files=files, **environ)
        return await command.ready("node_up")

    return start


@pytest_asyncio.fixture
async def foreign() -> AsyncIterator[list[ForeignBackend]]:
    """Three foreign backends."""
    backends = [await ForeignBackend().start() for _ in range(3)]
    yield backends
    for backend in backends:
        await backend.stop()
