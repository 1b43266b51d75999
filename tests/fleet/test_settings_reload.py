"""`trunkline up` at SIGHUP: nodes and balancer read the settings again, and a file that cannot be used reaches none."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from websockets.asyncio.client import connect

from tests.fleet.conftest import StartFleet
from tests.support.patience import patient
from tests.support.server.raw_peer import RawPeer, upgrade

PAGE = "https://app.example.org"


async def handshake(port: int) -> int:
    """The status of a handshake of a page through the edge."""
    peer = await RawPeer.connect(port)
    await peer.send(upgrade("/ws", {"Origin": PAGE}))
    status = (await peer.answer()).status
    peer.close()
    return status


async def test_a_reload_reaches_all_parts(start_fleet: StartFleet, tmp_path: Path) -> None:
    """What takes a restart is shown with the part that says so; the client that is there stays."""
    file = tmp_path / "trunkline.toml"
    file.write_text("[server]\n")
    fleet = await (await start_fleet("--nodes", "2")).ready()
    async with connect(f"ws://127.0.0.1:{fleet.edge_port}/ws", proxy=None) as client:
        assert [await handshake(fleet.edge_port) for _ in range(2)] == [403, 403]
        known = len(fleet.said)
        file.write_text("[server]\norigin = []\n")
        fleet.process.send_signal(signal.SIGHUP)
        refused = await fleet.hear_event("note", "", "settings are not reloaded", known)
        assert "server.origin" in refused["text"]
        file.write_text(f'[server]\norigins = ["{PAGE}"]\necho = false\n[balancer]\npolicy = "random"\n')
        fleet.process.send_signal(signal.SIGHUP)
        note = await fleet.hear_event("note", "", "settings are read again", known)
        assert all(name in note["text"] for name in ("edge", "node-1", "node-2"))
        for part, key in (("node-1", "server.echo"), ("node-2", "server.echo"), ("edge", "balancer.policy")):
            await fleet.hear_event("log", part, f"settings_need_restart: {key}: restart", known)
        assert [await handshake(fleet.edge_port) for _ in range(4)] == [101] * 4
        await client.send('{"type": "heartbeat"}')
        async with asyncio.timeout(patient(5)):
            while '"pong"' not in str(await client.recv()):
                pass
    assert await fleet.stop() == 0
