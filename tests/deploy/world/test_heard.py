"""What is known of nodes from their reports."""

from __future__ import annotations

from trunkline.deploy.world.heard import HEARD_S, Heard
from trunkline.protocol.control import LoadReport, NodeReport


def report(node: str, url: str, connections: int = 0, *, leaving: bool = False) -> NodeReport:
    return NodeReport(node, url, LoadReport(connections), leaving=leaving)


def test_the_newest_report_counts_for_a_while() -> None:
    """A node is found by its name, or by its address however it is spelled, until it has been silent for too long."""
    heard = Heard()
    heard.reported(report("n1", "http://H:3001/", 1), 100.0)
    heard.reported(report("n1", "http://h:3001", 2), 105.0)
    for url, name in (("http://other", "n1"), ("http://h:3001", ""), ("http://H:3001/", "")):
        found = heard.find(url, name, 105.0 + HEARD_S - 0.1)
        assert found is not None
        assert found.report.agentsConnections == 2
        assert heard.find(url, name, 105.0 + HEARD_S) is None
    assert heard.find("http://h:3001", "n2", 105.0) is None
    assert heard.find("http://h:3002", "", 105.0) is None


def test_who_left_is_forgotten() -> None:
    """A node's last message removes it; of two that had one address in turn the later one is found."""
    heard = Heard()
    heard.reported(report("n1", "http://h:3001"), 100.0)
    heard.reported(report("n2", "http://h:3001"), 101.0)
    found = heard.find("http://h:3001", "", 102.0)
    assert found is not None
    assert found.node == "n2"
    heard.reported(report("n2", "http://h:3001", leaving=True), 102.0)
    found = heard.find("http://h:3001", "", 103.0)
    assert found is not None
    assert found.node == "n1"
