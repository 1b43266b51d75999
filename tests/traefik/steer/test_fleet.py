"""The real Traefik, steered by the balancer's own placement: even, within capacity, sticky."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.traefik.live_traefik import TRAEFIK
from tests.support.traefik.steered_fleet import CountingPlacer, SteeredFleet
from trunkline.placement.backend import BackendSpec, short_id
from trunkline.placement.fleet import Fleet
from trunkline.placement.pick import place
from trunkline.placement.placing import Ask, Pick, Refusal
from trunkline.settings.sections import Settings

pytestmark = pytest.mark.skipif(TRAEFIK is None, reason="traefik is not installed (pip install 'trunkline[traefik]')")


class FleetPlacer(CountingPlacer):
    """Places by the fleet's own state; a suspicion of Traefik's takes the reservation back."""

    def __init__(self, settings: Settings, specs: list[BackendSpec]) -> None:
        super().__init__([])
        self.rng = random.Random(7)
        self.fleet = Fleet(settings.balancer, self.rng)
        self.fleet.set_backends(specs, time.monotonic())

    def place(self, ask: Ask) -> Pick | Refusal:
        self.asks.append(ask)
        answer = place(self.fleet, ask, time.monotonic(), self.rng)
        if isinstance(answer, Pick):
            self.picks.setdefault(ask.key, []).append(answer.url)
        return answer

    def failed(self, pick: Pick, why: str) -> None:
        super().failed(pick, why)
        self.fleet.dropped(pick.reservation, time.monotonic())


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[SteeredFleet]:
    """Three backends with 10 places each, placed by a real fleet."""
    fleet = await SteeredFleet.start(
        tmp_path, 3, {"mode": "steer", "sticky_cookie": "lb", "sticky_secure": False, "slow_start_ms": 0}
    )
    specs = [BackendSpec(backend.url, capacity=10) for backend in fleet.backends]
    await fleet.balancer_gone()
    fleet.placer = FleetPlacer(fleet.settings, specs)
    await fleet.balancer_back()
    yield fleet
    await fleet.stop()


async def test_a_burst_is_even_and_ends_at_the_capacity(fleet: SteeredFleet) -> None:
    """Of 40 handshakes at once 30 find their place, 10 on each backend, and 10 hear when to come back."""
    opened = await asyncio.gather(*(fleet.connect() for _ in range(40)))
    taken = [one for one in opened if one.status == 101]
    refused = [one for one in opened if one.status == 503]
    assert sorted(Counter(one.backend for one in taken).values()) == [10, 10, 10]
    assert len(refused) == 10
    assert all(1 <= int(one.headers["retry-after"]) <= 5 for one in refused)
    assert "capacity" in refused[0].body


async def test_a_burst_with_a_dying_backend_is_even_over_the_rest(fleet: SteeredFleet) -> None:
    """Nobody is refused while there is room, and the dead one's picks are given back."""
    dead = fleet.backends[0]
    dead.refuse_new()
    opened = await asyncio.gather(*(fleet.connect() for _ in range(16)))
    assert {one.status for one in opened} == {101}
    spread = Counter(one.backend for one in opened)
    assert dead.port not in spread
    assert max(spread.values()) - min(spread.values()) <= 1
    assert {url for url, _ in fleet.placer.failures} == {dead.url}


async def test_the_fleet_understands_the_cookie_that_traefik_sets(fleet: SteeredFleet) -> None:
    """A client with the cookie of its first 101 comes back to the same backend by the pick."""
    for _ in range(2):
        first = await fleet.connect()
    cookie = first.headers["set-cookie"].partition(";")[0]
    assert cookie == "lb=" + short_id(fleet.backend(first.backend).url)
    for _ in range(3):
        again = await fleet.connect(headers={"Cookie": cookie})
        assert again.backend == first.backend
        assert fleet.placer.picks[again.key] == [fleet.backend(first.backend).url]
