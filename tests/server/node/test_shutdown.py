"""The process as an operator sees it: `trunkline serve`, its signals, exit codes and complaints."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.support.patience import patient
from tests.support.server.live_node import Peer
from tests.support.server.raw_peer import RawPeer, http, upgrade
from trunkline.bus.base import Retention
from trunkline.bus.nats.bus import NatsBus
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.settings.sections import BusSettings


class Process:
    """A running `trunkline serve`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, seen: list[str]) -> None:
        self.process = process
        self.port = port
        self._seen = seen
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self._seen.append(line.decode())

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    async def logged(self, event: str) -> dict[str, Any]:
        """Wait for an event in the log."""
        async with asyncio.timeout(patient(5)):
            while True:
                for line in self._seen:
                    with contextlib.suppress(ValueError):
                        if (found := json.loads(line))["event"] == event:
                            return dict(found)
                await asyncio.sleep(0.01)

    async def exit_code(self, timeout: float = 10) -> int:
        """Wait for its end."""
        code = await asyncio.wait_for(self.process.wait(), patient(timeout))
        await self._reading
        return code

    async def peer(self, path: str = "/ws") -> Peer:
        """A connected client."""
        peer = Peer(await connect(f"ws://127.0.0.1:{self.port}{path}", proxy=None, compression=None))
        await peer.expect("connection_established")
        return peer


def environment(tmp_path: Path, **given: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_") and name != "PORT"}
    return {
        **kept,
        "XDG_STATE_HOME": str(tmp_path),
        "TRUNKLINE_LOG_FORMAT": "json",
        "TRUNKLINE_ADMIN_PORT": "0",
        # A busy machine may hold the node up.
        "TRUNKLINE_LIMITS_LOOP_LAG_SHED_MS": "60000",
        **given,
    }


Serve = Callable[..., Coroutine[Any, Any, Process]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Start nodes as processes; `await serve(TRUNKLINE_SERVER_DRAIN_MS="0")`."""
    started: list[Process] = []

    async def start(**given: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trunkline", "serve", "--port", "0", "--host", "127.0.0.1",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment(tmp_path, **given),
            cwd=tmp_path,
        )  # fmt: skip
        assert process.stdout is not None
        seen: list[str] = []
        try:
            async with asyncio.timeout(patient(40)):
                async for line in process.stdout:
                    seen.append(line.decode())
                    if match := re.search(rb'"port": ?(\d+)', line):
                        running = Process(process, int(match[1]), seen)
                        started.append(running)
                        return running
        except TimeoutError:
            process.kill()
        raise AssertionError(f"the node did not start: {seen}")

    yield start
    for each in started:
        if each.process.returncode is None:
            each.process.kill()
            await each.process.wait()


async def fails(tmp_path: Path, *arguments: str, **given: str) -> str:
    """Run `trunkline serve` where it cannot start; returns what it said. It must exit with 2 and no trace."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", "serve", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment(tmp_path, **given),
            cwd=tmp_path,
    )  # fmt: skip
    try:
        _, errors = await asyncio.wait_for(process.communicate(), patient(40))
    except TimeoutError:
        process.kill()
        raise
    text = errors.decode()
    assert process.returncode == 2, text
    assert "Traceback" not in text
    return text


async def test_sigterm_drains(serve: Serve) -> None:
    """Not ready, nobody let in, each client told goodbye in its own slot with 1001 and its own hint; exit code 0."""
    node = await serve(TRUNKLINE_SERVER_DRAIN_MS="1500")
    peers = [await node.peer() for _ in range(30)]
    loop = asyncio.get_running_loop()
    ends: list[float] = []

    async def end_of(peer: Peer) -> tuple[int, str]:
        closed = await peer.closed()
        ends.append(loop.time())
        return closed

    node.terminate()
    began = loop.time()
    ending = asyncio.gather(*(end_of(peer) for peer in peers))
    await node.logged("draining")
    assert (await http(node.port, "/ready")).status == 503
    assert (await http(node.port, "/healthz")).status == 200
    late = await RawPeer.connect(node.port)
    await late.send(upgrade())
    answer = await late.answer()
    assert (answer.status, "retry-after" in answer.headers) == (503, True)
    late.close()
    assert await ending == [(1001, "node shutting down")] * 30
    goodbyes = [peer.seen[-1] for peer in peers]
    assert all((bye["type"], bye["code"], bye["reconnect"]) == ("goodbye", 1001, True) for bye in goodbyes)
    assert len({bye["reconnect_after_ms"] for bye in goodbyes}) > 15
    # Spread over the drain: no third of it passes without several, and none holds most of them.
    thirds = [sum(place * 0.5 <= end - began < (place + 1) * 0.5 for end in ends) for place in range(3)]
    assert min(thirds) >= 4, thirds
    assert await node.exit_code() == 0


async def test_clients_that_do_not_answer_hold_nothing_up(serve: Serve) -> None:
    """A client that ignores the close frame is cut off after the close time-out; the exit code is still 0."""
    node = await serve(TRUNKLINE_SERVER_DRAIN_MS="0", TRUNKLINE_SERVER_CLOSE_TIMEOUT_MS="200")
    silent = [await RawPeer.open(node.port, receive_buffer=4096) for _ in range(3)]
    idle = await RawPeer.connect(node.port)
    node.terminate()
    assert await node.exit_code(timeout=5) == 0
    for peer in [*silent, idle]:
        peer.close()


async def test_second_signal_ends_at_once(serve: Serve) -> None:
    """Who does not want to wait for the drain sends the signal again."""
    node = await serve(TRUNKLINE_SERVER_DRAIN_MS="60000", TRUNKLINE_SERVER_SHUTDOWN_DEADLINE_MS="60000")
    peer = await node.peer()
    node.terminate()
    await node.logged("draining")
    await peer.ask({"type": "heartbeat"}, "pong")
    node.terminate()
    assert await node.exit_code(timeout=5) == 0


async def test_the_deadline_ends_a_long_drain(serve: Serve) -> None:
    """A stop takes no longer than its deadline, whatever the drain would like."""
    node = await serve(TRUNKLINE_SERVER_DRAIN_MS="3600000", TRUNKLINE_SERVER_SHUTDOWN_DEADLINE_MS="400")
    await node.peer()
    node.terminate()
    assert await node.exit_code(timeout=5) == 0
    await node.logged("shutdown_deadline")


async def test_a_taken_port(tmp_path: Path) -> None:
    """Exit code 2 and one line that names the port and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = await fails(tmp_path, "--host", "127.0.0.1", "--port", str(port))
    assert len(said.strip().splitlines()) == 1
    assert f"127.0.0.1:{port}" in said
    assert "--port" in said


async def test_bad_settings(tmp_path: Path) -> None:
    """Exit code 2, the key, the value, what is allowed and the nearest known name; secrets are not shown."""
    (tmp_path / "typo.toml").write_text("[server]\nheartbeat_intervall_ms = 5\n")
    (tmp_path / "broken.toml").write_text("[server\n")
    said = await asyncio.gather(
        fails(tmp_path, PORT="eighty"),
        fails(tmp_path, HEARTBEAT_INTERVAL="-5"),
        fails(tmp_path, TRUNKLINE_SERVER_MESAGE_BYTES="100"),
        fails(tmp_path, "--config", "typo.toml"),
        fails(tmp_path, "--config", "broken.toml"),
        fails(tmp_path, "--config", "missing.toml"),
        fails(tmp_path, "no_such_module:app"),
        fails(tmp_path, TRUNKLINE_AUTH_ALGORITHMS="HS256", TRUNKLINE_AUTH_SECRET="tooshort"),
        fails(tmp_path, "--bus", "http://x"),
    )
    for text, parts in zip(
        said,
        [
            ("PORT", "eighty"),
            ("HEARTBEAT_INTERVAL", "-5"),
            ("TRUNKLINE_SERVER_MESAGE_BYTES", "MESSAGE_BYTES"),
            ("heartbeat_intervall_ms", "heartbeat_interval_ms"),
            ("broken.toml",),
            ("missing.toml",),
            ("no_such_module",),
            ("auth.secret", "32"),
            ("bus.url", "nats://"),
        ],
        strict=True,
    ):
        for part in parts:
            assert part.lower() in text.lower(), (part, text)
    assert "tooshort" not in said[7]


async def test_acknowledged_publications_survive_the_stop(serve: Serve, tmp_path: Path) -> None:
    """Every publication that was acknowledged before the process ended is in the history of NATS, in order."""
    server = await NatsServer.start(tmp_path / "nats")
    try:
        prefix = f"t{secrets.token_hex(4)}"
        node = await serve(
            TRUNKLINE_BUS_URL=server.url, TRUNKLINE_BUS_PREFIX=prefix, TRUNKLINE_SERVER_DRAIN_MS="20",
            TRUNKLINE_LIMITS_RATE_PER_S="0",
        )  # fmt: skip
        peer = await node.peer()
        acked: dict[int, int] = {}

        async def publish() -> None:
            with contextlib.suppress(Exception):
                number = 0
                while True:
                    # Several under way at any time.
                    for _ in range(5):
                        await peer.send({"type": "publish", "id": number, "channel": "public.a", "data": number})
                        number += 1
                    for _ in range(5):
                        message = await peer.next()
                        if message["type"] == "publish_ack":
                            acked[message["id"]] = message["offset"]
                        if number > 50 and node.process.returncode is None and not stopped.is_set():
                            node.terminate()
                            stopped.set()

        stopped = asyncio.Event()
        await asyncio.wait_for(publish(), patient(10))
        assert await node.exit_code() == 0
        assert len(acked) >= 50
        bus = NatsBus(BusSettings(url=server.url, prefix=prefix), lambda _: Retention(1000, 300.0))
        await bus.start(lambda _: None)
        page = await bus.history("public.a", 0, 10_000)
        await bus.close()
        stored = {publication.offset: int(publication.data) for publication in page.publications}
        kept = {number: offset for number, offset in acked.items() if offset > page.floor}
        assert {number: stored.get(offset) for number, offset in kept.items()} == {number: number for number in kept}
        numbers = list(stored.values())
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    finally:
        await server.stop()


HANGS = """
import asyncio, sys
from trunkline import App
app = App("hangs")
@app.on_startup
async def hook():
    print("hooked", file=sys.stderr, flush=True)
    await asyncio.get_running_loop().create_future()
"""


async def test_a_start_that_hangs_is_ended_by_the_second_signal(tmp_path: Path) -> None:
    """A start-up hook that never returns keeps nobody: the first signal waits for it, the second does not."""
    (tmp_path / "hangs.py").write_text(HANGS)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", "serve", "hangs:app", "--host", "127.0.0.1", "--port", "0",
        cwd=tmp_path, env=environment(tmp_path), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(patient(20)):
        while b"hooked" not in await process.stderr.readline():
            pass
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.1)  # two that come at once may be one to the process
        assert await process.wait() == 0
