"""Versions of real servers and programs, and why there is none."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.free_ports import free_port
from tests.support.patience import patient
from tests.support.traefik.live_traefik import TRAEFIK, running
from trunkline.doctor import asking
from trunkline.doctor.asking import ask_services
from trunkline.doctor.facts import Service
from trunkline.errors import SettingsError
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.nats import login

pytestmark = pytest.mark.process

REDIS = shutil.which("redis-server") or ""
SECRET = "a-secret-of-the-test"


async def asked(kind: str, **addresses: str) -> Service:
    """What was found of the one that has an address."""
    services = await ask_services(**addresses)
    return next(service for service in services if service.kind == kind)


async def test_nats_is_asked(tmp_path: Path) -> None:
    """Version, JetStream and the longest message; the log-in is not shown, nor in a refusal."""
    server = await NatsServer.start(tmp_path, token=SECRET, max_payload=70_000)
    try:
        found = await asked("NATS", nats=server.url)
        assert found.where == f"nats://127.0.0.1:{server.port}"
        assert (found.asked, found.problem, found.stores, found.message_bytes) == (True, "", True, 70_000)
        assert int(found.version.split(".")[0]) >= 2
        refused = await asked("NATS", nats=f"nats://wrong@127.0.0.1:{server.port}")
        assert "log-in" in refused.problem
        assert "wrong" not in f"{refused.where} {refused.problem}"
    finally:
        await server.stop()


@pytest_asyncio.fixture
async def redis(tmp_path: Path) -> AsyncIterator[int]:
    """The port of a Redis with a password."""
    if not REDIS:
        pytest.skip("redis-server is not installed")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        REDIS, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path),
        "--requirepass", SECRET, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(patient(10)):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield port
    finally:
        process.kill()
        await process.wait()


async def test_redis_is_asked(redis: int) -> None:
    """With its log-in, without one, and with a wrong one."""
    found = await asked("Redis", redis=f"redis://:{SECRET}@127.0.0.1:{redis}")
    assert (found.where, found.problem) == (f"redis://127.0.0.1:{redis}", "")
    assert found.version.count(".") == 2
    assert (await asked("Redis", redis=f"redis://127.0.0.1:{redis}")).problem == "it asks for a log-in"
    assert (await asked("Redis", redis=f"redis://:wrong@127.0.0.1:{redis}")).problem.startswith("it refuses the log-in")


@pytest.mark.skipif(TRAEFIK is None, reason="Traefik is not installed")
async def test_traefik_is_asked(tmp_path: Path) -> None:
    """Its API says the version; an address beside it is named as one."""
    with running(tmp_path, "{}") as traefik:
        where = f"127.0.0.1:{traefik.api_port}"
        found = await asked("Traefik", traefik=f"http://user:{SECRET}@{where}")
        assert (found.problem, found.where, found.version.count(".")) == ("", f"http://{where}", 2)
        beside = await asked("Traefik", traefik=f"http://{where}/dashboard")
        assert beside.problem.startswith("it answers 404")


async def test_traefik_gets_the_log_in() -> None:
    """As HTTP's basic authentication, decoded from the address."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await asked("Traefik", traefik=f"http://us%3Aer:pass%20word@127.0.0.1:{port}/base/")
    assert heard[0].startswith(b"GET /base/api/version HTTP/1.1")
    assert b"Authorization: Basic " + base64.b64encode(b"us:er:pass word") in heard[0]


async def test_something_else_answers() -> None:
    """A server that speaks another protocol has no version, whoever it is taken for."""
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno") as where:
        assert (await asked("Redis", redis=f"redis://{where}")).problem == "what answers is no Redis"
        assert (await asked("Redis", redis=f"redis://:{SECRET}@{where}")).problem == "what answers is no Redis"
        assert (await asked("Traefik", traefik=f"http://{where}")).problem


@pytest.mark.parametrize(("kind", "scheme"), [("NATS", "nats"), ("Redis", "redis"), ("Traefik", "http")])
async def test_nobody_answers(kind: str, scheme: str) -> None:
    """A problem with its cause, and no exception."""
    found = await asked(kind, **{kind.lower(): f"{scheme}://user:{SECRET}@127.0.0.1:{free_port()}"})
    assert found.problem
    assert SECRET not in f"{found.where} {found.problem}"


@pytest.mark.parametrize(("kind", "scheme"), [("NATS", "nats"), ("Redis", "redis"), ("Traefik", "http")])
async def test_a_silent_server_is_waited_for_in_bounds(kind: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing."""
    monkeypatch.setattr(asking, "ANSWER_S", 0.2)
    monkeypatch.setattr(login, "CONNECT_TIMEOUT_S", 0.2)
    async with serving(b"") as where:
        assert "does not answer" in (await asked(kind, **{kind.lower(): f"{scheme}://{where}"})).problem


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"$999999999\r\nredis_version:7", "what answers is no Redis"),
        (b"$-1\r\n", "what answers is no Redis"),
        (b"-NOPERM no \x1b[2J permission\r\n", "it refuses the command INFO: NOPERM no  [2J permission"),
        (b"-" + b"x" * 9000 + b"\r\n", f"it refuses the command INFO: {'x' * 171}…"),
        (b"$0\r\n\r\n", ""),
    ],
)
async def test_an_answer_of_redis_is_not_trusted(answer: bytes, problem: str) -> None:
    """Nothing long is read, and a terminal gets no control characters."""
    async with serving(answer) as where:
        assert (await asked("Redis", redis=f"redis://{where}")).problem == problem


async def test_an_answer_of_traefik_is_not_trusted() -> None:
    """A version that would move the cursor or hide a line; one that does not end; an address to go on to."""
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    async with serving(head + b'{"Version": "3.7.0\\u001b[2J\\nok"}', end=True) as where:
        assert (await asked("Traefik", traefik=f"http://{where}")).version == "3.7.0 [2J ok"
    async with serving(head + b" " * 200_000) as where:
        assert (await asked("Traefik", traefik=f"http://{where}")).problem == "what answers is no Traefik"
    async with serving(b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n") as where:
        assert (await asked("Traefik", traefik=f"http://{where}")).problem == "it answers 302 for /api/version"


@contextlib.asynccontextmanager
async def serving(answer: bytes, *, end: bool = False) -> AsyncIterator[str]:
    """Host and port of a server that gives one answer to everything; `end` closes after it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        if not end:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("kind", ["nats", "redis", "traefik"])
@pytest.mark.parametrize("address", ["ftp://user:{}@host:1", "{kind}://user:{}@host:99999", "{kind}://user:{}@[::1"])
async def test_what_is_no_address_is_refused(kind: str, address: str) -> None:
    """Before anything is asked, and without what was written, which may hold a secret."""
    scheme = "http" if kind == "traefik" else kind
    with pytest.raises(SettingsError, match=f"--{kind}") as refused:
        await ask_services(**{kind: address.format(SECRET, kind=scheme)})
    assert SECRET not in str(refused.value)


async def test_programs_that_are_installed_say_their_version() -> None:
    """Those of the packages beside us at least."""
    found = {service.kind: service for service in await ask_services()}
    assert found["NATS"].version.count(".") == 2
    assert not found["NATS"].asked
    for service in found.values():
        assert Path(service.where).name in ("nats-server", "redis-server", "traefik")
