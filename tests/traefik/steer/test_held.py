"""The real Traefik and a held colour: nothing leads there, with the balancer and without."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.traefik.live_traefik import TRAEFIK
from tests.support.traefik.steered_fleet import SteeredFleet
from tests.traefik.steer.test_fleet import FleetPlacer
from trunkline.placement.backend import BackendSpec, short_id
from trunkline.placement.shares import by_table
from trunkline.protocol.traffic import TrafficTable
from trunkline.traefik.steer.layers import PICK_HEADER
from trunkline.traefik.steer.published import Candidate

pytestmark = pytest.mark.skipif(TRAEFIK is None, reason="traefik is not installed (pip install 'trunkline[traefik]')")


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[SteeredFleet]:
    """One backend that is blue, two that are green, with sticky cookies."""
    fleet = await SteeredFleet.start(tmp_path, 3, {"mode": "steer", "sticky_cookie": "lb", "sticky_secure": False})
    yield fleet
    await fleet.stop()


async def test_nothing_leads_to_a_held_colour(fleet: SteeredFleet) -> None:
    """Neither the cookie of a client that was there, nor a header that it makes up, nor that the balancer is away."""
    blue = fleet.backends[0].url
    specs = [BackendSpec(each.url, group="blue" if each.url == blue else "green") for each in fleet.backends]
    placer = FleetPlacer(fleet.settings, specs)
    placer.fleet.set_shares(by_table(TrafficTable(1, {"green": 100.0}, "")), time.monotonic())
    await fleet.balancer_gone()
    fleet.placer = placer
    fleet.candidates = [
        Candidate(spec.url, group=spec.group, held=spec.url == blue, share=None if spec.url == blue else 100.0)
        for spec in specs
    ]
    await fleet.balancer_back()
    held = {"Cookie": f"lb={short_id(blue)}", PICK_HEADER: short_id(blue)}

    async def followed() -> bool:
        return await fleet.open_servers() == {spec.url for spec in specs[1:]}

    await fleet.until(followed, "Traefik to leave the held server out")
    for _ in range(5):
        assert fleet.backend((await fleet.connect(headers=held)).backend).url != blue
    assert placer.picks
    assert blue not in {url for urls in placer.picks.values() for url in urls}
    await fleet.balancer_gone()
    for number in range(6):
        opened = await fleet.connect(headers=held if number % 2 else None)
        assert opened.status == 101
        assert fleet.backend(opened.backend).url != blue
    # It is loaded all the same: once it is held no more, the next pick finds it.
    assert f"trunkline-at-{short_id(blue)}@http" in await fleet.services()
