"""Servers as processes, and clients that know what they sent and read, to hold both sides' counts together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.environment import environment
from tests.support.free_ports import free_port
from tests.support.patience import patient
from trunkline.load.model.tally import Totals

DEADLINE_S = patient(30.0)


class ServerProcess:
    """`trunkline serve` or `trunkline up` as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.port = 0
        self.nodes: list[str] = []

    @classmethod
    async def serve(cls, tmp_path: Path, port: int = 0, **environ: str) -> ServerProcess:
        """One node, ready."""
        server = await cls._start(
            tmp_path, {"TRUNKLINE_ADMIN_PORT": "0", **environ},
            "serve", "--host", "127.0.0.1", "--port", str(port or (port := free_port())), "--name", "one",
        )  # fmt: skip
        server.port = port
        async with asyncio.timeout(DEADLINE_S), aiohttp.ClientSession() as session:
            while True:
                assert server.process.returncode is None, "the node ended"
                try:
                    async with session.get(f"http://127.0.0.1:{port}/ready") as answer:
                        if answer.status == 200:
                            return server
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.02)

    @classmethod
    async def up(cls, tmp_path: Path, nodes: int) -> ServerProcess:
        """A fleet behind its relay, ready."""
        server = await cls._start(
            tmp_path, {}, "up", "--json", "--port", "0", "--nodes", str(nodes), "--data-dir", str(tmp_path / "data")
        )
        assert server.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            async for line in server.process.stdout:
                said = json.loads(line)
                if said["type"] == "addresses":
                    server.port = int(said["edge"]["page"].rpartition(":")[2])
                    server.nodes = [node["page"] for node in said["nodes"]]
                    return server
        raise AssertionError("the fleet ended")

    @classmethod
    async def _start(cls, tmp_path: Path, environ: dict[str, str], *arguments: str) -> ServerProcess:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trunkline", *arguments,
            cwd=tmp_path, env=environment(tmp_path, **{"TRUNKLINE_LOG_ACCESS": "false"} | environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if arguments[0] == "up" else asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        return cls(process)

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.port}"

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(DEADLINE_S):
            if self.process.stdout is not None:
                await self.process.stdout.read()
            await self.process.wait()


class CountingClient:
    """A WebSocket client of another implementation that counts into `Totals` as a load session would."""

    def __init__(self, totals: Totals, session: aiohttp.ClientSession, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.totals = totals
        self._session = session
        self._ws = ws
        self.gaps: list[dict[str, Any]] = []

    @classmethod
    async def open(cls, totals: Totals, port: int, path: str, receive_buffer: int | None = None) -> CountingClient:
        """Connect; `receive_buffer`: bytes that the kernel takes while the client does not read."""

        def make(place: Any) -> socket.socket:
            sock = socket.socket(place[0], place[1], place[2])
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            return sock

        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=make))
        totals.attempts += 1
        ws = await session.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=1 << 26, autoclose=False)
        totals.opened += 1
        return cls(totals, session, ws)

    async def send(self, text: str) -> None:
        """Send a text message."""
        await self._ws.send_str(text)
        self.totals.sent += 1
        self.totals.bytes_sent += len(text)

    async def next(self) -> str | None:
        """The next message; None when the server has closed."""
        async with asyncio.timeout(patient(10)):
            message = await self._ws.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            return None
        self.totals.received += 1
        self.totals.bytes_received += len(message.data)
        return str(message.data)

    async def until(self, kind: str) -> dict[str, Any]:
        """Read up to a message of the type; gaps on the way are kept."""
        while True:
            text = await self.next()
            assert text is not None, f"closed before {kind}"
            message: dict[str, Any] = json.loads(text)
            if message["type"] == "gap":
                self.gaps.append(message)
                self.totals.dropped += message["before"] - message["after"] - 1
            if message["type"] == kind:
                return message

    async def ask(self, message: dict[str, Any], kind: str) -> dict[str, Any]:
        """Send a message of the protocol and read up to its answer."""
        await self.send(json.dumps(message))
        return await self.until(kind)

    async def close(self) -> None:
        """A closing handshake; what the server still says before its close frame is read and counted."""
        # The library's own `close` would pass over what is still to come.
        with contextlib.suppress(aiohttp.ClientConnectionResetError):
            await self._ws._writer.close(1000)
        while await self.next() is not None:
            pass
        await self._session.close()

    async def cut(self) -> None:
        """End it with no word."""
        transport = self._ws._writer.transport
        transport.abort()
        self.totals.cut += 1
        await self._session.close()
