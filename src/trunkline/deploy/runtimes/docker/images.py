"""Images of a deploy: those of the daemon, or pulled as `docker pull` does, with the credentials of this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import msgspec
from aiodocker import Docker, DockerError

from trunkline.deploy.runtimes.base import RuntimeFailed
from trunkline.deploy.runtimes.docker.containers import Image
from trunkline.deploy.runtimes.docker.exchange import Gone, known, read
from trunkline.docker.connection import reason
from trunkline.docker.credentials import HUB, credentials_for, registry_of
from trunkline.docker.endpoint import Endpoint

PULL_S: Final = 600.0


async def find(docker: Docker, name: str) -> Image | None:
    """An image of the daemon by its name or id."""
    try:
        async with known():
            return read(await docker.images.inspect(name), Image)
    except Gone:
        return None


async def need(docker: Docker, name: str, endpoint: Endpoint) -> Image:
    """An image by its name; raises RuntimeFailed when the daemon does not have it."""
    if (found := await find(docker, name)) is not None:
        return found
    raise RuntimeFailed(f"there is no image {name} on {endpoint}")


async def need_or_pull(docker: Docker, name: str, endpoint: Endpoint, config_dir: Path) -> None:
    """Have the daemon pull an image that it does not have; raises RuntimeFailed when it cannot.

    Args:
        docker: client of the daemon.
        name: of the image.
        endpoint: the daemon.
        config_dir: directory of docker's configuration, where credentials are.
    """
    if await find(docker, name) is not None:
        return
    registry = registry_of(name)
    credentials = await credentials_for(registry, config_dir) if "/" in name else None  # what has none is public
    auth = msgspec.to_builtins(credentials) if credentials is not None else None
    try:
        async with asyncio.timeout(PULL_S):
            await docker.images.pull(name, auth=auth)  # aiodocker gives the tag "latest" to a name without one
    except DockerError as error:
        why, login = reason(error), f"docker login{'' if registry == HUB else f' {registry}'}"
        next_step = "build it there" if credentials is not None else f"build it there, or {login}"
    except TimeoutError:
        why, next_step = f"that takes longer than {PULL_S:.0f} s", "docker pull it first"
    else:
        await need(docker, name, endpoint)
        return
    raise RuntimeFailed(f"there is no image {name} on {endpoint}, and it cannot be pulled: {why}; {next_step}")
