"""Images that the daemon has to pull, from a registry that wants a password."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.docker.labelled import LabelledContainers
from tests.support.docker.registry import AUTH, PASSWORD, REGISTRY

pytest.importorskip("aiodocker", reason="the runtime needs the package aiodocker")
from trunkline.deploy.runtimes.base import What
from trunkline.deploy.runtimes.docker import images
from trunkline.deploy.runtimes.docker.runtime import DockerRuntime, Scope
from trunkline.docker.endpoint import Endpoint

NEW = What(image=f"{REGISTRY}/shop:1")


@pytest.fixture(scope="module")
def registry(shared_daemon: LabelledContainers) -> Iterator[None]:
    """The registry, where the daemon is."""
    command = shared_daemon.namespace.inside(sys.executable, "-m", "tests.support.docker.registry")
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"listens\n"
    yield
    program.kill()
    program.wait()


async def runtime_on(daemon: LabelledContainers, config_dir: Path, auth: str = "") -> DockerRuntime:
    """That of a deploy, on a machine where `docker login` left credentials."""
    config = {"auths": {REGISTRY: {"auth": auth}} if auth else {}}
    (config_dir / "config.json").write_text(json.dumps(config))
    await daemon.run("websocket-blue", {"trunkline.colour": "blue"})
    return DockerRuntime(Endpoint(daemon.endpoint), Scope("d1", "blue", "green"), config_dir)


async def test_an_image_is_pulled_before_anything_starts(
    daemon: LabelledContainers, registry: None, tmp_path: Path
) -> None:
    """With what `docker login` left, as `docker pull` would."""
    runtime = await runtime_on(daemon, tmp_path, AUTH)
    assert await runtime.check("green", NEW) == ""
    assert (await daemon.ask("GET", f"/images/{NEW.image}/json"))["Config"]["Cmd"] == ["serve"]
    await daemon.ask("DELETE", f"/images/{NEW.image}")


async def test_what_cannot_be_pulled(
    daemon: LabelledContainers, registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason and the next step are named, and no password."""
    anybody = await (await runtime_on(daemon, tmp_path)).check("green", NEW)
    assert anybody.startswith(f"there is no image {NEW.image} on unix://")
    assert "no basic auth credentials" in anybody
    assert anybody.endswith(f"; build it there, or docker login {REGISTRY}")
    await daemon.clear()
    runtime = await runtime_on(daemon, tmp_path, AUTH)
    missing = await runtime.check("green", What(image=f"{REGISTRY}/shop:2"))
    assert "manifest" in missing
    assert missing.endswith("; build it there")
    assert PASSWORD not in missing
    monkeypatch.setattr(images, "PULL_S", 1.0)
    slow = await runtime.check("green", What(image=f"{REGISTRY}/slow:1"))
    assert slow.endswith("it cannot be pulled: that takes longer than 1 s; docker pull it first")
