"""Runs `trunkline balance` and `trunkline serve` as processes, and foreign backends that count what they have."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect

from tests.support.environment import environment
from tests.support.patience import patient

DEADLINE_S = patient(30.0)


class Command:
    """A running `trunkline …` whose JSON log lines can be waited for."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []
        self.other: list[str] = []
        self.up: dict[str, Any] = {}
        self._news = asyncio.Event()
        self._readers = [asyncio.create_task(self._read(stream)) for stream in (process.stdout, process.stderr)]

    @classmethod
    async def start(
        cls, tmp_path: Path, *arguments: str, files: tuple[int, int] | None = None, **environ: str
    ) -> Command:
        """Start it; `files` are its soft and hard limit of open files."""
        limited = (
            () if files is None else ("sh", "-c", f'ulimit -Sn {files[0]}; ulimit -Hn {files[1]}; exec "$@"', "sh")
        )
        process = await asyncio.create_subprocess_exec(
            *limited, sys.executable, "-m", "trunkline", *arguments,
            cwd=tmp_path, env=environment(tmp_path, **{"TRUNKLINE_LOG_FORMAT": "json"} | environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return cls(process)

    @property
    def port(self) -> int:
        return int(self.up["port"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ready(self, event: str) -> Command:
        self.up = await self.hear(lambda line: line["event"] == event)
        return self

    async def hear(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first log line that is wanted; waits for it."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for line in self.said:
                    if wanted(line):
                        return line
                assert not all(reader.done() for reader in self._readers), (self.said[-20:], self.other)
                self._news.clear()
                await self._news.wait()

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            code = await self.process.wait()
            await asyncio.gather(*self._readers)
        return code

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.returncode is not None:
            return await self.ended()
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)
        code = await self.ended()
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, patient(5))
        assert alive == []
        return code

    async def _read(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        async for line in stream:
            try:
                self.said.append(json.loads(line))
            except ValueError:
                self.other.append(line.decode())
            self._news.set()
        self._news.set()


class ForeignBackend:
    """A WebSocket server of somebody else: it echoes, and its /metric says how many connections it has.

    Attributes:
        open: connections open now.
        report: what /metric answers instead of the truth, None for the truth.
        alive: false refuses every handshake with 503.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.open: set[web.WebSocketResponse] = set()
        self.report: Callable[[int], str] | None = None
        self.alive = True
        self.polls = 0
        self.port = port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def start(self) -> ForeignBackend:
        app = web.Application()
        app.router.add_get("/metric", self._metric)
        app.router.add_get("/health", self._health)
        app.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        for socket in list(self.open):
            await socket.close()
        await self._runner.cleanup()

    async def _metric(self, request: web.Request) -> web.Response:
        self.polls += 1
        text = self.report(len(self.open)) if self.report else json.dumps({"agentsConnections": len(self.open)})
        return web.Response(text=text, content_type="application/json")

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(text=f"{self.port}")
        if request.path == "/broken":
            return web.Response(status=500, text="a fault of the application on this path")
        if not self.alive:
            return web.Response(status=503)
        socket = web.WebSocketResponse(heartbeat=None)
        await socket.prepare(request)
        self.open.add(socket)
        try:
            async for message in socket:
                await socket.send_str(message.data)
        finally:
            self.open.discard(socket)
        return socket


async def connect_many(port: int, count: int, path: str = "/ws") -> list[ClientConnection]:
    """Open `count` connections at once."""
    async with asyncio.timeout(DEADLINE_S):
        return list(await asyncio.gather(*(connect(f"ws://127.0.0.1:{port}{path}") for _ in range(count))))


async def close_all(clients: list[ClientConnection]) -> None:
    """Close them all at once."""
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(client.close() for client in clients))


async def overview(command: Command) -> dict[str, Any]:
    """What the balancer shows."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{command.up['admin_port']}/balancer-metrics") as answer,
    ):
        found: dict[str, Any] = await answer.json()
        return found


async def until(condition: Callable[[dict[str, Any]], bool], command: Command) -> dict[str, Any]:
    """What the balancer shows once `condition` holds of it."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = await overview(command)
            if condition(found):
                return found
            await asyncio.sleep(0.02)


def spread(counts: list[int]) -> int:
    """The fullest minus the emptiest."""
    return max(counts) - min(counts)
