"""A worker process on this machine, started and ended by the coordinator or by an agent.

It gets one end of a pair of sockets and nothing else. It ends when the other end closes, and dies with its parent.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from trunkline.errors import StartError
from trunkline.load.model.messages import FromWorker
from trunkline.load.workers.pipe import FROM_WORKER, Pipe
from trunkline.process.ending import ended
from trunkline.process.lifecycle import Child
from trunkline.process.printed import Printed

# -P: a file in the current directory must not stand in for a module of ours.
COMMAND: Final = (sys.executable, "-P", "-m", "trunkline.load.workers.process")
"""Starts a worker; the number of its socket comes behind it."""

ENDS_S: Final = 2.0  # how long a worker may take to end by itself once its pipe is closed
_KEPT: Final = 100
_LAST_LINES: Final = 3


class LocalWorker:
    """One worker process; made by `LocalWorker.start`."""

    clock_offset_s: float = 0.0  # 0: it has this machine's clock

    def __init__(self, number: int, child: Child, pipe: Pipe[FromWorker], printed: Printed) -> None:
        self.number = number  # of the worker in the run
        self.name = f"worker {number}"  # for messages
        self.pipe = pipe  # the messages to and from it
        self._child = child
        self._printed = printed

    @classmethod
    async def start(cls, number: int, command: Sequence[str] = COMMAND) -> LocalWorker:
        """Start worker `number` with `command`, to which its socket's number is added; raises StartError."""
        ours, theirs = socket.socketpair()
        printed = Printed(_KEPT)
        try:
            child = await Child.start(
                [*command, str(theirs.fileno())], os.environ, printed.take, pass_fds=(theirs.fileno(),)
            )
        except OSError as error:
            ours.close()
            raise StartError(
                f"a worker process cannot be started: {error}", "Is there memory, and are more processes allowed?"
            ) from error
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        try:
            return cls(number, child, await Pipe.open(ours, FROM_WORKER), printed)
        except BaseException:
            child.kill()
            ours.close()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def printed(self) -> list[str]:
        """The last lines that it printed, on both streams: a flow of the user's own may print too."""
        printable = ("".join(c if c.isprintable() else " " for c in line).rstrip() for line in self._printed.last())
        return [line for line in printable if line]

    async def send(self, message: msgspec.Struct) -> None:
        """Send it a message; raises as `Pipe.send` does."""
        await self.pipe.send(message)

    async def receive(self) -> FromWorker | None:
        """Its next message, None at the end; raises as `Pipe.receive` does."""
        return await self.pipe.receive()

    async def fate(self) -> str:
        """How it ended; one that hangs is killed first."""
        try:
            async with asyncio.timeout(ENDS_S):
                code = await self._child.wait()
        except TimeoutError:
            self._child.kill()
            code = await self._child.wait()
        how = ended(code)
        last = [line.strip()[:300] for line in self.printed[-_LAST_LINES:]]
        return f"{how}; its last output: {' / '.join(last)}" if last else how

    def kill(self) -> None:
        """End it at once."""
        self._child.kill()

    async def close(self) -> None:
        """End it, in order if it can, and wait for that."""
        self.pipe.close()
        await self.fate()
