"""Containers of a new colour on a real Docker daemon."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.docker.labelled import PORT, LabelledContainers
from tests.support.patience import patient

pytest.importorskip("aiodocker", reason="the runtime needs the package aiodocker")
from trunkline.deploy.runtimes.base import Runtime, RuntimeFailed, RuntimeNode, What
from trunkline.deploy.runtimes.docker.runtime import DockerRuntime, Scope
from trunkline.docker.endpoint import Endpoint

BLUE = {
    "trunkline.enable": "true",
    "trunkline.colour": "blue",
    "com.docker.compose.project": "shop",
    "com.docker.compose.service": "websocket-blue",
    "com.docker.compose.container-number": "1",
}


def runtime_on(daemon: LabelledContainers, *, deploy: str = "d1", project: str = "", old: str = "blue") -> Runtime:
    """That of one deploy from blue to green."""
    return DockerRuntime(Endpoint(daemon.endpoint), Scope(deploy, old, "green", project))


async def inspected(daemon: LabelledContainers, name: str) -> Any:
    """A container as the daemon describes it."""
    return await daemon.ask("GET", f"/containers/{name}/json")


async def names(daemon: LabelledContainers) -> list[str]:
    """Of all containers, those that do not run too."""
    found = await daemon.ask("GET", "/containers/json", params={"all": "1"})
    return sorted(one["Names"][0].removeprefix("/") for one in found)


async def gives_up(runtime: Runtime) -> RuntimeNode:
    """The first node of green that is not started again."""
    async with asyncio.timeout(patient(20)):
        while True:
            for node in await runtime.list("green"):
                if node.given_up or node.failures >= 3:
                    return node
            await asyncio.sleep(0.05)


async def test_new_containers_are_made_from_present_ones(daemon: LabelledContainers) -> None:
    """Environment, networks, limits and health check are kept; who it is becomes the new colour's."""
    check = {"Test": ["CMD", "/bin/busybox", "true"], "Interval": 60_000_000_000}
    await daemon.run(
        "websocket-blue",
        BLUE,
        Env=["TRUNKLINE_SERVER_COLOUR=blue", "TRUNKLINE_SERVER_NAME=websocket-blue", "DATABASE=blue"],
        Healthcheck=check,
        Hostname="websocket-blue",
        HostConfig={"Memory": 64 << 20, "NanoCpus": 500_000_000, "ReadonlyRootfs": True, "Tmpfs": {"/tmp": ""}},
        NetworkingConfig={"EndpointsConfig": {"front": {"Aliases": ["websocket-blue", "nodes"]}}},
    )
    await daemon.ask("POST", "/networks/back/connect", json={"Container": "websocket-blue"})
    runtime = runtime_on(daemon)
    assert await runtime.check("green", What(version="2")) == ""
    await runtime.ensure("green", 1, What(version="2"))
    assert await runtime.list("green") == (RuntimeNode("websocket-green", "green", running=True),)
    made = await inspected(daemon, "websocket-green")
    assert set(made["Config"]["Env"]) == {
        "TRUNKLINE_SERVER_COLOUR=green", "TRUNKLINE_SERVER_NAME=websocket-green", "TRUNKLINE_SERVER_VERSION=2",
        "DATABASE=blue",
    }  # fmt: skip
    labels = made["Config"]["Labels"]
    assert labels.pop("com.docker.compose.image") == made["Image"]
    assert labels == {
        **BLUE, "trunkline.colour": "green", "trunkline.deploy": "d1", "com.docker.compose.service": "websocket-green",
    }  # fmt: skip
    assert made["Config"]["Healthcheck"]["Test"] == check["Test"]
    assert made["Config"]["Hostname"] == "websocket-green"
    host = made["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["ReadonlyRootfs"]) == (64 << 20, 500_000_000, True)
    networks = made["NetworkSettings"]["Networks"]
    assert set(networks) == {"front", "back"}
    assert {"websocket-green", "nodes"} <= set(networks["front"]["Aliases"])
    assert "websocket-blue" not in networks["front"]["Aliases"]


async def test_orders_are_absolute(daemon: LabelledContainers) -> None:
    """Given twice they do nothing more; another process of the same deploy finds what the first one made."""
    await daemon.run("websocket-blue", BLUE)
    runtime = runtime_on(daemon)
    await runtime.ensure("green", 2, What())
    first = await runtime.list("green")
    assert [node.name for node in first] == ["websocket-green", "websocket-green-2"]
    await runtime_on(daemon).ensure("green", 2, What())
    assert await runtime.list("green") == first
    await runtime.ensure("green", 1, What())
    assert [node.name for node in await runtime.list("green")] == ["websocket-green"]
    await runtime.remove("green")
    await runtime.remove("green")
    assert await names(daemon) == ["websocket-blue"]
    await runtime.ensure("green", 1, What())
    await runtime.remove("blue")
    assert await names(daemon) == ["websocket-green"]


async def test_what_was_created_and_not_started_is_started(daemon: LabelledContainers) -> None:
    """A tool may end between the two, and before it is in all networks."""
    await daemon.run("websocket-blue", BLUE)
    await daemon.create("websocket-green", {**BLUE, "trunkline.colour": "green", "trunkline.deploy": "d1"})
    runtime = runtime_on(daemon)
    await daemon.ask("POST", "/networks/back/connect", json={"Container": "websocket-blue"})
    assert not (await runtime.list("green"))[0].running
    await runtime.ensure("green", 1, What())
    assert (await runtime.list("green"))[0].running
    networks = (await inspected(daemon, "websocket-green"))["NetworkSettings"]["Networks"]
    assert set(networks) == {"front", "back"}


async def test_the_colour_goes_back_and_forth(daemon: LabelledContainers) -> None:
    """Names, and what Compose knows a container by, are those of the first one again."""
    await daemon.run("shop-websocket-blue-1", BLUE)
    await runtime_on(daemon).ensure("green", 1, What())
    await runtime_on(daemon).remove("blue")
    back = DockerRuntime(Endpoint(daemon.endpoint), Scope("d2", "green", "blue"))
    await back.ensure("blue", 1, What())
    await back.remove("green")
    assert await names(daemon) == ["shop-websocket-blue-1"]
    labels = (await inspected(daemon, "shop-websocket-blue-1"))["Config"]["Labels"]
    labels.pop("com.docker.compose.image")
    assert labels == {**BLUE, "trunkline.deploy": "d2"}


async def test_another_image_brings_what_it_says_itself(daemon: LabelledContainers) -> None:
    """What the present container has from its image is not carried into the next one."""
    changes = ["ENV RELEASE=1", 'LABEL maker="one"', f'CMD ["/bin/busybox","httpd","-f","-p","{PORT}","-h","/www"]']
    await daemon.make_image("shop:1", changes)
    await daemon.make_image("shop:2", [change.replace("=1", "=2").replace("one", "two") for change in changes])
    await daemon.run("websocket-blue", BLUE, Image="shop:1", Cmd=None, Env=["MINE=yes"])
    runtime = runtime_on(daemon)
    assert await runtime.check("green", What(image="shop:2")) == ""
    await runtime.ensure("green", 1, What(image="shop:2"))
    config = (await inspected(daemon, "websocket-green"))["Config"]
    assert set(config["Env"]) >= {"MINE=yes", "RELEASE=2"}
    assert "RELEASE=1" not in config["Env"]
    assert (config["Labels"]["maker"], config["Image"]) == ("two", "shop:2")


async def test_a_container_of_the_new_colour_that_does_not_run_is_the_model(daemon: LabelledContainers) -> None:
    """What `docker compose create` made says what its operator wants of this colour."""
    await daemon.run("websocket-blue", BLUE)
    green = {**BLUE, "trunkline.colour": "green", "com.docker.compose.service": "websocket-green"}
    await daemon.create("websocket-green", green, Env=["TRUNKLINE_SERVER_COLOUR=green", "FEATURE=on"])
    runtime = runtime_on(daemon)
    assert await runtime.check("green", What()) == ""
    await runtime.ensure("green", 1, What())
    made = await inspected(daemon, "websocket-green")
    assert "FEATURE=on" in made["Config"]["Env"]
    assert (made["Config"]["Labels"]["trunkline.deploy"], made["State"]["Running"]) == ("d1", True)


async def test_a_container_that_ends_says_why(daemon: LabelledContainers) -> None:
    """One that is not started again is given up, with its code; its last lines can be read."""
    words = "echo the database is missing; exit 3"
    await daemon.run("websocket-blue", BLUE)
    await daemon.make_image("broken:1", ["ENV BROKEN=1"])
    await daemon.create(
        "websocket-green", {**BLUE, "trunkline.colour": "green"}, Cmd=["/bin/busybox", "sh", "-c", words]
    )
    runtime = runtime_on(daemon)
    await runtime.ensure("green", 1, What(image="broken:1"))
    assert (await gives_up(runtime)).given_up == "it exited with code 3"
    assert await runtime.logs("websocket-green") == ("the database is missing",)
    assert await runtime.logs("nobody") == ()


async def test_a_container_that_is_started_again_and_again_counts(daemon: LabelledContainers) -> None:
    """By its restart policy the daemon starts it again; a deploy gives up on it after some times."""
    await daemon.run("websocket-blue", BLUE)
    always = {"RestartPolicy": {"Name": "unless-stopped"}}
    crash = ["/bin/busybox", "false"]
    await daemon.create("websocket-green", {**BLUE, "trunkline.colour": "green"}, Cmd=crash, HostConfig=always)
    runtime = runtime_on(daemon)
    await runtime.ensure("green", 1, What())
    assert (await gives_up(runtime)).failures >= 3
    await runtime.remove("green")
    assert await names(daemon) == ["websocket-blue"]


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (What(image="no-such-image:9"), "there is no image no-such-image:9 on unix://"),
        (What(app="shop:app"), "--app: a container runs what its image holds; name one with --image"),
    ],
)
async def test_what_cannot_be_started_is_found_before(daemon: LabelledContainers, what: What, why: str) -> None:
    """Nothing is created for a wrong order."""
    await daemon.run("websocket-blue", BLUE)
    assert (await runtime_on(daemon).check("green", what)).startswith(why)
    assert await names(daemon) == ["websocket-blue"]


async def test_what_stands_in_the_way_is_named(daemon: LabelledContainers) -> None:
    """A port that both would have, the machine's own network, a container of the new colour, no container at all."""
    runtime = runtime_on(daemon)
    assert "no container has the label trunkline.colour=blue" in await runtime.check("green", What())
    bindings = {"PortBindings": {f"{PORT}/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18123"}]}}
    await daemon.create("websocket-blue", BLUE, HostConfig={**bindings, "NetworkMode": "none"})
    assert await runtime.check("green", What()) == ""
    await daemon.clear()
    await daemon.run("websocket-blue", BLUE, HostConfig={"NetworkMode": "host"})
    assert "finds its port taken" in await runtime.check("green", What())
    await daemon.clear()
    await daemon.run("proxy")
    await daemon.run("websocket-blue", BLUE, HostConfig={"NetworkMode": "container:proxy"}, ExposedPorts={})
    assert "in the network of another container" in await runtime.check("green", What())
    await daemon.clear()
    await daemon.run("websocket-blue", BLUE)
    await daemon.run("websocket-green", {**BLUE, "trunkline.colour": "green"})
    assert "websocket-green of green runs already" in await runtime.check("green", What())


async def test_other_projects_are_left_alone(daemon: LabelledContainers) -> None:
    """Two fleets may be on one daemon: a deploy is for one of them, which has to be named."""
    await daemon.run("websocket-blue", BLUE)
    await daemon.run("theirs", {**BLUE, "com.docker.compose.project": "other"})
    assert "several projects of Compose (other, shop): name one with --project" in await runtime_on(daemon).check(
        "green", What()
    )
    runtime = runtime_on(daemon, project="shop")
    assert await runtime.check("green", What()) == ""
    await runtime.ensure("green", 1, What())
    # From here on it is known by what this deploy has made.
    await runtime_on(daemon).remove("blue")
    assert await names(daemon) == ["theirs", "websocket-green"]


async def test_a_daemon_that_cannot_be_reached(daemon: LabelledContainers) -> None:
    """Every request says so, and the next one asks again."""
    away = DockerRuntime(Endpoint("unix:///nowhere/docker.sock", source="DOCKER_HOST"), Scope("d1", "blue", "green"))
    why = "the Docker daemon at unix:///nowhere/docker.sock (DOCKER_HOST) cannot be reached: No such file or directory"
    assert (await away.check("green", What())).startswith(why)
    with pytest.raises(RuntimeFailed, match="cannot be reached"):
        await away.list("green")
    assert await away.logs("websocket-green") == ()
