"""Prometheus, Alertmanager and node_exporter on this machine beside a fleet, with the rendered files; for `monitor up`.

Rules:

- The programs are those on the PATH, under their own or Debian's names; missing ones are reported before any starts.
- All listen on loopback. Ports follow the first one as the usual ones do: 9090, 9093, 9100.
- The nodes are those that the fleet's balancer reports, polled every few seconds, so that Prometheus follows a
  scale-out; while the balancer is away the last list stays.
- A program that ends is reported with the last lines that it printed, and ends the stack: half a monitoring is worse
  than none.
- A directory belongs to one stack at a time: a second one would write over the first one's files and samples.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
from msgspec.structs import replace

from trunkline.errors import StartError, TrunklineError
from trunkline.monitor.files import bundle
from trunkline.monitor.files.alertmanager_urls import with_urls
from trunkline.monitor.files.prometheus import arguments
from trunkline.monitor.local.ports import ALERTMANAGER_STEP, NODE_EXPORTER_STEP
from trunkline.monitor.local.targets import Overview, targets_json, targets_of
from trunkline.process.ending import ended
from trunkline.process.lifecycle import Child
from trunkline.process.locks import take_lock
from trunkline.process.printed import Printed
from trunkline.process.sockets.ports import why_unusable
from trunkline.process.whole_files import replace_file
from trunkline.settings.sections import Settings

HOST: Final = "127.0.0.1"
READY_S: Final = 30.0
STOP_S: Final = 10.0
_ASK_S: Final = 2.0
_EVERY_S: Final = 5.0
_POLL_S: Final = 0.1
_MAX_ANSWER: Final = 4 << 20
_ALERTMANAGER_FILE: Final = "alertmanager.yml"
_LAST_LINES: Final = 2


class Program(msgspec.Struct, frozen=True):
    """A program that the stack runs.

    Attributes:
        name: for people.
        names: under which it may be installed.
        package: of Debian that brings it.
    """

    name: str
    names: tuple[str, ...]
    package: str


PROMETHEUS: Final = Program("Prometheus", ("prometheus",), "prometheus")
ALERTMANAGER: Final = Program("Alertmanager", ("alertmanager", "prometheus-alertmanager"), "prometheus-alertmanager")
NODE_EXPORTER: Final = Program(
    "node_exporter", ("node_exporter", "prometheus-node-exporter"), "prometheus-node-exporter"
)


class Addresses(msgspec.Struct, tag="monitor", frozen=True):
    """Where everything is."""

    prometheus: str
    alertmanager: str
    node_exporter: str
    files: str


class Ended(TrunklineError):
    """A program of the stack has ended by itself."""


def find_programs() -> dict[Program, Path]:
    """Where the programs are; raises StartError that names all that are missing."""
    found: dict[Program, Path] = {}
    missing = []
    for program in (PROMETHEUS, ALERTMANAGER, NODE_EXPORTER):
        path = next((path for name in program.names if (path := shutil.which(name))), None)
        if path is None:
            missing.append(program)
        else:
            found[program] = Path(path)
    if missing:
        raise StartError(
            f"not installed: {', '.join(program.name for program in missing)}",
            f"On Debian and Ubuntu: apt-get install {' '.join(program.package for program in missing)}; "
            "elsewhere put the programs on the PATH.",
        )
    return found


class LocalStack:
    """A running stack; made by `LocalStack.start`.

    Attributes:
        addresses: where everything is.
        silence: why the fleet's nodes are not known, as of the last poll; empty when they are.
    """

    def __init__(self, addresses: Addresses, fleet_url: str, overview_path: str, targets_file: Path) -> None:
        self.addresses = addresses
        self.silence = ""
        self._fleet_url = fleet_url
        self._overview_url = fleet_url + overview_path
        self._targets_file = targets_file
        self._lock: int | None = None
        self._running: dict[Program, Child] = {}
        self._printed: dict[Program, Printed] = {}
        self._following: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, settings: Settings, directory: Path, fleet_url: str, first_port: int) -> LocalStack:
        """Render the files, start the programs and return when all answer.

        Args:
            settings: [monitor] above all; its targets are added to those of the fleet.
            directory: for files and data, as an absolute path; made when missing, for this user alone.
            fleet_url: the balancer's admin address.
            first_port: of Prometheus.

        Raises:
            StartError: the address is none, a program is missing, a port or the directory is taken, a program did not
                get ready; nothing is left running.
        """
        fleet_url = _fleet_address(fleet_url)
        programs = find_programs()
        ports = first_port, first_port + ALERTMANAGER_STEP, first_port + NODE_EXPORTER_STEP
        for port in ports:
            _check_free(port)
        files = directory / "files"
        prometheus, alertmanager, node_exporter = (f"http://{HOST}:{port}" for port in ports)
        addresses = Addresses(prometheus, alertmanager, node_exporter, str(files))
        path = settings.balancer.balancer_metric_path
        stack = cls(addresses, fleet_url, path, directory / "targets" / "nodes.json")
        settings = stack._placed(settings, ports)
        try:
            stack._write(directory, files, settings)
            await stack._follow_once()
            for program, arguments in stack._commands(settings, directory, files, ports):
                await stack._run(program, [str(programs[program]), *arguments])
            for address in (addresses.prometheus, addresses.alertmanager):
                await stack._until_ready(f"{address}/-/ready")
            await stack._until_ready(f"{addresses.node_exporter}/metrics")
        except BaseException:
            await stack.stop()
            raise
        stack._following = asyncio.create_task(stack._follow())
        return stack

    async def watch(self) -> None:
        """Wait until one of the programs ends by itself; raises Ended."""
        waits = {asyncio.create_task(child.wait()): program for program, child in self._running.items()}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        wait = done.pop()
        program = waits[wait]
        raise Ended(f"{program.name} {ended(wait.result())}. It printed last: {self._last_lines(program)}")

    async def stop(self) -> None:
        """End everything, at once when cancelled; safe to call twice."""
        if self._following is not None:
            self._following.cancel()
        children = tuple(self._running.values())
        for child in children:
            child.terminate()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    for child in children:
                        await child.wait()
        finally:
            for child in children:
                child.kill()
        for child in children:
            await child.wait()
        self._running.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write(self, directory: Path, files: Path, settings: Settings) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(directory)
            self._targets_file.parent.mkdir(exist_ok=True)
            self._targets_file.write_bytes(targets_json([]))
            texts = bundle.files(settings, dashboards=False)
            bundle.write(files, texts)
            # Debian's Alertmanager reads no URL from a file; and what holds one is for this user alone.
            replace_file(directory / _ALERTMANAGER_FILE, with_urls(settings.monitor).encode())
        except OSError as error:
            raise StartError(
                f"{directory} cannot be written to: {error.strerror}", "Name another --data-dir."
            ) from None

    def _placed(self, settings: Settings, ports: tuple[int, int, int]) -> Settings:
        """The settings with this stack's places laid over them."""
        prometheus, alertmanager, node_exporter = ports
        own = settings.monitor
        fleet = self._fleet_url.partition("://")[2]
        monitor = replace(
            own, nodes_file=str(self._targets_file), balancers=tuple(dict.fromkeys((*own.balancers, fleet))),
            alertmanagers=(f"{HOST}:{alertmanager}",),
            node_exporters=tuple(dict.fromkeys((*own.node_exporters, f"{HOST}:{node_exporter}"))),
            prometheus_url=f"http://{HOST}:{prometheus}", compose=False,
        )  # fmt: skip
        return replace(settings, monitor=monitor)

    def _commands(
        self, settings: Settings, directory: Path, files: Path, ports: tuple[int, int, int]
    ) -> list[tuple[Program, list[str]]]:
        prometheus, alertmanager, node_exporter = ports
        return [
            (
                ALERTMANAGER,
                [
                    f"--config.file={directory / _ALERTMANAGER_FILE}",
                    f"--storage.path={directory / 'alertmanager'}",
                    f"--web.listen-address={HOST}:{alertmanager}",
                    "--cluster.listen-address=",
                ],
            ),
            (NODE_EXPORTER, [f"--web.listen-address={HOST}:{node_exporter}"]),
            (
                PROMETHEUS,
                [
                    f"--config.file={files / 'prometheus/prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'prometheus'}",
                    *arguments(settings),
                    f"--web.listen-address={HOST}:{prometheus}",
                ],
            ),
        ]

    async def _run(self, program: Program, command: list[str]) -> None:
        self._printed[program] = printed = Printed(_LAST_LINES)
        try:
            self._running[program] = await Child.start(command, os.environ, printed.take)
        except OSError as error:
            raise StartError(f"{command[0]} cannot be run: {error.strerror}", "Install it again.") from error

    async def _until_ready(self, url: str) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ASK_S)) as http:
            try:
                async with asyncio.timeout(READY_S):
                    while True:
                        gone = next((each for each, child in self._running.items() if not child.running), None)
                        if gone is not None:
                            code = await self._running[gone].wait()
                            raise StartError(
                                f"{gone.name} {ended(code)} at its start", f"It printed last: {self._last_lines(gone)}"
                            )
                        with suppress(aiohttp.ClientError, TimeoutError):
                            async with http.get(url) as answer:
                                if answer.status == 200:
                                    return
                        await asyncio.sleep(_POLL_S)
            except TimeoutError:
                raise StartError(f"{url} did not answer within {READY_S:g} s", "Is the machine overloaded?") from None

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            with suppress(OSError):
                await self._follow_once()

    async def _follow_once(self) -> None:
        """Read the balancer's backends, and write the targets of Prometheus when they changed."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ASK_S)) as http,
                http.get(self._overview_url, headers={"Accept": "application/json"}) as answer,
            ):
                if answer.status != 200:
                    self.silence = f"it answers {answer.status}"
                    return
                overview = msgspec.json.decode(await _body(answer), type=Overview)
        except TimeoutError:
            self.silence = f"no answer within {_ASK_S:g} s"
            return
        except aiohttp.ClientError as error:
            self.silence = str(error)
            return
        except (ValueError, RecursionError):  # of which MsgspecError and UnicodeDecodeError are kinds
            self.silence = "its answer is not that of a balancer"
            return
        self.silence = ""
        text = targets_json(targets_of(overview))
        if not self._targets_file.exists() or self._targets_file.read_bytes() != text:
            replace_file(self._targets_file, text)

    def _last_lines(self, program: Program) -> str:
        return " / ".join(line[:500] for line in self._printed[program].last()) or "none"


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """All of an answer, which comes in pieces; raises ValueError when it is too long."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > _MAX_ANSWER:
            raise ValueError("too long")
    return bytes(body)


def _fleet_address(url: str) -> str:
    """The balancer's address without a slash at its end; Prometheus gets its host and port."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
        parts = urlsplit("")
    if not usable or parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment:
        raise StartError(f"--fleet {url!r} is no address", "Name the balancer's as http://HOST:PORT.")
    return f"http://{parts.netloc}"


def _locked(directory: Path) -> int:
    try:
        return take_lock(directory / "lock")
    except BlockingIOError:
        raise StartError(
            f"{directory} is in use by another trunkline monitor up", "Stop that one, or name another --data-dir."
        ) from None


def _check_free(port: int) -> None:
    why = why_unusable(HOST, port)
    if why is not None:
        raise StartError(
            f"port {port} on {HOST} cannot be used: {why}", "Stop what uses it, or choose others with --port."
        )
