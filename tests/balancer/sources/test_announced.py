"""Which nodes there are, by what they say of themselves."""

from __future__ import annotations

from trunkline.balancer.sources.announced import GONE_S, MOST, Announced
from trunkline.protocol.control import LoadReport, NodeReport


def said(node: str, url: str, run: str = "r", *, leaving: bool = False) -> NodeReport:
    return NodeReport(node, url, LoadReport(0, run=run), leaving)


def urls(nodes: Announced) -> list[str]:
    return [spec.url for spec in nodes.specs]


def test_comes_and_leaves() -> None:
    """A node is there from its first report to its last words, and only its own."""
    nodes = Announced()
    assert nodes.reported(said("a", "http://a:1"), 1.0)
    assert not nodes.reported(said("a", "http://a:1"), 2.0)
    [spec] = nodes.specs
    assert (spec.name, spec.source, spec.group) == ("a", "nats", "")
    assert not nodes.reported(said("a", "http://a:1", "earlier", leaving=True), 3.0)
    assert nodes.reported(said("a", "http://a:1", leaving=True), 3.0)
    assert not nodes.reported(said("a", "http://a:1", leaving=True), 3.0)
    assert not nodes.specs


def test_silence() -> None:
    """A node that is not heard for seven seconds is gone, one that is stays."""
    nodes = Announced()
    nodes.reported(said("a", "http://a:1"), 0.0)
    nodes.reported(said("b", "http://b:1"), 4.0)
    assert not nodes.expire(GONE_S)
    assert nodes.expire(GONE_S + 0.1) == ("http://a:1",)
    assert urls(nodes) == ["http://b:1"]


def test_deaf() -> None:
    """While NATS is away, and seven seconds after it is back, nobody is taken for gone."""
    nodes = Announced()
    nodes.reported(said("a", "http://a:1"), 0.0)
    nodes.connected(False, 1.0)
    assert not nodes.expire(1000.0)
    nodes.connected(True, 1000.0)
    assert not nodes.expire(1000.0 + GONE_S - 0.1)
    assert nodes.expire(1000.0 + GONE_S + 0.1)


def test_another_url() -> None:
    """A node that comes back under another URL takes the place of what it was."""
    nodes = Announced()
    nodes.reported(said("a", "http://a:1", "r1"), 0.0)
    nodes.reported(said("a", "http://a:2", "r2"), 1.0)
    assert urls(nodes) == ["http://a:2"]
    nodes.reported(said("a", "http://a:3", "r2"), 2.0)
    assert urls(nodes) == ["http://a:3"]
    assert not nodes.shared


def test_shared_name() -> None:
    """Two living nodes of one name are both kept, and the name is told."""
    nodes = Announced()
    for at in range(3):
        nodes.reported(said("a", "http://a:1", "r1"), at)
        nodes.reported(said("a", "http://a:2", "r2"), at + 0.5)
    assert sorted(urls(nodes)) == ["http://a:1", "http://a:2"]
    assert nodes.shared == {"a"}


def test_no_more_than_a_fleet_has() -> None:
    """Beyond the limit new nodes are turned away and counted, those that are known are heard on."""
    nodes = Announced()
    for number in range(MOST + 3):
        nodes.reported(said(f"n{number}", f"http://n{number}:1", f"r{number}"), 0.0)
    assert (len(nodes.specs), nodes.turned_away) == (MOST, 3)
    nodes.reported(said("n0", "http://n0:1", "r0"), GONE_S)
    assert len(nodes.expire(GONE_S + 0.1)) == MOST - 1
