"""Nodes that drain at the same time share one rate, which those that take the clients can stand."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.balancer.talking import Caller, Scene
from tests.support.patience import patient
from trunkline.protocol.control import LoadReport, NodeReport
from trunkline.server.node.moving.drain import due, plan
from trunkline.server.node.moving.pace import FleetRate, Progress


def _report(name: str, clients: int = 0, accept_per_s: float | None = 100.0, **more: object) -> NodeReport:
    fields = {"state": "up", "version": "2", "run": name, **more}
    leaving = bool(fields.pop("leaving", False))
    return NodeReport(name, f"http://{name}:1", LoadReport(clients, accept_per_s=accept_per_s, **fields), leaving)


def test_nodes_that_drain_share_half_of_what_the_others_accept() -> None:
    """Each by its part of the clients, so that the sum is the rate, and all are done at the same time."""
    clients = {"a": 100, "b": 300, "c": 0, "d": 600}
    rates = {name: FleetRate(name, "1") for name in clients}
    for listener, name in itertools.product(clients, clients):
        rates[listener].hear(_report(name, clients[name], state="draining", version="1"), 0.0)
        rates[listener].hear(_report("new-1"), 0.0)
        rates[listener].hear(_report("new-2", accept_per_s=60.0), 0.0)
    found = {name: rates[name].per_s(count, 1.0) or 0.0 for name, count in clients.items() if count}
    assert sum(found.values()) == pytest.approx(80.0)
    assert [clients[name] / each for name, each in found.items()] == pytest.approx([1000 / 80] * 3)


def test_who_counts_as_taking_clients() -> None:
    """Nodes of another version when there are any; not those that left, fell silent, or do not say what they accept."""
    rate = FleetRate("me", "1")
    assert rate.per_s(10, 0.0) is None
    rate.hear(_report("me"), 0.0)
    rate.hear(_report("mute", accept_per_s=None), 0.0)
    assert rate.per_s(10, 0.0) is None
    rate.hear(_report("old", version="1"), 0.0)
    assert rate.per_s(10, 0.0) == 50.0
    rate.hear(_report("new", accept_per_s=40.0), 0.0)
    assert rate.per_s(10, 0.0) == 20.0
    rate.hear(_report("new", accept_per_s=0.0), 1.0)
    assert rate.per_s(10, 1.0) == 1.0
    rate.hear(_report("new", leaving=True), 1.0)
    assert rate.per_s(10, 1.0) == 50.0
    assert rate.per_s(10, 7.0) is None
    unversioned = FleetRate("me", "")
    unversioned.hear(_report("old", version=None), 0.0)
    unversioned.hear(_report("new"), 0.0)
    assert unversioned.per_s(10, 0.0) == 100.0


def test_a_plan_is_slowed_and_never_hurried() -> None:
    """100 clients in 10 s are 10 a second: at 5 a second it takes twice as long, at 50 as long as planned."""
    progress = Progress(0.0, 10.0, 100)
    progress.allow(5.0, 0.0)
    assert (progress.elapsed_s(4.0), progress.wait_s(5.0)) == (2.0, 6.0)
    progress.allow(50.0, 4.0)
    assert progress.elapsed_s(6.0) == 4.0
    progress.allow(None, 6.0)
    assert progress.elapsed_s(12.0) == 10.0


def test_the_deadline_counts_more_than_the_pace() -> None:
    """What would be cut is asked before, however little the others accept."""
    progress = Progress(0.0, 10.0, 100, ends_by=20.0)
    progress.allow(1.0, 0.0)
    assert progress.elapsed_s(10.0) == 5.0
    progress.allow(1.0, 10.0)
    assert progress.elapsed_s(20.0) == 10.0
    late = Progress(0.0, 10.0, 100, ends_by=5.0)
    late.allow(1.0, 0.0)
    assert late.elapsed_s(5.0) == 5.0


@given(
    st.lists(st.tuples(st.floats(0.01, 2.0), st.one_of(st.none(), st.floats(0.1, 1e4))), max_size=60),
    st.integers(1, 500),
)
def test_whatever_the_fleet_allows(steps: list[tuple[float, float | None]], count: int) -> None:
    """Never more clients than allowed in a step, and all are asked by the time that they must be."""
    slots = plan(count, 5.0, random.Random(count))
    progress = Progress(0.0, 5.0, count, ends_by=30.0)
    now, asked = 0.0, 0
    for step_s, per_s in steps:
        progress.allow(per_s, now)
        before, now = asked, now + step_s
        asked += len(due(slots, asked, progress.elapsed_s(now)))
        if per_s is not None and progress.speed * count / 5.0 <= per_s:
            assert asked - before <= per_s * step_s + 2
    while now < 30.0:
        progress.allow(0.1, now)
        now += 0.5
        asked += len(due(slots, asked, progress.elapsed_s(now)))
    assert asked == count


async def test_several_nodes_that_end_at_once_ask_their_clients_together(scene: Scene) -> None:
    """Three old nodes with 45 clients and one new one that accepts 40 a second: 20 a second are asked, in all."""
    old = [await scene.node(f"old-{number}", version="1") for number in range(3)]
    await scene.node("new-1", version="2", limits={"accept_per_s": 40.0})
    callers = [await scene.call(node) for node in old for _ in range(15)]
    times: list[float] = []

    async def read(caller: Caller) -> None:
        await caller.goodbye()
        times.append(asyncio.get_running_loop().time())

    began = asyncio.get_running_loop().time()
    for node in old:
        node.draining.begin(200)
    async with asyncio.timeout(patient(20)):
        await asyncio.gather(*(read(caller) for caller in callers))
    assert times[-1] - began > 45 / 20 * 0.8
    assert max(sum(at <= each < at + 1.0 for each in times) for at in times) <= 32


async def test_clients_are_asked_before_the_deadline_of_a_stop(scene: Scene) -> None:
    """A new node that accepts next to nothing slows the drain of an old one, but nobody is cut."""
    old = await scene.node("old-1", version="1")
    await scene.node("new-1", version="2", limits={"accept_per_s": 0.1})
    callers = [await scene.call(old) for _ in range(20)]
    reading = [asyncio.create_task(caller.goodbye()) for caller in callers]
    await asyncio.sleep(0)
    await scene.stop(old, drain_ms=200, deadline_ms=3000)
    assert [(await each)["code"] for each in reading] == [1001] * 20
    assert old.runtime.meter.cut == 0
