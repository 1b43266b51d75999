"""A TCP connection that can be cut as a network does it: nothing passes any more, and nobody is told."""

from __future__ import annotations

import asyncio
import contextlib


class CutLink:
    """Forwards a port of its own to another one of this machine."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def start(self) -> CutLink:
        """Listen, and let everything pass."""
        self._flows.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def cut(self) -> None:
        """Let nothing pass, in either direction."""
        self._flows.clear()

    def mend(self) -> None:
        """Let everything pass again; what came over connections of before is lost, as these are."""
        for writer in self._writers:
            writer.transport.abort()
        self._flows.set()

    async def stop(self) -> None:
        """End all of it."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        await self._flows.wait()
        with contextlib.suppress(OSError):
            back, forth = await asyncio.open_connection("127.0.0.1", self._to)
            self._writers.add(forth)
            for source, target in ((reader, forth), (back, writer)):
                task = asyncio.create_task(self._pass(source, target))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                await self._flows.wait()
                target.write(data)
                await target.drain()
        target.transport.abort()
