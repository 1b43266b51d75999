"""Labelled services of a real Swarm of one machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.support.balancer.told_lists import running
from tests.support.docker.labelled import IMAGE, PORT, LabelledContainers, labelled_containers

pytest.importorskip("aiodocker", reason="Docker discovery needs the package aiodocker")
from trunkline.balancer.sources.docker.swarm import SwarmSource
from trunkline.docker.endpoint import Endpoint

Logged = Callable[[str], Awaitable[Any]]


@pytest.fixture(scope="module")
def manager() -> Iterator[LabelledContainers]:
    with labelled_containers() as daemon:
        yield daemon


async def create(manager: LabelledContainers, name: str, labels: dict[str, str], network: str = "mesh") -> None:
    """Create a service of one task, which needs a while to end."""
    serve = (
        f"trap 'sleep 6; exit' TERM; /bin/busybox httpd -p {PORT} -h /www; while true; do /bin/busybox sleep 0.1; done"
    )
    container = {
        "Image": IMAGE,
        "Command": ["/bin/busybox", "sh", "-c", serve.replace("b ", "/bin/busybox ")],
        "StopGracePeriod": 10_000_000_000,
    }
    ports = [{"TargetPort": PORT, "PublishedPort": 18_080}] if network == "mesh" else []
    body = {
        "Name": name,
        "Labels": labels,
        "TaskTemplate": {"ContainerSpec": container, "Networks": [{"Target": network}]},
        "Mode": {"Replicated": {"Replicas": 1}},
        "EndpointSpec": {"Ports": ports},
    }
    await manager.ask("POST", "/services/create", json=body)


async def scale(manager: LabelledContainers, name: str, tasks: int) -> None:
    """Have so many tasks of a service."""
    there = await manager.ask("GET", f"/services/{name}")
    spec = {**there["Spec"], "Mode": {"Replicated": {"Replicas": tasks}}}
    await manager.ask("POST", f"/services/{name}/update", params={"version": there["Version"]["Index"]}, json=spec)


async def addresses(manager: LabelledContainers, name: str) -> list[str]:
    """Of the containers of a service, in the network `mesh`."""
    filters = f'{{"label":["com.docker.swarm.service.name={name}"]}}'
    found = await manager.ask("GET", "/containers/json", params={"filters": filters})
    return sorted(one["NetworkSettings"]["Networks"]["mesh"]["IPAddress"] for one in found)


@pytest.mark.timeout(120)  # Swarm starts a task in a second, and stops it slowly
async def test_services_of_a_swarm(manager: LabelledContainers, logged: Logged) -> None:
    """Each running task is a backend at its own address, drains when Swarm stops it, and is gone when it has ended."""
    source = SwarmSource(Endpoint(manager.endpoint))
    async with running(source) as lists:
        await lists.until_urls()
        assert "not a swarm manager" in (await logged("docker_lost"))["why"]
        await manager.ask("POST", "/swarm/init", json={"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1"})
        await manager.ask("POST", "/networks/create", json={"Name": "mesh", "Driver": "overlay"})
        labels = {"trunkline.enable": "true", "trunkline.port": str(PORT), "trunkline.colour": "blue"}
        await create(manager, "shop", labels)
        await create(manager, "unlabelled", {}, "host")
        await create(manager, "noport", {"trunkline.enable": "true"}, "host")
        await create(manager, "onhost", {**labels, "trunkline.port": "18999"}, "host")
        await logged("docker_back")
        host, spec = await lists.until(lambda specs: len(specs) == 2, within_s=40)
        assert host.url == "http://127.0.0.1:18999"
        line = await logged("docker_container_left_out")
        assert line["container"].startswith("noport.1.")
        assert line["why"] == "it exposes no TCP port; name one with trunkline.port"
        assert (spec.group, spec.source, spec.draining) == ("blue", "swarm", False)
        assert spec.name.startswith("shop.1.")
        assert spec.url == f"http://{(await addresses(manager, 'shop'))[0]}:{PORT}"

        await scale(manager, "shop", 2)
        _, *specs = await lists.until(lambda specs: len(specs) == 3, within_s=30)
        assert sorted(spec.url for spec in specs) == [
            f"http://{address}:{PORT}" for address in await addresses(manager, "shop")
        ]
        await scale(manager, "shop", 1)
        await lists.until(lambda specs: sorted(spec.draining for spec in specs) == [False, False, True], within_s=20)
        await lists.until(lambda specs: len(specs) == 2, within_s=40)
