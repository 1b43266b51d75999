"""A Docker daemon of the tests' own: apart from any other on the machine, and gone with all it made at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil

from tests.support.docker.namespace import CannotRun, Namespace
from tests.support.patience import patient

_CGROUPS: Final = Path("/sys/fs/cgroup")


class DockerDaemon:
    """One dockerd in namespaces and a directory of its own, which listens on a Unix socket there.

    Ports that containers publish are open inside its network namespace alone: `namespace.inside` runs a command there,
    `namespace.forwarded` opens one to the test.

    Args:
        more: further options of dockerd, e.g. `--host` and `--tlsverify`.
    """

    def __init__(self, *more: str) -> None:
        program = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise CannotRun("dockerd is not installed (Debian: docker.io)")
        self._program, self._more = program, more
        self.namespace = Namespace()
        _remove_left()
        self.root = Path(tempfile.mkdtemp(prefix=f"dockerd-{os.getpid()}-", dir="/tmp"))
        # In memory, for what is written here is thrown away soon: on a busy disk that alone takes many seconds.
        (self.root / "data").mkdir()
        mount = ("mount", "-t", "tmpfs", "-o", "mode=0711", "dockerd", f"{self.root}/data")
        subprocess.run(self.namespace.held(*mount), capture_output=True, check=False)
        self.endpoint = f"unix://{self.root}/api.sock"
        self._storage = "overlay2"
        self._has_run = False
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start dockerd, on the same data if it ran before; raises CannotRun with the end of its log."""
        try:
            self._start()
        except CannotRun:
            if self._storage == "vfs" or self._has_run:
                self.remove()
                raise
            self._storage = "vfs"  # slower and larger, and works on every file system
            self.start()

    def _start(self) -> None:
        root = self.root
        command = self.namespace.held(
            self._program, "--host", self.endpoint, "--data-root", f"{root}/data", "--exec-root", f"{root}/exec",
            "--pidfile", f"{root}/pid", "--storage-driver", self._storage, "--cgroup-parent", f"/{root.name}",
            "--exec-opt", "native.cgroupdriver=cgroupfs", "--shutdown-timeout", "3", *self._more,
        )  # fmt: skip
        with (root / "log").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        deadline = time.monotonic() + patient(30)
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise CannotRun(f"dockerd does not start: {' | '.join(self.log.strip().splitlines()[-3:])}")
            time.sleep(0.05)
        self._has_run = True

    @property
    def runs(self) -> bool:
        """Whether it was started, and neither stopped nor killed since."""
        return self._process is not None

    @property
    def log(self) -> str:
        """What dockerd wrote so far."""
        return (self.root / "log").read_text(errors="replace")

    def _answers(self) -> bool:
        async def ping() -> bool:
            try:
                await self.ask("GET", "/_ping")
            except (OSError, aiohttp.ClientError):
                return False
            return True

        return asyncio.run(ping())

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        """One request of the Engine API; RuntimeError when it is refused."""
        connector = aiohttp.UnixConnector(self.endpoint.removeprefix("unix://"))
        timeout = aiohttp.ClientTimeout(total=patient(30))
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as http,
            http.request(method, f"http://docker{path}", **more) as answer,
        ):
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {await answer.text()}")
            text = await answer.text()
            return await answer.json() if answer.content_type == "application/json" and "\r\n{" not in text else text

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which the docker command, Compose and the product use this daemon."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        return kept | {"DOCKER_HOST": self.endpoint, "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": f"{self.root}/config"}

    def docker(self, *arguments: str | Path, stdin: str = "", within_s: float = 60.0) -> str:
        """What a docker command prints.

        Args:
            arguments: e.g. `"run", "--rm", "image"`.
            stdin: what it reads.
            within_s: seconds that it may take on a quiet machine.

        Raises:
            RuntimeError: it failed; with what it wrote to standard error.
        """
        done = self.try_docker(*arguments, stdin=stdin, within_s=within_s)
        if done.returncode:
            raise RuntimeError(f"docker {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done.stdout

    def try_docker(
        self, *arguments: str | Path, stdin: str = "", within_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """A docker command that may fail."""
        return subprocess.run(
            [_client(), *map(str, arguments)], env=self.environment, input=stdin, text=True, capture_output=True,
            timeout=patient(within_s), check=False,
        )  # fmt: skip

    def try_container(self, image: str) -> None:
        """See whether a container of an image with a shell can run; raises CannotRun."""
        done = self.try_docker("run", "--rm", "--entrypoint=/bin/sh", image, "-c", ":")
        if done.returncode:
            raise CannotRun(f"dockerd runs, but no container can: {done.stderr.strip()[-500:]}")

    async def clear(self) -> None:
        """Remove every container."""
        for one in await self.ask("GET", "/containers/json", params={"all": "1"}):
            with contextlib.suppress(RuntimeError):  # one that removes itself
                await self.ask("DELETE", f"/containers/{one['Id']}", params={"force": "1", "v": "1"})

    async def address(self, name: str, network: str) -> str:
        """A container's address in a network."""
        found = await self.ask("GET", f"/containers/{name}/json")
        return str(found["NetworkSettings"]["Networks"][network]["IPAddress"])

    def stop(self) -> None:
        """End dockerd and its containerd, and wait for both."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.poll() is not None:
            return
        family = psutil.Process(process.pid).children(recursive=True)
        for each in family[:1]:
            each.send_signal(signal.SIGTERM)
        try:
            process.wait(patient(20))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        _, alive = psutil.wait_procs(family, timeout=patient(5))
        for child in alive:
            child.kill()

    def crash(self) -> None:
        """Kill dockerd and its containerd at once; containers live on without them."""
        assert self._process is not None
        process, self._process = self._process, None
        (daemon,) = psutil.Process(process.pid).children()
        daemons = [daemon, *daemon.children()]
        for one in daemons:
            with contextlib.suppress(psutil.NoSuchProcess):  # one that ends by itself meanwhile
                one.kill()
        process.wait(5)
        psutil.wait_procs(daemons, timeout=patient(5))
        (self.root / "pid").unlink(missing_ok=True)

    def remove(self) -> None:
        """End dockerd, its containers and mounts with the namespaces, and remove everything that it made."""
        self.namespace.end()
        if self._process is not None:
            self._process.wait()
        _remove_all_of(self.root)


def _remove_left() -> None:
    """Remove what a killed run of the tests could not; its processes and mounts ended with it."""
    for root in Path("/tmp").glob("dockerd-*-*"):
        if not psutil.pid_exists(int(root.name.split("-")[1])):
            _remove_all_of(root)


def _remove_all_of(root: Path) -> None:
    """Remove a daemon's directory, and the control groups that have its name."""
    shutil.rmtree(root, ignore_errors=True)
    for found in (*_CGROUPS.glob(root.name), *_CGROUPS.glob(f"*/{root.name}")):
        for folder, _, _ in os.walk(found, topdown=False):
            with contextlib.suppress(OSError):  # a process is still on its way out
                os.rmdir(folder)


def _client() -> str:
    """The docker command.

    Debian's builds with BuildKit by itself; one that needs the plug-in for that may stand before it in the path.
    """
    for found in ("/usr/bin/docker", shutil.which("docker")):
        if found and Path(found).exists():
            return found
    raise CannotRun("the docker command is not installed (Debian: docker.io)")
