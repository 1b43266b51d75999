"""Namespaces of the tests' own: what runs in them sees no network and no mount of the machine, and ends with them.

Rules:

- One process holds the namespaces of network, mounts and process ids. When it ends, the kernel kills all that runs in
  them and removes their mounts and interfaces. It ends when its standard input closes, so also when pytest is killed.
- `inside` gives the command line that runs a program in the network namespace; it is the program itself that then has
  the process id, so that signals reach it.
- What tests reach from outside, they reach by `forwarded`: a port of the machine's loopback interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator
from typing import Final

import psutil

_CLONE_NEWNET: Final = 0x40000000


class CannotRun(Exception):
    """Why no daemon or container can run here."""


class Namespace:
    """Namespaces of network, mounts and process ids, with a loopback interface that is up."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise CannotRun("namespaces of network and mounts need root")
        for program, package in (("unshare", "util-linux"), ("nsenter", "util-linux"), ("busybox", "busybox-static")):
            if shutil.which(program) is None:
                raise CannotRun(f"{program} is not installed (Debian: {package})")
        self._holder = subprocess.Popen(
            [
                "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
                "sh", "-c",
                # Its first process adopts what loses its parent there; ignoring SIGCHLD, it leaves no zombie of it.
                "mount -t proc proc /proc && busybox ip link set lo up && exec env --ignore-signal=CHLD cat",
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._holder.stdin.write(b"ready\n")
            self._holder.stdin.flush()
        if self._holder.stdout.readline() != b"ready\n":
            _, said = self._holder.communicate()
            raise CannotRun(f"no namespaces can be made: {said.decode().strip()}")
        self._pid = psutil.Process(self._holder.pid).children()[0].pid

    def inside(self, *command: str) -> list[str]:
        """The command line that runs a program in the network namespace.

        Args:
            command: the program and its arguments.
        """
        return ["nsenter", f"--net=/proc/{self._pid}/ns/net", "--", *command]

    def held(self, *command: str) -> list[str]:
        """The command line that runs a program in all the namespaces; it ends with them.

        It is a child of the process that is started, whose id is not its own.
        """
        return ["nsenter", "--target", str(self._pid), "--net", "--mount", "--pid", "--", *command]

    def connect(self, host: str, port: int) -> socket.socket:
        """A TCP connection from inside the network namespace.

        Raises:
            OSError: it is refused.
        """
        made: list[socket.socket | OSError] = []

        def from_inside() -> None:
            # A namespace is a thread's own, and a socket stays in that of the thread that made it.
            with open(f"/proc/{self._pid}/ns/net", "rb") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                    made.append(OSError(ctypes.get_errno(), "setns"))
                    return
            try:
                made.append(socket.create_connection((host, port), timeout=5))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=from_inside)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]

    @contextlib.asynccontextmanager
    async def forwarded(self, port: int, host: str = "127.0.0.1") -> AsyncIterator[int]:
        """A port of the machine's loopback interface whose connections go on to one inside.

        Args:
            port: the port inside.
            host: the address inside, e.g. a container's.
        """

        async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while piece := await reader.read(65536):
                    writer.write(piece)
                    await writer.drain()
                writer.write_eof()

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                made = await asyncio.to_thread(self.connect, host, port)
                made.setblocking(False)
                there_reader, there_writer = await asyncio.open_connection(sock=made)
            except OSError:
                writer.transport.abort()
                return
            try:
                await asyncio.gather(pipe(reader, there_writer), pipe(there_reader, writer))
            finally:
                there_writer.close()
                writer.close()

        tasks: set[asyncio.Task[None]] = set()

        def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(forward(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(start, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def end(self) -> None:
        """End the namespaces and all that runs in them."""
        self._holder.communicate()
