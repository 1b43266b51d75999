"""`trunkline up` with real processes: a fleet that works, survives its parts, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.environment import environment
from tests.support.fleet_process import DEADLINE_S, FleetProcess, command, refuses
from tests.support.patience import patient

StartFleet = Callable[..., Awaitable[FleetProcess]]


async def message(client: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of that type."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            received: dict[str, Any] = json.loads(await client.recv())
            if received["type"] == kind:
                return received


async def crosses(fleet: FleetProcess, data: str) -> None:
    """What a client of node 1 publishes reaches a client of node 2."""
    async with connect(fleet.websocket(0)) as sender, connect(fleet.websocket(1)) as receiver:
        await receiver.send(json.dumps({"type": "subscribe", "channels": ["public.x"]}))
        await message(receiver, "subscription_ack")
        await sender.send(json.dumps({"type": "publish", "id": "1", "channel": "public.x", "data": data}))
        await message(sender, "publish_ack")
        assert (await message(receiver, "publication"))["data"] == data


async def silent_client(port: int) -> socket.socket:
    """A client that opens a WebSocket and then says nothing any more, not even goodbye."""
    client = socket.create_connection(("127.0.0.1", port))
    key = base64.b64encode(b"sixteen bytes ok").decode()
    client.sendall(
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b" 101 " in await asyncio.to_thread(client.recv, 4096)
    return client


async def test_messages_cross_nodes_and_sigterm_ends_all(start_fleet: StartFleet, tmp_path: Path) -> None:
    """Both nodes are ready, a publication of one reaches the other; SIGTERM gives exit 0 and leaves no process."""
    fleet = await (await start_fleet()).ready()
    assert [node["name"] for node in fleet.addresses["nodes"]] == ["node-1", "node-2"]
    assert fleet.port(1) == fleet.port(0) + 2
    await crosses(fleet, "hello")
    assert len(fleet.children()) == 4
    assert await fleet.stop() == 0
    assert await fleet.left() == []
    assert refuses(fleet.port(0))
    for name in ("node-1", "node-2", "edge", "nats"):
        assert (tmp_path / "data" / "logs" / f"{name}.log").stat().st_size > 0


async def test_publish_finds_a_node_behind_the_edge(start_fleet: StartFleet, tmp_path: Path) -> None:
    """`trunkline publish` as the README has it: the admin port it tries first is the edge's, which does not publish."""
    fleet = await (await start_fleet()).ready()
    async with connect(fleet.websocket(0)) as receiver:
        await receiver.send(json.dumps({"type": "subscribe", "channels": ["public.news"]}))
        await message(receiver, "subscription_ack")
        publish = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trunkline", "publish", "public.news", '{"headline": "from the shell"}',
            env=environment(tmp_path, TRUNKLINE_SERVER_PORT=str(fleet.edge_port)), cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, errors = await asyncio.wait_for(publish.communicate(), DEADLINE_S)
        assert (publish.returncode, errors) == (0, b"")
        assert out.startswith(b"public.news: offset ")
        assert (await message(receiver, "publication"))["data"] == {"headline": "from the shell"}


async def test_second_fleet_names_the_taken_ports(start_fleet: StartFleet, tmp_path: Path) -> None:
    """A second `up` on the same ports ends with 2 and one line that names them; the first one does not notice."""
    fleet = await (await start_fleet()).ready()
    port = fleet.edge_port
    second = await asyncio.to_thread(
        subprocess.run,
        command("--port", str(port), "--data-dir", str(tmp_path / "other")),
        capture_output=True, text=True, timeout=DEADLINE_S, env=environment(tmp_path), check=False,
    )  # fmt: skip
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert f"ports {', '.join(str(port + n) for n in range(6))} on 127.0.0.1: already in use" in second.stderr
    assert "--port" in second.stderr
    assert not (tmp_path / "other").exists()
    await crosses(fleet, "still here")


async def test_second_fleet_on_the_same_data_is_refused(start_fleet: StartFleet, tmp_path: Path) -> None:
    """Another fleet on other ports but with the same data directory ends with 2 and leaves the logs alone."""
    fleet = await (await start_fleet("--nodes", "1")).ready()
    second = await start_fleet("--nodes", "1")
    assert await second.ended() == 2
    assert "in use by another nats-server" in await second.errors()
    assert list((tmp_path / "data" / "logs").glob("*.1")) == []
    assert await fleet.stop() == 0


async def test_taken_admin_port_is_named(start_fleet: StartFleet, tmp_path: Path) -> None:
    """An admin port that something else uses stops the start before anything runs."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        fleet = await start_fleet("--nodes", "1", "--port", str(port - 1))
        assert await fleet.ended() == 2
        errors = await fleet.errors()
        # Others may have taken its neighbours meanwhile.
        assert re.search(rf"ports? [\d, ]*\b{port}\b[\d, ]* on 127\.0\.0\.1: already in use", errors), errors
    assert not (tmp_path / "data" / "nats").exists()


async def test_killed_node_is_restarted(start_fleet: StartFleet) -> None:
    """A node that is killed is named with its signal, started again on its port, and takes part again."""
    fleet = await (await start_fleet()).ready()
    os.kill(fleet.addresses["nodes"][0]["pid"], signal.SIGKILL)
    ended = await fleet.hear_event("ended", "node-1", "SIGKILL")
    assert ended["exit_code"] == -signal.SIGKILL
    await fleet.hear_event("state", "node-1", "ready again")
    await crosses(fleet, "after the restart")


async def test_killed_nats_is_restarted_on_its_port(start_fleet: StartFleet) -> None:
    """NATS comes back on the same port with the same store: nodes find it, and history is still there."""
    fleet = await (await start_fleet()).ready()
    await crosses(fleet, "before")
    os.kill(fleet.addresses["nats_pid"], signal.SIGKILL)
    await fleet.hear_event("state", "nats", f"ready again at {fleet.addresses['nats']}")
    async with connect(fleet.websocket(1)) as client:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                await client.send(json.dumps({"type": "publish", "id": "1", "channel": "public.x", "data": "after"}))
                answer = json.loads(await client.recv())
                while answer["type"] not in ("publish_ack", "error"):
                    answer = json.loads(await client.recv())
                if answer["type"] == "publish_ack":
                    break
                assert answer["temporary"], answer
                await asyncio.sleep(0.1)
        await client.send(json.dumps({"type": "subscribe", "channels": ["public.x"]}))
        await message(client, "subscription_ack")
        await client.send(json.dumps({"type": "replay", "id": "2", "channel": "public.x", "from": 1, "to": 1}))
        assert (await message(client, "publication"))["data"] == "before"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
async def test_killed_up_takes_its_children_along(start_fleet: StartFleet) -> None:
    """When `up` itself is killed, nodes and NATS end too, although a client is connected."""
    fleet = await (await start_fleet()).ready()
    with await silent_client(fleet.port(0)):
        assert len(fleet.children()) == 4
        fleet.process.kill()
        assert await fleet.ended() == -signal.SIGKILL
        assert await fleet.left() == []


async def test_stop_drains_clients(start_fleet: StartFleet) -> None:
    """On SIGTERM clients are told to go with 1001, the fleet says how many are left, and the exit is 0."""
    fleet = await (await start_fleet(TRUNKLINE_SERVER_DRAIN_MS="200")).ready()
    async with connect(fleet.websocket(0)) as client:
        await message(client, "connection_established")
        fleet.children()
        fleet.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            await client.wait_closed()
        assert client.close_code == 1001
    await fleet.hear_event("draining", "", "Ctrl-C again ends at once")
    assert await fleet.ended() == 0


async def test_second_signal_ends_at_once(start_fleet: StartFleet) -> None:
    """A client that does not go holds up the drain; the second signal does not wait for it."""
    fleet = await (await start_fleet(TRUNKLINE_SERVER_CLOSE_TIMEOUT_MS="60000")).ready()
    with await silent_client(fleet.port(0)):
        fleet.children()
        fleet.process.send_signal(signal.SIGINT)
        await fleet.hear_event("draining", "", "left")
        assert psutil.pid_exists(fleet.addresses["nodes"][0]["pid"])
        fleet.process.send_signal(signal.SIGINT)
        assert await fleet.ended() == 1
        assert await fleet.left() == []


async def test_node_that_cannot_start_ends_the_fleet(start_fleet: StartFleet) -> None:
    """An application that is not there stops `up` with 2 and the node's own reason, and nothing stays."""
    fleet = await start_fleet("--app", "no_such_module:app")
    fleet.children()
    assert await fleet.ended() == 2
    errors = await fleet.errors()
    assert "cannot start: there is no module 'no_such_module'" in errors
    assert errors.count("\n") == 1


async def test_application_that_cannot_be_imported_ends_the_fleet(start_fleet: StartFleet, tmp_path: Path) -> None:
    """One that raises when it is imported would do so again: the fleet ends with the error, the line and the log."""
    (tmp_path / "broken.py").write_text("raise LookupError('the moon is missing')\n")
    fleet = await start_fleet("--app", "broken:app", "--nodes", "1")
    await fleet.hear_event("log", "node-1", "LookupError: the moon is missing")
    assert await fleet.ended() == 2
    errors = await fleet.errors()
    assert "node-1 cannot start: the module 'broken' cannot be imported: LookupError: the moon is missing." in errors
    assert "node-1.log" in errors


async def test_node_that_breaks_at_once_shows_why(start_fleet: StartFleet, tmp_path: Path) -> None:
    """An application whose start hook raises is tried again, with its exit code and the error named."""
    (tmp_path / "broken.py").write_text(
        "from trunkline import App\n\napp = App('broken')\n\n\n"
        "@app.on_startup\nasync def begin() -> None:\n    raise LookupError('the moon is missing')\n"
    )
    fleet = await start_fleet("--app", "broken:app", "--nodes", "1")
    await fleet.hear_event("log", "node-1", "LookupError: the moon is missing")
    ended = await fleet.hear_event("ended", "node-1", "exit code 1")
    assert "again in 0.5 s" in ended["text"]
    await fleet.hear_event("log", "node-1", "broken.py", after=fleet.said.index(ended))
    assert await fleet.stop() == 0


async def test_settings_reach_the_nodes_and_places_do_not(start_fleet: StartFleet, tmp_path: Path) -> None:
    """File and environment reach every node; PORT does not move them; HOST unset means loopback."""
    (tmp_path / "fleet.toml").write_text("[limits]\nrate_burst = 7\n[server]\nname = 'odd'\n")
    fleet = await start_fleet("--config", "fleet.toml", HEARTBEAT_INTERVAL="4321", PORT="9")
    await fleet.ready()
    for index in range(2):
        async with connect(fleet.websocket(index)) as client:
            hello = await message(client, "connection_established")
        assert hello["node"] == f"node-{index + 1}"
        assert hello["heartbeat_interval_ms"] == 4321
        assert hello["limits"]["rate_burst"] == 7
    places = {
        connection.laddr.ip
        for child in fleet.children()
        for connection in child.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert places == {"127.0.0.1"}


@pytest.mark.parametrize("no_color", [False, True])
async def test_terminal_shows_a_table_and_takes_ctrl_c(tmp_path: Path, no_color: bool) -> None:
    """On a terminal there is a table and a live line, Ctrl-C ends it with 0, and NO_COLOR keeps colours away."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 120))

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    more = {"TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if no_color else {})
    process = await asyncio.create_subprocess_exec(
        *command("--port", "0", "--nodes", "1", "--data-dir", "data"),
        cwd=tmp_path, env=environment(tmp_path, **more), stdin=theirs, stdout=theirs, stderr=theirs,
        preexec_fn=own_terminal,
    )  # fmt: skip
    os.close(theirs)
    seen = bytearray()
    news = asyncio.Event()

    def read() -> None:
        try:
            data = os.read(ours, 65_536)
        except OSError:  # the other end is closed
            data = b""
        if not data:
            loop.remove_reader(ours)
        seen.extend(data)
        news.set()

    async def see(text: bytes) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while text not in seen:
                assert process.returncode is None, bytes(seen)
                news.clear()
                await news.wait()

    loop = asyncio.get_running_loop()
    loop.add_reader(ours, read)
    try:
        await see(b"WebSocket")
        await see(b"node-1 up  0 conn")
        family = psutil.Process(process.pid).children(recursive=True)
        os.write(ours, b"\x03")
        await see(b"draining, 0 clients left; Ctrl-C again ends at once")
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait() == 0
        assert psutil.wait_procs(family, patient(5))[1] == []
        coloured = re.search(rb"\x1b\[(\d+;)*3[0-7]m", seen) is not None
        assert coloured != no_color, bytes(seen)
        log = (tmp_path / "data" / "logs" / "node-1.log").read_text()
        assert log.count('"event": "draining"') == 1  # the terminal's interrupt reached `up` alone
    finally:
        loop.remove_reader(ours)
        os.close(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
