"""Clients that came from many addresses and come back from one, as behind the address of an office."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.balancer.talking import PATIENCE_S

OFFICE = "127.0.0.9"
EACH_ADDRESS = 10
AT_ONCE = 20


class Office:
    """Clients of one edge."""

    def __init__(self, port: int, path: str = "/ws") -> None:
        self._url = f"ws://127.0.0.1:{port}{path}"
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._open: list[ClientConnection] = []
        self.sessions: list[str] = []

    async def probe(self, served: Callable[[], object]) -> None:
        """Connect from other addresses, one after another, until something holds of where they land."""
        for number in range(1, 255):
            socket = await self._connect(f"127.0.2.{number}", "")
            done = isinstance(socket, ClientConnection) and bool(served())
            if isinstance(socket, ClientConnection):
                self._open.remove(socket)
                await socket.close()
            if done:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("no client landed where it should")

    async def arrive(self, count: int) -> None:
        """Connect, not too many of an address."""
        opened = await asyncio.gather(
            *(self._connect(f"127.0.1.{1 + number // EACH_ADDRESS}", "") for number in range(count))
        )
        for socket in opened:
            assert isinstance(socket, ClientConnection), f"refused with {socket}"
            self.sessions.append(json.loads(await socket.recv())["session"])

    async def left(self) -> Counter[int]:
        """Wait until the last one was closed; how many by close code."""

        async def read(socket: ClientConnection) -> int:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await socket.recv()
            return socket.close_code or 0

        gone, self._open = self._open, []
        async with asyncio.timeout(PATIENCE_S):
            return Counter(await asyncio.gather(*map(read, gone)))

    async def come(self, sessions: Iterable[str]) -> Counter[int]:
        """Connect from the office, each with its session (empty: none); how many by status."""
        opened = await asyncio.gather(*(self._connect(OFFICE, session) for session in sessions))
        return Counter(101 if isinstance(each, ClientConnection) else each for each in opened)

    async def close(self) -> None:
        """Leave."""
        await asyncio.gather(*(socket.close() for socket in self._open))

    async def _connect(self, address: str, session: str) -> ClientConnection | int:
        url = f"{self._url}?session={session}" if session else self._url
        async with self._turns:
            try:
                socket = await connect(url, proxy=None, compression=None, local_addr=(address, 0))
            except InvalidStatus as refused:
                return refused.response.status_code
        self._open.append(socket)
        return socket
