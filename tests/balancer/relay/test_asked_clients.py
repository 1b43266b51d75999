"""An office behind one address moves at once through the relay: who was asked to gets in, everybody else is limited."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.support.balancer.office import Office
from tests.support.balancer.talking import Scene, open_scene, until
from trunkline.balancer.service import RelayService
from trunkline.protocol.goodbyes import Goodbyes
from trunkline.server.node.node import Node
from trunkline.settings.sections import Settings

LIMITS = {"exempt": (), "handshake_burst": 10.0, "handshake_per_s": 1 / 60}
PROXY = ("127.0.0.1/32",)
COUNT = 200


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A NATS of the test's own."""
    scene = await open_scene(tmp_path)
    yield scene
    await scene.close()


async def _node(scene: Scene, colour: str) -> Node:
    return await scene.node(f"{colour}-1", limits=LIMITS, colour=colour, trusted_proxies=PROXY)


async def _relay(scene: Scene, workers: int, **changes: object) -> RelayService:
    settings = Settings(bus=scene.bus)
    settings = msgspec.structs.replace(
        settings,
        balancer=msgspec.structs.replace(settings.balancer, port=0, workers=workers, **{**LIMITS, **changes}),
        admin=msgspec.structs.replace(settings.admin, port=0),
        log=msgspec.structs.replace(settings.log, access=False),
    )
    service = RelayService(settings)
    await service.start()
    await until(service.balancer.ready.is_set)
    return service


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_office_moves_at_once(scene: Scene, workers: int) -> None:
    """Nobody of those asked is refused by relay or node; of as many that were not asked, as many as the limit says."""
    blue = await _node(scene, "blue")
    service = await _relay(scene, workers, connections_per_address=COUNT // 4)
    office = Office(service.port)
    try:
        await office.arrive(COUNT)
        green = await _node(scene, "green")
        await until(lambda: len(service.balancer.fleet.backends) == 2)
        blue.draining.begin(500)
        assert await office.left() == {1012: COUNT}
        strangers = await office.come([f"{number:020}" for number in range(COUNT)])
        assert strangers == Counter({429: COUNT - 10, 101: 10})
        assert await office.come(office.sessions) == {101: COUNT}
        assert await office.come(office.sessions) == {429: COUNT}
        counts = green.counts()
        assert (counts.resumed, counts.returned["+Inf"]) == ({"blue": COUNT}, COUNT)
        # Each worker counts by itself, so that two let more through than the node takes of one address.
        assert (counts.refused == {}) == (workers == 1)
    finally:
        await office.close()
        await service.stop()


async def test_a_worker_that_begins_late_knows_who_was_asked(scene: Scene) -> None:
    """One that was killed is replaced, and the new one lets past whom the others do."""
    await _node(scene, "blue")
    service = await _relay(scene, 2)
    workers = service._workers
    assert workers is not None
    office = Office(service.port)
    try:
        sessions = [f"{number:020}" for number in range(40)]
        said = Goodbyes("n", "blue", tuple(sessions))
        await scene.publish("goodbyes", msgspec.json.encode(said))
        await until(lambda: len(service.balancer.asked) == 40)
        before = dict(workers._children)
        for child in before.values():
            child.kill()
        await until(lambda: all(workers._children[number] is not child for number, child in before.items()))
        await until(lambda: len(workers._seats) == 2 and len(workers._counts) == 2)
        assert await office.come(sessions) == {101: 40}
    finally:
        await office.close()
        await service.stop()
