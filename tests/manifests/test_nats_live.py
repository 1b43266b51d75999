"""The real nats-server takes the configurations of the manifests: one server, and three that keep a stream thrice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import NamedTuple

import nats
import pytest
from nats.errors import NoServersError
from nats.js.api import StreamConfig

from tests.support import ROOT
from tests.support.free_ports import free_port
from tests.support.manifests.objects import KUSTOMIZE, container, kustomized, objects, pods
from tests.support.patience import patient
from tests.support.server.restricted_nats import USERS

BESIDE = Path(sys.executable).with_name("nats-server")
SERVER = str(BESIDE) if BESIDE.exists() else shutil.which("nats-server")
PASSWORDS = {f"{user.upper()}_PASSWORD": f"p{user}" for user in (*USERS, "route")}

pytestmark = pytest.mark.skipif(SERVER is None, reason="nats-server is not installed")


class Ports(NamedTuple):
    """Of one server."""

    client: int
    cluster: int


def configuration(overlay: str, directory: Path) -> Path:
    """The files of the ConfigMap as a pod has them."""
    (files,) = (
        each["data"]
        for (kind, name), each in objects(kustomized(overlay)).items()
        if kind == "ConfigMap" and name.startswith("trunkline-nats")
    )
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory / "nats.conf"


@contextlib.asynccontextmanager
async def servers(config: Path, directory: Path, count: int, **more: str) -> AsyncIterator[list[Ports]]:
    """Servers with that configuration; flags have ports, directories and the address in the place of those of a pod."""
    ports = [Ports(free_port(), free_port()) for _ in range(count)]
    routes = {
        f"ROUTE_{n}": f"nats://route:{PASSWORDS['ROUTE_PASSWORD']}@127.0.0.1:{at.cluster}" for n, at in enumerate(ports)
    }
    running = []
    try:
        for number, at in enumerate(ports):
            environ: Mapping[str, str] = {
                **os.environ, **PASSWORDS, **routes, **more, "POD_NAME": f"trunkline-nats-{number}",
            }  # fmt: skip
            options = ["--config", str(config), "--addr", "127.0.0.1", "--port", str(at.client), "--http_port", "-1"]
            options += ["--pid", str(directory / f"{number}.pid")]
            own = directory / f"{number}"
            own.mkdir()
            for file in config.parent.glob("*.conf"):
                (own / file.name).write_text(file.read_text().replace("store_dir: /data", f"store_dir: {own}"))
            options[1] = str(own / config.name)
            if count > 1:
                options += ["--cluster", f"nats://127.0.0.1:{at.cluster}"]
            assert SERVER is not None
            with (directory / f"{number}.log").open("wb") as log:
                running.append(
                    await asyncio.create_subprocess_exec(SERVER, *options, env=environ, stdout=log, stderr=log)
                )
        yield ports
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def client(user: str, at: Ports) -> nats.NATS:
    """A client that has logged in."""
    url = f"nats://{user}:p{user}@127.0.0.1:{at.client}"
    inbox = f"trunkline.inbox.{user}".encode()
    async with asyncio.timeout(patient(10)):
        while True:
            try:
                return await nats.connect(
                    url, allow_reconnect=False, max_reconnect_attempts=1, connect_timeout=2, inbox_prefix=inbox
                )
            except (OSError, NoServersError):
                await asyncio.sleep(0.05)


async def test_one_server(tmp_path: Path) -> None:
    """Each user logs in, streams are made by the one for it alone; somebody without a password does not log in."""
    async with servers(configuration("local", tmp_path), tmp_path, 1) as (at,):
        config = StreamConfig(name="trunkline_test", subjects=["trunkline.log.test.>"])
        for user in USERS:
            found = await client(user, at)
            making = found.jetstream(timeout=0.3).add_stream(config)
            if user == "keeper":
                await making
            else:
                with pytest.raises(nats.errors.TimeoutError):
                    await making
            await found.close()
        node = await client("node", at)
        assert (await node.jetstream().publish("trunkline.log.test.a", b"x")).seq == 1
        await node.close()
        with pytest.raises((NoServersError, nats.errors.Error)):
            await nats.connect(f"nats://127.0.0.1:{at.client}", allow_reconnect=False, max_reconnect_attempts=1)


async def test_three_servers_find_each_other_by_their_routes(tmp_path: Path) -> None:
    """Only as a cluster can they keep a stream three times."""
    async with servers(configuration("production", tmp_path), tmp_path, 3) as ports:
        keeper = await client("keeper", ports[0])
        async with asyncio.timeout(patient(20)):
            while True:
                try:
                    config = StreamConfig(name="trunkline_test", subjects=["trunkline.test"], num_replicas=3)
                    stream = await keeper.jetstream().add_stream(config)
                    break
                except nats.errors.Error:  # no leader yet
                    await asyncio.sleep(0.2)
        assert stream.cluster is not None
        assert len(stream.cluster.replicas or ()) == 2
        await keeper.close()


async def test_a_password_of_digits_is_refused_at_the_start(tmp_path: Path) -> None:
    """It would be a number to NATS: so the documentation makes passwords that begin with a letter."""
    assert SERVER is not None
    environ = {**os.environ, **PASSWORDS, "NODE_PASSWORD": "123456", "POD_NAME": "a"}
    checked = await asyncio.create_subprocess_exec(
        SERVER, "-t", "--config", str(configuration("local", tmp_path)), env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, said = await checked.communicate()
    assert checked.returncode != 0
    assert b"not string" in said


def test_accounts_are_those_of_the_template() -> None:
    """A kustomization reads nothing outside of its directory, so the block is here once more."""
    template = (ROOT / "deploy/nats/nats.conf").read_text()
    accounts = (KUSTOMIZE / "base/nats/accounts.conf").read_text()
    assert accounts == template[template.index("accounts {") :], "copy the block of deploy/nats/nats.conf"


def test_every_variable_of_the_configuration_is_in_the_pod() -> None:
    """From the Secret of passwords, or written; and each server has a route to each."""
    found = objects(kustomized("production"))
    count = found["StatefulSet", "trunkline-nats"]["spec"]["replicas"]
    own = container(dict(pods(kustomized("production")))["trunkline-nats"], "nats")
    names = [each["name"] for each in own["env"]]
    assert {f"ROUTE_{number}" for number in range(count)} <= set(names)
    # $(ROUTE_PASSWORD) is replaced by what stands before it alone.
    assert all(names.index("ROUTE_PASSWORD") < names.index(f"ROUTE_{number}") for number in range(count))
    conf = (KUSTOMIZE / "components/three-nats/cluster.conf").read_text()
    assert all(f"$ROUTE_{number}" in conf for number in range(count))
    service = found["StatefulSet", "trunkline-nats"]["spec"]["serviceName"]
    for each in own["env"]:
        if each["name"].startswith("ROUTE_") and "value" in each:
            number = each["name"].removeprefix("ROUTE_")
            assert each["value"] == f"nats://route:$(ROUTE_PASSWORD)@trunkline-nats-{number}.{service}:6222"
