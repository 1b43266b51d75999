"""Several balancers, nodes of two colours and a real NATS: one table for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.support.balancer.cut_link import CutLink
from tests.support.balancer.talking import Scene, open_scene, until
from tests.support.patience import patient
from trunkline.balancer.core import Balancer
from trunkline.balancer.traffic.control import OtherGeneration
from trunkline.errors import BusUnavailable
from trunkline.placement.placing import Ask, Pick
from trunkline.protocol.deploys import DEPLOY_KEY, DeployStatus
from trunkline.protocol.traffic import TrafficOrder
from trunkline.settings.balancer import BackendEntry
from trunkline.settings.sections import Settings

SOON_S = 1.0
"""A sign of life is due every two seconds; a new generation has to be told sooner than that."""

Start = Callable[..., Awaitable[Balancer]]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A NATS of the test's own."""
    found = await open_scene(tmp_path)
    yield found
    await found.close()


@pytest.fixture
async def start(scene: Scene, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts balancers of the scene."""
    started: list[Balancer] = []

    async def one(port: int | None = None, **changes: Any) -> Balancer:
        url = scene.bus.url if port is None else f"nats://127.0.0.1:{port}"
        settings = Settings(bus=msgspec.structs.replace(scene.bus, url=url))
        # Nothing listens there: the port tells one balancer of a machine from another.
        alone = {"port": 9_000 + len(started), "store_dir": tmp_path / f"balancer-{len(started)}"}
        balancer = msgspec.structs.replace(settings.balancer, **{**alone, **changes})
        made = Balancer(msgspec.structs.replace(settings, balancer=balancer))
        started.append(made)
        await made.start()
        return made

    yield one
    for balancer in started:
        await balancer.stop()


def colours(balancer: Balancer) -> set[str]:
    """Where ten new connections would go."""
    answers = [balancer.place(Ask("")) for _ in range(10)]
    return {answer.group for answer in answers if isinstance(answer, Pick)}


def applied(balancer: Balancer) -> dict[str, int]:
    """The generation that each balancer applies, as this one knows."""
    return {peer.id: peer.generation for peer in balancer.traffic_state().balancers}


async def test_all_balancers_follow_and_say_so(scene: Scene, start: Start) -> None:
    """Whichever is asked; the one that writes has applied it, and the others within a moment."""
    for colour in ("blue", "green"):
        await scene.node(colour, colour=colour)
    balancers = [await start() for _ in range(3)]
    for each in balancers:
        await until(lambda each=each: colours(each) == {"blue", "green"} and len(applied(each)) == 3, "both colours")
    await balancers[0].traffic.put(TrafficOrder(0, {"blue": 100.0}))
    assert colours(balancers[0]) == {"blue"}
    began = time.monotonic()
    for each in balancers:
        await until(lambda each=each: set(applied(each).values()) == {1}, "generation 1 of all three")
        assert colours(each) == {"blue"}
        assert each.traffic_state().held == ("green",)
    assert time.monotonic() - began < patient(SOON_S)
    # Another one writes over it, and nobody can write over what has been replaced.
    await balancers[2].traffic.put(TrafficOrder(1, {"green": 100.0}))
    with pytest.raises(OtherGeneration):
        await balancers[1].traffic.put(TrafficOrder(1, {"blue": 100.0}))
    for each in balancers:
        await until(lambda each=each: set(applied(each).values()) == {2}, "generation 2 of all three")
        assert colours(each) == {"green"}
    # One that leaves in order is not waited for; one that comes knows the table before it places anybody.
    await balancers[1].stop()
    late = await start()
    assert colours(late) == {"green"}
    await until(lambda: len(applied(late)) == 3, "the other two")
    assert balancers[1].id not in applied(late)
    assert set(applied(late).values()) == {2}


async def test_writers_at_once_make_one_table(scene: Scene, start: Start) -> None:
    """Of ten orders over the same generation one is written."""
    await scene.node("blue", colour="blue")
    balancers = [await start(), await start()]
    for each in balancers:
        await until(lambda each=each: colours(each) == {"blue"}, "the node")
    orders = [TrafficOrder(0, {"blue": float(number + 1)}, f"writer {number}") for number in range(10)]
    answers = await asyncio.gather(
        *(balancers[number % 2].traffic.put(order) for number, order in enumerate(orders)), return_exceptions=True
    )
    assert sum(answer is None for answer in answers) == 1
    assert sum(isinstance(answer, OtherGeneration) for answer in answers) == 9
    written = orders[answers.index(None)]
    for each in balancers:
        await until(lambda each=each: each.traffic.generation == 1, "the table")
        assert each.traffic_state().weights == written.weights


async def test_a_balancer_that_is_cut_off_is_named(scene: Scene, start: Start) -> None:
    """It goes on by its last table and refuses to write; the others name it, until it is back and has followed."""
    for colour in ("blue", "green"):
        await scene.node(colour, colour=colour)
    link = await CutLink(scene.server.port).start()
    try:
        one, far = await start(), await start(link.port)
        for each in (one, far):
            await until(lambda each=each: colours(each) == {"blue", "green"} and len(applied(each)) == 2, "all")
        await one.traffic.put(TrafficOrder(0, {"blue": 100.0}))
        await until(lambda: applied(one)[far.id] == 1, "both at 1")
        link.cut()
        await one.traffic.put(TrafficOrder(1, {"green": 100.0}))
        [named] = [peer for peer in one.traffic_state().balancers if peer.id == far.id]
        assert named.generation == 1
        await until(lambda: one.traffic_state().balancers[1].silent_s > 2.5, "its silence")
        assert (colours(one), colours(far)) == ({"green"}, {"blue"})
        with pytest.raises(BusUnavailable):
            await far.traffic.put(TrafficOrder(1, {"blue": 100.0}))
        link.mend()
        await until(lambda: applied(one)[far.id] == 2 and one.traffic_state().balancers[1].silent_s < 2.5, "its return")
        assert colours(far) == {"green"}
    finally:
        await link.stop()


async def test_the_table_outlives_a_killed_nats(scene: Scene, start: Start) -> None:
    """While NATS is away all go on by the table; a balancer that starts afterwards has it."""
    for colour in ("blue", "green"):
        await scene.node(colour, colour=colour)
    one = await start()
    await until(lambda: colours(one) == {"blue", "green"}, "both colours")
    await one.traffic.put(TrafficOrder(0, {"green": 100.0}))
    await scene.kill_nats()
    await until(lambda: not one.nats_connected, "the loss")
    assert colours(one) == {"green"}
    await scene.bring_nats_back()
    await until(lambda: one.nats_connected, "NATS")
    late = await start()
    await until(lambda: colours(late), "the nodes")
    assert colours(late) == {"green"}
    assert late.traffic.generation == 1


async def test_a_balancer_starts_by_its_copy_while_nats_is_away(scene: Scene, start: Start, tmp_path: Path) -> None:
    """Its backends are listed, so it places clients at once; what NATS has counts again when it is back."""
    backends = (BackendEntry("http://127.0.0.1:9", group="blue"), BackendEntry("http://127.0.0.1:10", group="green"))
    listed: dict[str, Any] = {"backends": backends, "health": "off", "report_timeout_ms": 50}
    one = await start(**listed, store_dir=tmp_path / "kept")
    await one.traffic.put(TrafficOrder(0, {"green": 100.0}))
    await until(lambda: any((tmp_path / "kept").glob("traffic-copy.*.entry")), "the copy")
    await one.stop()
    await scene.kill_nats()
    late, bare = await asyncio.gather(start(**listed, store_dir=tmp_path / "kept"), start(**listed))
    assert (colours(late), late.traffic.generation) == ({"green"}, 1)
    assert (colours(bare), bare.traffic.generation) == ({"blue", "green"}, 0)
    await scene.bring_nats_back()
    await until(lambda: bare.traffic.generation == 1 and late.traffic.learned.is_set(), "the table")
    await bare.traffic.put(TrafficOrder(1, {"blue": 100.0}))
    await until(lambda: colours(late) == {"blue"}, "the next table")


async def test_rebalancing_rests_while_a_deploy_runs(scene: Scene, start: Start) -> None:
    """As the store says, begun by whoever; it is over in the states in which nothing is left to do."""
    one = await start()
    status = DeployStatus("d1", "moving", "blue", "green", "anna", "a1", 1, "", "")
    with capture_logs() as lines:
        for state, rests in (("moving", True), ("holding", True), ("done", False)):
            value = msgspec.json.encode(msgspec.structs.replace(status, state=state))
            await one._store.put(DEPLOY_KEY, value, None)
            await until(lambda state=state: one.deploys.status and one.deploys.status.state == state, state)
            assert one._rebalancer._rests() is rests
    assert [line["event"] for line in lines if "deploy" in line["event"]] == ["deploy_began", "deploy_ended"]


async def test_an_older_balancer_has_no_generation(scene: Scene, start: Start) -> None:
    """One of a release without tables is listed with 0, so that nobody takes it for one that has followed."""
    one = await start()
    await one.traffic.put(TrafficOrder(0, {"blue": 1.0}, force=True))
    await scene.publish("picks", b'{"balancer":"old","notices":[]}')
    await until(lambda: applied(one) == {one.id: 1, "old": 0}, "it")
