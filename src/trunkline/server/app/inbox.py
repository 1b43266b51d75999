"""Messages of one client, waiting for an endpoint function that takes them with `async for`."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from trunkline.server.connections.connection import Connection

BACKLOG_LIMIT: Final = 64
"""Messages of one client that may wait for an earlier one; above it the client is not read from."""


class Inbox:
    """The queue between a connection and its endpoint function, which runs as `task`."""

    __slots__ = ("_connection", "_ended", "_messages", "_waiter", "task")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages: deque[object] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self.task: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether so many wait that the client is not read from."""
        return len(self._messages) >= BACKLOG_LIMIT

    def put(self, message: object) -> None:
        """A message has come."""
        self._messages.append(message)
        if self.full:
            self._connection.pause_reading()
        self._wake()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> object:
        while not self._messages:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._messages.popleft()
        if len(self._messages) == BACKLOG_LIMIT // 2:
            self._connection.resume_reading()
        return message
