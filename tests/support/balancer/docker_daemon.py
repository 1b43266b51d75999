"""A Docker daemon of the tests' own: apart from any other on the machine, and gone with all it made at the end."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.support.patience import patient

IMAGE = "trunkline-test:1"
PORT = 8000


class CannotRun(Exception):
    """Why no daemon or container can run here."""


class DockerDaemon:
    """One dockerd in a directory of its own, with two bridge networks and an image that serves /health.

    The default bridge and all firewall rules are switched off, so that a daemon that the machine runs already notices
    nothing; containers are reached by their addresses in the two networks.
    """

    def __init__(self) -> None:
        program = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise CannotRun("dockerd is not installed")
        if os.geteuid() != 0:
            raise CannotRun("dockerd needs root")
        shell = shutil.which("busybox")
        if shell is None:
            raise CannotRun("busybox is not installed (Debian: busybox-static)")
        self._program, self._shell = program, Path(shell)
        self._root = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"unix://{self._root}/api.sock"
        # Another process of this test run may have a daemon too; their subnets must differ.
        self._subnet = os.getpid() % 120 * 2

    def start(self) -> None:
        """Start dockerd, anew on the same data if it ran before; raises CannotRun with the end of its log."""
        root = self._root
        command = [
            self._program, "--host", self.endpoint, "--data-root", f"{root}/data", "--exec-root", f"{root}/exec",
            "--pidfile", f"{root}/pid", "--bridge", "none", "--iptables=false", "--ip6tables=false",
            "--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs", "--shutdown-timeout", "3",
        ]  # fmt: skip
        with (root / "log").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        deadline = time.monotonic() + patient(30)
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                end = (root / "log").read_text(errors="replace").strip().splitlines()[-3:]
                self.remove()
                raise CannotRun(f"dockerd does not start: {' | '.join(end)}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        async def ping() -> bool:
            try:
                await self.ask("GET", "/_ping")
            except (OSError, aiohttp.ClientError):
                return False
            return True

        return asyncio.run(ping())

    async def prepare(self) -> None:
        """Make the image and the networks, and see whether a container can run; raises CannotRun."""
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            archive.add(self._shell, "bin/busybox")
            page = tarfile.TarInfo("www/health")
            page.size = 2
            archive.addfile(page, io.BytesIO(b"ok"))
        repo, _, tag = IMAGE.partition(":")
        await self.ask("POST", "/images/create", params={"fromSrc": "-", "repo": repo, "tag": tag}, data=tar.getvalue())
        try:
            for index, name in enumerate(("front", "back")):
                subnet = {"Subnet": f"10.213.{self._subnet + index}.0/24"}
                await self.ask("POST", "/networks/create", json={"Name": name, "IPAM": {"Config": [subnet]}})
            trial = await self.run("trial")
            await self.ask("DELETE", f"/containers/{trial}", params={"force": "1"})
        except RuntimeError as error:
            raise CannotRun(f"dockerd runs, but no container of a static busybox can: {error}") from None

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

    async def create(self, name: str, labels: dict[str, str] | None = None, **more: Any) -> str:
        """Create a container of the image in the network `front`; its id.

        Args:
            name: its name.
            labels: its labels.
            more: further keys of the API's body, e.g. `Healthcheck`; `HostConfig` is laid over the network.
        """
        body = {
            "Image": IMAGE,
            "Cmd": ["/bin/busybox", "httpd", "-f", "-p", str(PORT), "-h", "/www"],
            "Labels": labels or {},
            "ExposedPorts": {f"{PORT}/tcp": {}},
            "StopTimeout": 1,  # the shell's server does not heed SIGTERM
            **more,
            "HostConfig": {"NetworkMode": "front", **more.get("HostConfig", {})},
        }
        made = await self.ask("POST", "/containers/create", params={"name": name}, json=body)
        return str(made["Id"])

    async def run(self, name: str, labels: dict[str, str] | None = None, **more: Any) -> str:
        """Create and start a container; its id."""
        container = await self.create(name, labels, **more)
        await self.ask("POST", f"/containers/{container}/start")
        return container

    async def act(self, name: str, what: str, **params: str) -> None:
        """`start`, `stop`, `kill`, `pause` or `unpause` a container."""
        await self.ask("POST", f"/containers/{name}/{what}", params=params)

    async def execute(self, name: str, *command: str) -> None:
        """Run a command of busybox in a container."""
        body = {"Cmd": ["/bin/busybox", *command]}
        made = await self.ask("POST", f"/containers/{name}/exec", json=body)
        await self.ask("POST", f"/exec/{made['Id']}/start", json={"Detach": True})

    async def clear(self) -> None:
        """Remove every container."""
        for one in await self.ask("GET", "/containers/json", params={"all": "1"}):
            await self.ask("DELETE", f"/containers/{one['Id']}", params={"force": "1"})

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
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        _, alive = psutil.wait_procs(children, timeout=patient(5))
        for child in alive:
            child.kill()

    def crash(self) -> None:
        """Kill dockerd and its containerd at once; containers live on without them."""
        assert self._process is not None
        process, self._process = self._process, None
        daemons = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        for one in daemons:
            one.kill()
        process.wait(5)
        psutil.wait_procs(daemons, timeout=patient(5))
        (self._root / "pid").unlink(missing_ok=True)

    def remove(self) -> None:
        """End dockerd and remove everything that it made."""
        if self._process is not None and self._process.poll() is None:
            asyncio.run(self._leave_nothing())
        self.stop()
        with Path("/proc/self/mounts").open() as mounts:
            left = [line.split()[1] for line in mounts if line.split()[1].startswith(f"{self._root}/")]
        for mount in sorted(left, reverse=True):
            subprocess.run(["umount", mount], check=False)
        shutil.rmtree(self._root, ignore_errors=True)

    async def _leave_nothing(self) -> None:
        await self.clear()
        for name in ("front", "back"):
            with contextlib.suppress(RuntimeError):  # it was never made
                await self.ask("DELETE", f"/networks/{name}")
