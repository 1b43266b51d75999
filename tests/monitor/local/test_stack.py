"""The local stack: which targets it makes of a balancer's answer, and what it does when something is wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from tests.support.free_ports import free_port, free_ports
from tests.support.monitor.watchers import ALERTMANAGER, answer, needs
from tests.support.patience import patient
from trunkline.errors import StartError
from trunkline.monitor.local.ports import ALERTMANAGER_STEP, SPAN
from trunkline.monitor.local.stack import PROMETHEUS, Ended, LocalStack
from trunkline.monitor.local.targets import Overview, Service, Targets, targets_json, targets_of
from trunkline.settings.sections import Settings

real = needs("prometheus", ALERTMANAGER, "prometheus-node-exporter")
NOWHERE = "http://127.0.0.1:1"


def test_targets_have_the_labels_that_the_balancer_knows() -> None:
    """Name and group become labels, and what is empty becomes none; the order is that of the URLs."""
    overview = Overview([Service("http://10.0.0.2:3001"), Service("http://10.0.0.1:3001", "one", "blue")])
    assert targets_of(overview) == [
        Targets(("10.0.0.1:3001",), {"node": "one", "colour": "blue"}),
        Targets(("10.0.0.2:3001",), {}),
    ]


@pytest.mark.parametrize(
    ("url", "target"),
    [("http://[::1]:3001", "[::1]:3001"), ("http://node", "node:80"), ("http://node:3001/ws", "node:3001")],
)
def test_target_is_host_and_port(url: str, target: str) -> None:
    """IPv6 keeps its brackets, a URL without port is port 80, a path goes."""
    assert targets_of(Overview([Service(url)])) == [Targets((target,), {})]


@pytest.mark.parametrize("url", ["", "node:3001", "https://node:3001", "http://", "http://node:x", "http://[::1"])
def test_backend_that_cannot_be_scraped_is_left_out(url: str) -> None:
    """One odd URL does not cost the others their place."""
    overview = Overview([Service(url), Service("http://10.0.0.1:3001")])
    assert [each.targets for each in targets_of(overview)] == [("10.0.0.1:3001",)]


def test_targets_file_is_a_list_even_when_empty() -> None:
    """Prometheus takes an empty list, and reads back what was written."""
    assert msgspec.json.decode(targets_json([])) == []
    made = [Targets(("10.0.0.1:3001",), {"node": "one"})]
    assert msgspec.json.decode(targets_json(made)) == [{"targets": ["10.0.0.1:3001"], "labels": {"node": "one"}}]


@pytest.mark.parametrize("fleet", ["127.0.0.1:8081", "https://a:1", "http://", "http://a:x", "http://a:1/x", ""])
async def test_address_that_is_none_is_refused(tmp_path: Path, fleet: str) -> None:
    """Prometheus would get half an address; nothing is written."""
    with pytest.raises(StartError, match="http://HOST:PORT"):
        await LocalStack.start(Settings(), tmp_path / "data", fleet, free_ports(SPAN))
    assert not (tmp_path / "data").exists()


@asynccontextmanager
async def fleet_that_says(bodies: list[bytes]) -> AsyncIterator[str]:
    """A balancer's address whose answer is the first of these bodies, sent in two pieces."""

    async def overview(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        half = len(bodies[0]) // 2
        await response.write(bodies[0][:half])
        await asyncio.sleep(0.02)  # so that they arrive apart
        await response.write(bodies[0][half:])
        return response

    application = web.Application()
    application.router.add_get("/balancer-metrics", overview)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@real
async def test_fleet_that_answers_garbage_is_told_and_asked_again(tmp_path: Path) -> None:
    """The stack starts without targets, says why, and has them when the answer makes sense; the directory is locked."""
    bodies = [b'{"services":[{"url":"\xff"}]}']
    async with fleet_that_says(bodies) as fleet:
        stack = await LocalStack.start(Settings(), tmp_path, fleet, free_ports(SPAN))
        try:
            targets = tmp_path / "targets/nodes.json"
            assert stack.silence == "its answer is not that of a balancer"
            assert msgspec.json.decode(targets.read_bytes()) == []
            for worse in (b"[" * 100_000, b"{}", b""):
                bodies[0] = worse
                await stack._follow_once()
                assert stack.silence
            bodies[0] = b'{"services":[{"url":"http://10.0.0.1:3001"}],"more":1}'
            await stack._follow_once()
            assert not stack.silence
            assert b"10.0.0.1:3001" in targets.read_bytes()
            with pytest.raises(StartError, match="in use by another"):
                await LocalStack.start(Settings(), tmp_path, fleet, free_ports(SPAN))
            assert b"10.0.0.1:3001" in targets.read_bytes()
        finally:
            await stack.stop()


@real
async def test_program_that_ends_ends_the_stack(tmp_path: Path) -> None:
    """Prometheus is killed: it is named with its signal, and after the stop the directory and ports are free."""
    first = free_ports(SPAN)
    stack = await LocalStack.start(Settings(), tmp_path, NOWHERE, first)
    try:
        assert stack.silence
        assert (await answer(f"{stack.addresses.prometheus}/api/v1/status/runtimeinfo"))["status"] == "success"
        watching = asyncio.create_task(stack.watch())
        os.kill(stack._running[PROMETHEUS].pid, signal.SIGKILL)
        with pytest.raises(Ended, match="Prometheus was ended by SIGKILL"):
            await asyncio.wait_for(watching, patient(10))
    finally:
        await stack.stop()
    again = await LocalStack.start(Settings(), tmp_path, NOWHERE, first)
    await again.stop()


@real
async def test_taken_port_is_named_before_anything_is_written(tmp_path: Path) -> None:
    """Alertmanager's port is taken."""
    first = free_ports(SPAN)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first + ALERTMANAGER_STEP))
        taken.listen()
        with pytest.raises(StartError, match=rf"port {first + ALERTMANAGER_STEP} on 127\.0\.0\.1"):
            await LocalStack.start(Settings(), tmp_path / "data", NOWHERE, first)
    assert not (tmp_path / "data").exists()


@real
async def test_command_ends_with_a_signal(tmp_path: Path) -> None:
    """SIGTERM ends `monitor up` with 0; it has said that the fleet is silent."""
    command = ("monitor", "up", "--fleet", NOWHERE, "--port", "0", "--data-dir", str(tmp_path), "--json")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", *command, cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), patient(30))
        process.terminate()
        _, errors = await asyncio.wait_for(process.communicate(), patient(20))
        assert process.returncode == 0, errors
        assert b"reports no nodes" in errors
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
