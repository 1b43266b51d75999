"""Labelled containers of a real Docker daemon that the tests start themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support.balancer.told_lists import running
from tests.support.docker.labelled import PORT, LabelledContainers
from trunkline.placement.backend import BackendSpec

pytest.importorskip("aiodocker", reason="Docker discovery needs the package aiodocker")
from tests.support.patience import patient
from trunkline.balancer.sources.docker.containers import DockerSource
from trunkline.docker.endpoint import Endpoint

OURS = {"trunkline.enable": "true"}
Logged = Callable[[str], Awaitable[Any]]


async def test_labelled_containers_are_backends_that_answer(daemon: LabelledContainers) -> None:
    """Those that run when the balancer starts and those that start later are told, at addresses that answer."""
    labels = {
        **OURS,
        "trunkline.port": str(PORT),
        "trunkline.weight": "2",
        "trunkline.colour": "green",
        "trunkline.health-path": "/health",
        "trunkline.pool": "match",
        "trunkline.capacity": "50",
    }
    await daemon.run("first", labels)
    await daemon.run("stranger")
    async with running(DockerSource(Endpoint(daemon.endpoint))) as lists:
        url = f"http://{await daemon.address('first', 'front')}:{PORT}"
        await lists.until_urls(url)
        assert lists.last == (BackendSpec(url, 2.0, "green", "match", 50, "/health", source="docker", name="first"),)
        address = await daemon.address("first", "front")
        async with (
            daemon.namespace.forwarded(PORT, address) as port,
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{port}/health") as answer,
        ):
            assert await answer.text() == "ok"
        service = "traefik.http.services.ws.loadbalancer"
        traefik = {"traefik.enable": "true", f"{service}.server.port": str(PORT), f"{service}.server.weight": "3"}
        await daemon.run("second", traefik)
        specs = await lists.until(lambda specs: len(specs) == 2)
        assert specs[1].url == f"http://{await daemon.address('second', 'front')}:{PORT}"
        assert specs[1].weight == 3.0
        await daemon.act("first", "kill")
        await lists.until(lambda specs: [spec.name for spec in specs] == ["second"])


async def test_a_container_told_to_stop_drains_before_it_is_gone(daemon: LabelledContainers) -> None:
    """`docker stop` gives it time to end; in that time it gets no more connections, and then it is removed."""
    await daemon.run("one", OURS)
    async with running(DockerSource(Endpoint(daemon.endpoint))) as lists:
        await lists.until(lambda specs: len(specs) == 1)
        # The first process of a container ignores SIGTERM unless it handles it, so this one lives to the SIGKILL.
        stopping = asyncio.create_task(daemon.act("one", "stop", t="2"))
        await lists.until(lambda specs: len(specs) == 1 and specs[0].draining, within_s=1.5)
        assert not stopping.done()
        await lists.until_urls()
        await stopping
        await daemon.act("one", "start")
        await lists.until(lambda specs: len(specs) == 1 and not specs[0].draining)


async def test_a_signal_that_ends_nothing_drains_nothing(daemon: LabelledContainers) -> None:
    """SIGHUP asks for a reload, unless it is the container's own stop signal."""
    await daemon.run("reloads", OURS)
    await daemon.run("ends", OURS, StopSignal="SIGHUP")
    async with running(DockerSource(Endpoint(daemon.endpoint))) as lists:
        await lists.until(lambda specs: len(specs) == 2)
        await daemon.act("reloads", "kill", signal="HUP")
        await daemon.act("ends", "kill", signal="HUP")
        await lists.until(lambda specs: [spec.draining for spec in specs] == [True, False])


async def test_a_paused_container_drains(daemon: LabelledContainers) -> None:
    """Its connections go on when it does, so it stays in the list."""
    await daemon.run("one", OURS)
    async with running(DockerSource(Endpoint(daemon.endpoint))) as lists:
        await lists.until(lambda specs: len(specs) == 1)
        await daemon.act("one", "pause")
        await lists.until(lambda specs: [spec.draining for spec in specs] == [True])
        await daemon.act("one", "unpause")
        await lists.until(lambda specs: [spec.draining for spec in specs] == [False])


async def test_a_containers_own_health_check_counts(daemon: LabelledContainers) -> None:
    """It joins when its check passes first, drains while it fails, and is back when it passes again."""
    check = {"Test": ["CMD", "/bin/busybox", "test", "-f", "/ok"], "Interval": 200_000_000, "Retries": 1}
    check["StartPeriod"] = 60_000_000_000
    await daemon.run("one", OURS, Healthcheck=check)
    async with running(DockerSource(Endpoint(daemon.endpoint))) as lists:
        await lists.until_urls()
        await daemon.execute("one", "touch", "/ok")
        await lists.until(lambda specs: [spec.draining for spec in specs] == [False])
        await daemon.execute("one", "rm", "/ok")
        await lists.until(lambda specs: [spec.draining for spec in specs] == [True])
        await daemon.execute("one", "touch", "/ok")
        await lists.until(lambda specs: [spec.draining for spec in specs] == [False])


async def test_the_network_may_come_and_go(daemon: LabelledContainers, logged: Logged) -> None:
    """A container outside the balancer's network is left out with a reason, and taken when it is connected."""
    await daemon.run("one", OURS)
    async with running(DockerSource(Endpoint(daemon.endpoint), "back")) as lists:
        await lists.until_urls()
        line = await logged("docker_container_left_out")
        assert (line["container"], line["why"]) == ("one", "it is not in the network back; its networks: front")
        await daemon.ask("POST", "/networks/back/connect", json={"Container": "one"})
        await lists.until_urls(f"http://{await daemon.address('one', 'back')}:{PORT}")
        await daemon.ask("POST", "/networks/back/disconnect", json={"Container": "one"})
        await lists.until_urls()


async def test_the_hosts_network(daemon: LabelledContainers) -> None:
    """A container in its machine's network is reached at the daemon's machine."""
    await daemon.run("one", {**OURS, "trunkline.port": "18999"}, HostConfig={"NetworkMode": "host"})
    async with running(DockerSource(Endpoint(daemon.endpoint), "front")) as lists:
        await lists.until_urls("http://127.0.0.1:18999")


async def test_a_wrong_label_is_one_log_line(daemon: LabelledContainers, logged: Logged, lines: list[Any]) -> None:
    """The container is left out and named once; the others are told."""
    await daemon.run("bad", {**OURS, "trunkline.weight": "heavy"})
    await daemon.run("good", OURS)
    async with running(DockerSource(Endpoint(daemon.endpoint))) as lists:
        await lists.until(lambda specs: [spec.name for spec in specs] == ["good"])
        line = await logged("docker_container_left_out")
        assert line["container"] == "bad"
        assert line["why"].startswith("label trunkline.weight: 'heavy' cannot be used; allowed: a number from 0 to")
        await daemon.act("good", "pause")
        await lists.until(lambda specs: specs[0].draining)
        await daemon.act("good", "unpause")
        assert [line["event"] for line in lines].count("docker_container_left_out") == 1


async def test_a_daemon_that_is_restarted(daemon: LabelledContainers, logged: Logged, lines: list[Any]) -> None:
    """While it is away its backends stay; what came up with it, and what did not, is told once it is back."""
    await daemon.run("stays", OURS, HostConfig={"RestartPolicy": {"Name": "always"}})
    await daemon.run("ends", OURS)
    async with running(DockerSource(Endpoint(daemon.endpoint))) as lists:
        await lists.until(lambda specs: len(specs) == 2)
        # A crash, for at an orderly end the daemon stops its containers first and says so.
        await asyncio.to_thread(daemon.crash)
        line = await logged("docker_lost")
        assert line["keeps_backends"] == 2
        assert [spec.name for spec in lists.last] == ["ends", "stays"]
        await asyncio.to_thread(daemon.start)
        await logged("docker_back")
        await lists.until(
            lambda specs: [spec.name for spec in specs] == ["stays"] and not specs[0].draining, within_s=30
        )
        await daemon.run("new", OURS)
        await lists.until(lambda specs: [spec.name for spec in specs] == ["new", "stays"])
        assert [line["event"] for line in lines].count("docker_lost") == 1


async def test_a_daemon_that_answers_badly(tmp_path: Any, logged: Logged, lines: list[Any]) -> None:
    """Answers that make no sense lose no backend; over TCP its host is that of containers in the host's network."""
    labels = {**OURS, "trunkline.port": "7000"}
    container = {
        "Id": "c1",
        "Name": "/one",
        "State": {"Status": "running", "StartedAt": "2026-01-01T00:00:00Z"},
        "Config": {"Labels": labels},
        "NetworkSettings": {"Networks": {"host": {"IPAddress": ""}}, "Ports": {}},
        "HostConfig": {"NetworkMode": "host"},
    }
    listing: Any = [{"Id": "c1", "Labels": labels}, {"Id": "gone", "Labels": labels}]
    events = [b"no json\n"]
    followed = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        match request.path.rpartition("/v1.41/")[2]:
            case "info":
                return web.json_response({"SystemTime": "2026-01-01T00:00:00.123456789+02:00"})
            case "containers/json":
                return web.json_response(listing)
            case "containers/c1/json":
                return web.json_response(container)
            case "events":
                assert request.query["since"] == "1767218400.123456"
                stream = web.StreamResponse(headers={"Content-Type": "application/json"})
                await stream.prepare(request)
                for event in events:
                    await stream.write(event)
                if not events:
                    followed.set()
                    await asyncio.sleep(60)
                return stream
            case "/version":
                return web.json_response({"ApiVersion": "1.41"})
        return web.json_response({"message": "no such container"}, status=404)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with running(DockerSource(Endpoint(f"tcp://127.0.0.1:{port}"))) as lists:
            await lists.until_urls("http://127.0.0.1:7000")
            await logged("docker_lost")
            listing = {"surprise": 1}
            events.clear()
            await asyncio.sleep(0.6)
            assert lists.urls == ["http://127.0.0.1:7000"]
            listing = [{"Id": "c1", "Labels": labels}]
            async with asyncio.timeout(patient(10)):
                await followed.wait()
            assert len(lists.all) == 1
    finally:
        await runner.cleanup()


async def test_no_daemon_yet(tmp_path: Any, logged: Logged) -> None:
    """The list is told empty and one line says why."""
    async with running(DockerSource(Endpoint(f"unix://{tmp_path}/none.sock"))) as lists:
        await lists.until_urls()
        assert (await logged("docker_lost"))["why"] == "No such file or directory"
