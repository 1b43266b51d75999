"""Preflight of witnesses: what would stop one later is named before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.free_ports import free_port
from tests.support.load.faulty_server import Faults, FaultyServer
from tests.support.load.two_colours import target_of, two_colours
from trunkline.load.deploys import preflight as module
from trunkline.load.deploys.preflight import preflight
from trunkline.process import open_files
from trunkline.settings.channels import ChannelRule


@pytest.mark.process
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, ""),
        ({"channels__history": 0}, "keep no history"),
        ({"channels__rules": (ChannelRule("public.**", subscribe="anyone", history=9),)}, "FORBIDDEN in place of"),
        ({"limits__rate_per_s": 0.5}, "takes 0.5/s of a client"),
    ],
)
async def test_a_real_node(tmp_path: Path, settings: dict[str, object], says: str) -> None:
    """Nothing speaks against one whose rules and limits let witnesses work; else the cause and a way out are named."""
    async with two_colours(tmp_path, **settings) as (blue, _):
        found = await preflight(target_of(blue).url, 50)
    assert (says in found) if says else not found
    assert ("--witnesses 0" in found) is bool(says)


async def test_an_edge_that_does_not_let_witnesses_in() -> None:
    """Refused, closed, silent, or of another protocol: each is named."""
    assert "nobody listens there" in await preflight(f"ws://127.0.0.1:{free_port()}/ws", 1)
    async with FaultyServer(Faults(refuse=503)) as server:
        assert "It is full, draining" in await preflight(server.url(), 1)
    async with FaultyServer(Faults(close=1008)) as server:
        assert "closed the connection of a witness with 1008" in await preflight(server.url(), 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ANSWER_S", 0.3)
        async with FaultyServer() as server:
            assert "does not speak as a Trunkline feed does" in await preflight(server.url("/echo"), 1)


async def test_too_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of this process that the witnesses would exceed is named with both numbers."""
    monkeypatch.setattr(open_files, "limit", lambda: 256)
    assert "70 witnesses need 270 open files and this process may have 256" in await preflight("ws://127.0.0.1:1/", 70)


async def test_without_witnesses_the_edge_is_not_asked() -> None:
    """A deploy without witnesses needs nothing from it."""
    assert await preflight(f"ws://127.0.0.1:{free_port()}/ws", 0) == ""
