"""`trunkline balance` at SIGHUP: one process or several take over what they can, all or nothing, and clients stay."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import ClientSession
from websockets.asyncio.client import connect

from tests.support.balancer.authority import Authority
from tests.support.balancer.balance_process import Command, ForeignBackend, close_all, connect_many, until
from tests.support.balancer.relay_peers import Wire
from tests.support.free_ports import free_port
from tests.support.patience import patient
from tests.support.reloads import Reloads

Start = Callable[..., Awaitable[Command]]


def toml(*backends: ForeignBackend, **values: Any) -> str:
    """A settings file."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    entries = [f'[[balancer.backends]]\nurl = "{backend.url}"' for backend in backends]
    return "\n".join(["[balancer]", *lines, *entries, ""])


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_balancer_reads_its_file_again(
    start_balancer: Start, foreign: list[ForeignBackend], tmp_path: Path, workers: int
) -> None:
    """A backend comes and goes, headers and limits change in every process, and who is relayed stays."""
    one, two = foreign[:2]
    file = tmp_path / "trunkline.toml"
    file.write_text(toml(one, workers=workers))
    balancer = Reloads(await start_balancer(), file)
    port = balancer.command.port
    clients = await connect_many(port, 4)
    text = toml(two, workers=workers + 1, exempt=[], handshake_burst=3, handshake_per_s=0.001)
    text = text.replace("[[", "response_headers = [{name = 'X-Team', value = 'shop'}]\n[[", 1)
    done = await balancer(text)
    assert done["changed"] == [
        "balancer.backends", "balancer.handshake_burst", "balancer.handshake_per_s", "balancer.exempt",
        "balancer.response_headers",
    ]  # fmt: skip
    assert (await balancer.hear("settings_need_restart"))["text"] == "balancer.workers: restart"
    await until(lambda seen: [each["url"] for each in seen["services"]] == [two.url], balancer.command)
    async with asyncio.timeout(patient(10)):
        # A worker takes them over a moment after the first process.
        while await _team(port) != "shop":
            await asyncio.sleep(0.02)
    assert 429 in [await _status(port) for _ in range(3 * workers + 1)]
    for client in clients:
        await client.send("still here")
        assert await client.recv() == "still here"
    assert (len(one.open), len(two.open)) == (4, 0)
    await close_all(clients)


async def _team(port: int) -> str | None:
    """A header of a plain answer."""
    wire = await Wire.connect(port)
    wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await wire.answer()
    wire.close()
    return answer.headers.get("x-team")


async def _shown(port: int, authority: Authority) -> str:
    """Common name of the certificate that a new handshake is shown."""
    wire = await Wire.connect(port, ssl=authority.client())
    subject = wire.writer.get_extra_info("peercert")["subject"]
    wire.close()
    return next(value for part in subject for name, value in part if name == "commonName")


async def _status(port: int) -> int:
    wire = await Wire.connect(port)
    wire.send(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    status = (await wire.answer()).status
    wire.close()
    return status


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_cannot_be_used_changes_nothing_in_any_process(
    start_balancer: Start, foreign: list[ForeignBackend], tmp_path: Path, workers: int
) -> None:
    """A certificate without its key: the backend beside it is not taken either, and the next good file counts."""
    authority = Authority(tmp_path)
    authority.sign(tmp_path / "edge.pem", "edge")
    cert, _ = authority.sign(tmp_path / "whole.pem", "whole")
    (tmp_path / "half.pem").write_bytes(cert)
    one, two = foreign[:2]
    file = tmp_path / "trunkline.toml"
    file.write_text(toml(one, workers=workers, tls_cert_file=str(tmp_path / "edge.pem")))
    balancer = Reloads(await start_balancer(), file)
    client = await connect(f"wss://127.0.0.1:{balancer.command.port}/ws", ssl=authority.client(), proxy=None)
    refused = await balancer(toml(two, workers=workers, tls_cert_file=str(tmp_path / "half.pem")))
    assert refused["event"] == "settings_reload_refused"
    assert "balancer.tls_cert_file" in refused["text"]
    await until(lambda seen: [each["url"] for each in seen["services"]] == [one.url], balancer.command)
    done = await balancer(toml(two, workers=workers, tls_cert_file=str(tmp_path / "whole.pem")))
    assert done["changed"] == ["balancer.backends", "balancer.tls_cert_file"]
    async with asyncio.timeout(patient(10)):
        # A worker takes it over a moment after the first process.
        while await _shown(balancer.command.port, authority) != "whole":
            await asyncio.sleep(0.02)
    await client.send("still here")
    assert await client.recv() == "still here"
    await client.close()


async def test_workers_are_asked_by_the_first_process_alone(
    start_balancer: Start, foreign: list[ForeignBackend], tmp_path: Path
) -> None:
    """A signal to the whole group ends none of them; one that is started later begins with the settings of now."""
    file = tmp_path / "trunkline.toml"
    file.write_text(toml(foreign[0], workers=1 + 1))
    balancer = Reloads(await start_balancer(), file)
    workers = [
        child
        for child in psutil.Process(balancer.command.process.pid).children()
        if "trunkline.balancer.workers.child" in child.cmdline()
    ]
    clients = await connect_many(balancer.command.port, 4)
    for worker in workers:
        worker.send_signal(signal.SIGHUP)
    text = toml(foreign[0], workers=2).replace("[[", "response_headers = [{name = 'X-Team', value = 'shop'}]\n[[", 1)
    assert (await balancer(text))["event"] == "settings_reloaded"
    for client in clients:
        await client.send("still here")
        assert await client.recv() == "still here"
    await close_all(clients)
    for worker in workers:
        worker.kill()
    async with asyncio.timeout(patient(10)):
        # Clients wait in the socket's queue until there is a worker again.
        assert await _team(balancer.command.port) == "shop"


async def test_a_steering_balancer(start_balancer: Start, foreign: list[ForeignBackend], tmp_path: Path) -> None:
    """Its list of backends and its admin token."""
    token = tmp_path / "token"
    token.write_text("old-" + "0" * 32)
    file = tmp_path / "trunkline.toml"
    admin = f'[admin]\ntoken_file = "{token}"\n'
    file.write_text(admin + toml(foreign[0], mode="steer"))
    balancer = Reloads(await start_balancer("--listen", f"127.0.0.1:{free_port()}"), file)
    url = f"http://127.0.0.1:{balancer.command.up['admin_port']}/api/traffic"

    async def status() -> int:
        headers = {"Authorization": f"Bearer {'new-' + '0' * 32}"}
        async with ClientSession() as http, http.put(url, headers=headers, json={}) as answer:
            return answer.status

    assert await status() == 401
    token.write_text("new-" + "0" * 32)
    assert (await balancer(admin + toml(foreign[1], mode="steer")))["changed"] == ["balancer.backends"]
    assert await status() != 401
    await until(lambda seen: [each["url"] for each in seen["services"]] == [foreign[1].url], balancer.command)
