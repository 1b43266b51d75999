"""Finding the servers behind a target."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from tests.support.free_ports import free_ports
from tests.support.load.exposition import StartAnswering, exposition, tell
from tests.support.patience import patient
from trunkline.errors import SettingsError
from trunkline.load.judge.discovery import discover
from trunkline.load.judge.watch import watching


async def test_named_servers_are_taken_as_they_are() -> None:
    """What the user names is not asked about; a bare origin gets its path; only these may get the token."""
    found = await discover("wss://live.example.org/ws", ["http://10.0.0.1:3001", "https://b.example/own/metrics"])
    assert found.urls == ("http://10.0.0.1:3001/metrics", "https://b.example/own/metrics")
    assert found.named


@pytest.mark.parametrize("url", ["10.0.0.1:3001", "ws://10.0.0.1", "http://", "http://u:secret@a/", "http://a:99999/"])
async def test_a_named_url_that_cannot_be_asked_is_refused(url: str) -> None:
    """The error says what is taken, and shows no password."""
    with pytest.raises(SettingsError, match="--metrics") as caught:
        await discover("ws://127.0.0.1:1/ws", [url])
    assert "secret" not in str(caught.value)


async def test_a_single_server_is_found_at_the_target(answering: StartAnswering) -> None:
    """No balancer there: the target's own /metrics, if it is always the same server."""
    port = await answering(tell, free_ports(2))
    found = await discover(f"ws://127.0.0.1:{port}/ws")
    assert found.urls == (f"http://127.0.0.1:{port}/metrics",)
    assert not found.named


async def test_an_edge_that_passes_metrics_on_is_noticed(answering: StartAnswering) -> None:
    """Different servers answer at the target: none is watched, and the note says what to name."""
    asked = 0

    async def in_turn(request: web.Request) -> web.Response:
        nonlocal asked
        asked += request.path == "/metrics"
        return (
            web.Response(text=exposition(f"node-{asked % 2}"))
            if request.path == "/metrics"
            else web.Response(status=404)
        )

    port = await answering(in_turn, free_ports(2))
    found = await discover(f"ws://127.0.0.1:{port}/ws")
    assert found.urls == ()
    assert "2 servers answer" in found.note
    assert "node-0, node-1" in found.note
    async with watching([url := f"http://127.0.0.1:{port}/metrics"], interval_s=0.02) as watch:
        async with asyncio.timeout(patient(5)):
            while not watch.notes or "in turn" not in watch.notes[0]:
                await asyncio.sleep(0.01)
        snapshot = await watch.snapshot()
        assert (snapshot.servers, snapshot.mixed) == ({}, (url,))


async def test_nothing_is_found_at_a_foreign_server(answering: StartAnswering) -> None:
    """A server that has no such series, or none at all, is said to have none, and that is no error."""

    async def foreign(request: web.Request) -> web.Response:
        return web.Response(text="go_goroutines 8\n")

    port = await answering(foreign, free_ports(2))
    for target in (f"ws://127.0.0.1:{port}/ws", "ws://127.0.0.1:1/ws"):
        found = await discover(target)
        assert found.urls == ()
        assert "does not answer as a Trunkline server does" in found.note


async def test_backends_come_from_the_balancers_page(answering: StartAnswering) -> None:
    """Its admin port is asked first; odd addresses are left out, silent backends named, and no token is sent there."""
    seen: list[str] = []
    backends: list[str] = []

    async def backend(request: web.Request) -> web.Response:
        seen.extend(request.headers.getall("Authorization", []))
        return await tell(request)

    async def admin(request: web.Request) -> web.Response:
        seen.extend(request.headers.getall("Authorization", []))
        if request.path != "/balancer-metrics":
            return web.Response(status=404)
        return web.Response(text=json.dumps({"services": [{"url": url, "connections": 1} for url in backends]}))

    first = free_ports(2)
    await answering(tell, first)
    await answering(admin, first + 1)
    backends += [
        f"http://127.0.0.1:{await answering(backend)}/",
        "http://127.0.0.1:1",
        "file:///etc/passwd",
        "nonsense",
    ]
    found = await discover(f"ws://127.0.0.1:{first}/ws")
    assert found.urls == (f"{backends[0]}metrics", "http://127.0.0.1:1/metrics")
    assert found.note == (
        f"2 backends of the balancer at http://127.0.0.1:{first + 1}/balancer-metrics; "
        "without an answer as a Trunkline server gives it: http://127.0.0.1:1/metrics"
    )
    assert seen == []
    async with watching(found.urls[:1], "a token") as watch:
        await watch.snapshot()
    assert set(seen) == {"Bearer a token"}
    del backends[:1]
    none = await discover(f"ws://127.0.0.1:{first}/ws")
    assert none.urls == ()
    assert none.note.startswith("no backend of the balancer")
