"""Signals and the order in which a long-running command ends.

The first SIGTERM or SIGINT asks for an orderly stop, the second ends it at once. Both are futures, so a command awaits them
beside its own work and no handler runs application code.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop


class Signals:
    """The stop signals of this process; make it inside the running loop.

    Attributes:
        first: done at the first SIGTERM or SIGINT.
        second: done at the second.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[None] = loop.create_future()
        self.second: asyncio.Future[None] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        if not self.first.done():
            self.first.set_result(None)
        elif not self.second.done():
            self.second.set_result(None)


async def serve_until_stopped(signals: Signals, stop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Wait for the first signal, then stop; the second signal cancels the orderly part of the stop.

    Args:
        signals: the process's signals.
        stop: an orderly stop that, when cancelled, still lets go of everything.
    """
    await signals.first
    stopping = asyncio.ensure_future(stop())
    await asyncio.wait({stopping, signals.second}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)


def run(main: Callable[[], Awaitable[int]]) -> int:
    """Run a command's coroutine on uvloop; returns its exit code."""

    async def entry() -> int:
        return await main()

    return uvloop.run(entry())
