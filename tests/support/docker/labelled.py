"""Small containers for what reads a daemon's list: two networks, and an image that serves /health at once."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pytest

from tests.support.docker.daemon import DockerDaemon
from tests.support.docker.namespace import CannotRun

IMAGE: Final = "trunkline-test:1"
PORT: Final = 8000


class LabelledContainers(DockerDaemon):
    """A daemon of its own with the networks `front` and `back` and the small image."""

    async def prepare(self) -> None:
        """Make the image and the networks, and see whether a container can run; raises CannotRun."""
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            archive.add(str(shutil.which("busybox")), "bin/busybox")
            page = tarfile.TarInfo("www/health")
            page.size = 2
            archive.addfile(page, io.BytesIO(b"ok"))
        repo, _, tag = IMAGE.partition(":")
        await self.ask("POST", "/images/create", params={"fromSrc": "-", "repo": repo, "tag": tag}, data=tar.getvalue())
        try:
            for name in ("front", "back"):
                await self.ask("POST", "/networks/create", json={"Name": name})
            trial = await self.run("trial")
            await self.ask("DELETE", f"/containers/{trial}", params={"force": "1"})
        except RuntimeError as error:
            raise CannotRun(f"dockerd runs, but no container of a static busybox can: {error}") from None

    async def make_image(self, name: str, changes: Sequence[str]) -> None:
        """Make an image like `IMAGE` with instructions such as `ENV A=1`."""
        made = await self.ask("POST", "/containers/create", json={"Image": IMAGE, "Cmd": ["none"]})
        repo, _, tag = name.partition(":")
        body = {"container": made["Id"], "repo": repo, "tag": tag, "changes": list(changes)}
        await self.ask("POST", "/commit", params=body, json={})
        await self.ask("DELETE", f"/containers/{made['Id']}")

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
            "StopTimeout": 0,  # busybox' server does not heed SIGTERM
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


@contextlib.contextmanager
def labelled_containers(*more: str) -> Iterator[LabelledContainers]:
    """One that is prepared, with further options of dockerd; skips the test with the reason where there can be none."""
    try:
        daemon = LabelledContainers(*more)
        daemon.start()
    except CannotRun as why:
        pytest.skip(str(why))
    try:
        asyncio.run(daemon.prepare())
        yield daemon
    except CannotRun as why:
        pytest.skip(str(why))
    finally:
        daemon.remove()
