"""Runs `trunkline up` as a process and follows what it says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.support.environment import environment
from tests.support.patience import patient

DEADLINE_S = patient(30.0)


def command(*arguments: str) -> list[str]:
    """The command line of `trunkline up`."""
    return [sys.executable, "-m", "trunkline", "up", *arguments]


def refuses(port: int) -> bool:
    """Whether nobody listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(patient(1))
        return probe.connect_ex(("127.0.0.1", port)) != 0


class FleetProcess:
    """A running `trunkline up --json`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []
        self.addresses: dict[str, Any] = {}
        self.family: dict[int, psutil.Process] = {}
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, tmp_path: Path, *arguments: str, **environ: str) -> FleetProcess:
        """Start it on free ports; `ready` waits for the addresses."""
        process = await asyncio.create_subprocess_exec(
            *command("--json", "--port", "0", "--data-dir", str(tmp_path / "data"), *arguments),
            cwd=tmp_path,
            env=environment(tmp_path, **environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def ready(self) -> FleetProcess:
        """Wait for the addresses."""
        self.addresses = await self.hear(lambda message: message["type"] == "addresses")
        self.children()
        return self

    async def hear(self, wanted: Callable[[dict[str, Any]], bool], after: int = 0) -> dict[str, Any]:
        """The first message from number `after` on that is wanted; waits for it."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for message in self.said[after:]:
                    if wanted(message):
                        return message
                assert not self._reader.done(), f"it ended after saying {self.said}, and {await self.errors()}"
                self._news.clear()
                await self._news.wait()

    async def hear_event(self, event: str, part: str, text: str, after: int = 0) -> dict[str, Any]:
        """The first event of that kind and part whose text holds `text`; waits for it."""
        return await self.hear(
            lambda said: said.get("event") == event and said["part"] == part and text in said["text"], after
        )

    async def errors(self) -> str:
        """Everything on standard error, once it has ended."""
        assert self.process.stderr is not None
        async with asyncio.timeout(DEADLINE_S):
            return (await self.process.stderr.read()).decode()

    async def ended(self) -> int:
        """Its exit code; waits for the end."""
        async with asyncio.timeout(DEADLINE_S):
            code = await self.process.wait()
            await self._reader
        return code

    async def stop(self) -> int:
        """SIGTERM and wait."""
        self.children()
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    def children(self) -> list[psutil.Process]:
        """All processes below it now; they are remembered for `left`."""
        found: list[psutil.Process] = []
        # It may have ended already without the loop having seen it.
        with contextlib.suppress(psutil.NoSuchProcess):
            if self.process.returncode is None:
                found = psutil.Process(self.process.pid).children(recursive=True)
        self.family |= {child.pid: child for child in found}
        return found

    async def left(self) -> list[psutil.Process]:
        """Processes that were ever seen below it and do not end."""
        _, alive = await asyncio.to_thread(psutil.wait_procs, list(self.family.values()), patient(5))
        return alive

    def websocket(self, index: int) -> str:
        """Where clients of a node connect."""
        return str(self.addresses["nodes"][index]["websocket"])

    @property
    def edge_port(self) -> int:
        """The port of the edge."""
        return int(self.addresses["edge"]["page"].rpartition(":")[2])

    def port(self, index: int) -> int:
        """The data port of a node."""
        return int(self.addresses["nodes"][index]["page"].rpartition(":")[2])

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(json.loads(line))
            self._news.set()
        self._news.set()
