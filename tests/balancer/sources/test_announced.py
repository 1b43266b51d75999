"""Which nodes there are, by what they say of themselves."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.balancer.told_lists import running
from trunkline.balancer.sources import announced, nats
from trunkline.balancer.sources.announced import MOST, SILENT_S, Announced, Silence
from trunkline.protocol.control import LoadReport, NodeReport

FORGET_S = 900.0


def said(node: str, url: str, run: str = "r", *, leaving: bool = False) -> NodeReport:
    return NodeReport(node, url, LoadReport(0, run=run), leaving)


def urls(nodes: Announced) -> list[str]:
    return [spec.url for spec in nodes.specs]


def test_comes_and_leaves() -> None:
    """A node is there from its first report to its last words, and only its own."""
    nodes = Announced(FORGET_S)
    assert nodes.reported(said("a", "http://a:1"), 1.0)
    assert not nodes.reported(said("a", "http://a:1"), 2.0)
    [spec] = nodes.specs
    assert (spec.name, spec.source, spec.group) == ("a", "nats", "")
    assert not nodes.reported(said("a", "http://a:1", "earlier", leaving=True), 3.0)
    assert nodes.reported(said("a", "http://a:1", leaving=True), 3.0)
    assert not nodes.reported(said("a", "http://a:1", leaving=True), 3.0)
    assert not nodes.specs


def silent(nodes: Announced) -> list[str]:
    return [spec.url for spec in nodes.specs if spec.silent]


def test_silence() -> None:
    """A node that is not heard for seven seconds stays listed, marked; it goes after the time to forget."""
    nodes = Announced(FORGET_S)
    nodes.reported(said("a", "http://a:1"), 0.0)
    nodes.reported(said("b", "http://b:1"), 4.0)
    assert nodes.look(SILENT_S) == Silence((), ())
    assert nodes.look(SILENT_S + 0.1) == Silence(("http://a:1",), ())
    assert (urls(nodes), silent(nodes)) == (["http://a:1", "http://b:1"], ["http://a:1"])
    nodes.reported(said("b", "http://b:1"), 899.0)
    assert nodes.look(FORGET_S) == Silence((), ())
    assert nodes.look(FORGET_S + 0.2) == Silence((), ("http://a:1",))
    assert (urls(nodes), silent(nodes)) == (["http://b:1"], [])


def test_a_silent_node_that_reports_again_is_there() -> None:
    """It was frozen, and goes on."""
    nodes = Announced(FORGET_S)
    nodes.reported(said("a", "http://a:1"), 0.0)
    nodes.look(10.0)
    assert nodes.reported(said("a", "http://a:1"), 60.0), "the list has changed"
    assert silent(nodes) == []
    nodes.look(70.0)
    assert nodes.reported(said("a", "http://a:1", leaving=True), 71.0)
    assert urls(nodes) == []


@pytest.mark.parametrize(
    "new",
    [said("a", "http://a:2", "r2"), said("b", "https://a:1", "r2"), said("b", "http://a:1", "r2")],
    ids=["name", "place", "url"],
)
def test_a_silent_node_makes_way_for_its_successor(new: NodeReport) -> None:
    """A node of its name, or at its host and port, is the one that was started in its place."""
    nodes = Announced(FORGET_S)
    nodes.reported(said("a", "http://a:1"), 0.0)
    nodes.reported(said("other", "http://other:1"), 9.0)
    nodes.look(10.0)
    assert nodes.reported(new, 11.0)
    assert sorted(urls(nodes)) == sorted([new.url, "http://other:1"])
    assert silent(nodes) == []


def test_one_of_a_shared_name_that_is_silent_makes_way_too() -> None:
    """A third of the name takes the place of the dead one, not of the living."""
    nodes = Announced(FORGET_S)
    for at in range(3):
        nodes.reported(said("a", "http://a:1", "r1"), at)
        nodes.reported(said("a", "http://a:2", "r2"), at + 0.5)
    nodes.reported(said("a", "http://a:2", "r2"), 9.0)
    nodes.look(10.0)
    nodes.reported(said("a", "http://a:3", "r3"), 11.0)
    assert sorted(urls(nodes)) == ["http://a:2", "http://a:3"]


def test_deaf() -> None:
    """While NATS is away, and seven seconds after it is back, nobody is taken for silent; none is forgotten sooner."""
    nodes = Announced(FORGET_S)
    nodes.reported(said("a", "http://a:1"), 0.0)
    nodes.connected(False, 1.0)
    assert nodes.look(1000.0) == Silence((), ())
    nodes.connected(True, 1000.0)
    assert nodes.look(1000.0 + SILENT_S - 0.1) == Silence((), ())
    assert nodes.look(1000.0 + SILENT_S + 0.1).fell == ("http://a:1",)
    assert nodes.look(1000.0 + FORGET_S - 0.1) == Silence((), ())
    assert nodes.look(1000.0 + FORGET_S + 0.2).forgotten == ("http://a:1",)


def test_another_url() -> None:
    """A node that comes back under another URL takes the place of what it was."""
    nodes = Announced(FORGET_S)
    nodes.reported(said("a", "http://a:1", "r1"), 0.0)
    nodes.reported(said("a", "http://a:2", "r2"), 1.0)
    assert urls(nodes) == ["http://a:2"]
    nodes.reported(said("a", "http://a:3", "r2"), 2.0)
    assert urls(nodes) == ["http://a:3"]
    assert not nodes.shared


def test_shared_name() -> None:
    """Two living nodes of one name are both kept, and the name is told."""
    nodes = Announced(FORGET_S)
    for at in range(3):
        nodes.reported(said("a", "http://a:1", "r1"), at)
        nodes.reported(said("a", "http://a:2", "r2"), at + 0.5)
    assert sorted(urls(nodes)) == ["http://a:1", "http://a:2"]
    assert nodes.shared == {"a"}


def test_no_more_than_a_fleet_has() -> None:
    """Beyond the limit new nodes are turned away and counted, those that are known are heard on."""
    nodes = Announced(FORGET_S)
    for number in range(MOST + 3):
        nodes.reported(said(f"n{number}", f"http://n{number}:1", f"r{number}"), 0.0)
    assert (len(nodes.specs), nodes.turned_away) == (MOST, 3)
    nodes.reported(said("n0", "http://n0:1", "r0"), SILENT_S)
    assert len(nodes.look(SILENT_S + 0.1).fell) == MOST - 1
    assert nodes.reported(said("new", "http://new:1", "new"), 20.0), "a silent one makes way"
    assert len(nodes.specs) == MOST
    assert "http://n1:1" not in urls(nodes)


def test_nodes_without_a_run_do_not_remove_each_other_for_ever() -> None:
    """Two of one name, of another make: both are kept, as those with runs are."""
    nodes = Announced(FORGET_S)
    for at in range(3):
        for url in ("http://a:1", "http://a:2"):
            nodes.reported(NodeReport("a", url, LoadReport(0)), at)
    assert sorted(urls(nodes)) == ["http://a:1", "http://a:2"]
    assert nodes.shared == {"a"}


def test_the_goodbye_of_one_behind_a_shared_url_takes_the_other_out_of_nothing() -> None:
    """Two nodes announce a load balancer before them."""
    nodes = Announced(FORGET_S)
    nodes.reported(said("a", "http://both:1", "r1"), 0.0)
    nodes.reported(said("b", "http://both:1", "r2"), 1.0)
    assert not nodes.reported(said("a", "http://both:1", "r1", leaving=True), 2.0)
    assert urls(nodes) == ["http://both:1"]


async def test_a_stall_of_the_balancer_makes_nobody_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the nodes sent meanwhile is read in the same moment, after the look."""
    monkeypatch.setattr(announced, "SILENT_S", 0.3)
    monkeypatch.setattr(nats, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(nats, "STALL_S", 0.2)
    source = nats.NatsSource(FORGET_S)
    async with running(source) as lists:
        await lists.until(lambda specs: not specs)
        source.reported(said("a", "http://a:1"))
        time.sleep(0.5)
        await asyncio.sleep(0.05)
        source.reported(said("a", "http://a:1"))
        assert len(lists.all) == 2
        await lists.until(lambda specs: [spec.silent for spec in specs] == [True])
