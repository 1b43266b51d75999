"""Containers of a new colour in a project of the real Compose."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.support.compose.stack import compose_program
from tests.support.docker.labelled import IMAGE, PORT, LabelledContainers
from tests.support.docker.namespace import CannotRun
from tests.support.patience import patient

pytest.importorskip("aiodocker", reason="the runtime needs the package aiodocker")
from trunkline.deploy.runtimes.base import What
from trunkline.deploy.runtimes.docker.runtime import DockerRuntime, Scope
from trunkline.docker.endpoint import Endpoint

STACK = f"""
name: shop
x-node: &node
  image: {IMAGE}
  command: ["/bin/busybox", "sh", "-c", "echo here; exec /bin/busybox httpd -f -p {PORT} -h /www"]
  stop_grace_period: 0s
  mem_limit: 64m
services:
  websocket-blue:
    <<: *node
    labels: {{trunkline.colour: blue}}
  websocket-green:
    <<: *node
    labels: {{trunkline.colour: green}}
    profiles: [green]
"""


@pytest.fixture(scope="module")
def program() -> Path:
    """Compose itself."""
    try:
        return compose_program()
    except CannotRun as why:
        pytest.skip(str(why))


async def test_compose_knows_what_a_deploy_made(daemon: LabelledContainers, program: Path, tmp_path: Path) -> None:
    """`ps`, `logs`, `stop` and `down` find the containers of the new colour, and `down` leaves nothing behind."""
    (tmp_path / "compose.yaml").write_text(STACK)

    async def compose(*arguments: str) -> str:
        done = await asyncio.to_thread(
            subprocess.run, [program, *arguments], cwd=tmp_path, env=daemon.environment, capture_output=True, text=True,
            timeout=patient(60), check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    await compose("up", "--detach")
    await compose("up", "--no-start", "--no-deps", "websocket-green")
    runtime = DockerRuntime(Endpoint(daemon.endpoint), Scope("d1", "blue", "green"))
    await runtime.ensure("green", 2, What())
    assert sorted((await compose("ps", "--format", "{{.Name}} {{.Service}}")).splitlines()) == [
        "shop-websocket-blue-1 websocket-blue", "shop-websocket-green-1 websocket-green",
        "shop-websocket-green-2 websocket-green",
    ]  # fmt: skip
    assert "here" in await compose("logs", "websocket-green")
    # With its profile it is green that Compose starts, and it is of the files: nothing is made again.
    made = daemon.docker("inspect", "--format={{.Id}}", "shop-websocket-green-1")
    await compose("--profile", "green", "up", "--detach", "--scale", "websocket-blue=0", "--scale", "websocket-green=2")
    assert daemon.docker("inspect", "--format={{.Id}}", "shop-websocket-green-1") == made
    await compose("stop", "websocket-green")
    assert (await compose("ps", "--services")).split() == []
    await compose("--profile", "green", "down")
    assert daemon.docker("ps", "--all", "--quiet") == ""
    assert "shop_default" not in daemon.docker("network", "ls")
