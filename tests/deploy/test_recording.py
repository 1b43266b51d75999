"""What of a deploy is known by what its nodes count."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.deploy.pretend_fleet import PretendFleet, PretendNode
from trunkline.deploy.machine.plan import Deploy, Plan
from trunkline.deploy.recording import Kept, Recorder
from trunkline.deploy.verdict.facts import DeployFacts
from trunkline.protocol.deploys import DeployState


def moved(counting: set[str], state: DeployState = "done") -> DeployFacts:
    """The facts of a deploy of thirty clients, of which one did not come back; only the nodes of `counting` count."""
    fleet = PretendFleet(PretendNode("blue-1", "blue", 30), PretendNode("green-1", "green", 1))
    recorder = Recorder(Kept("d1"))
    deploy = Deploy(Plan("d1", "blue", "green", 1), "moving")

    def look(at_s: float) -> None:
        view = fleet.view()
        recorder.take(at_s, deploy, view, [fleet.counts(n) for n in fleet.nodes.values() if n.name in counting], 0)

    look(1.0)
    recorder.ordered(fleet.view().nodes[0], fleet.move("blue-1", 10, 0))
    recorder.ordered(fleet.view().nodes[0], fleet.move("blue-1", 20, 0))
    green = fleet.nodes["green-1"]
    green.resumed["blue"], green.opened = 29, green.opened + 30
    look(2.5)
    return recorder.facts(replace(deploy, state=state), 3.0, "2026-01-02T03:04:05Z", None)


@pytest.mark.parametrize(
    ("counting", "state", "known"),
    [
        ({"blue-1", "green-1"}, "done", {"returned": 29, "never_back": 1, "gaps": 0, "recovered": 0, "refused": {}}),
        ({"green-1"}, "done", {"returned": None, "never_back": None, "gaps": None, "recovered": 0, "refused": {}}),
        ({"green-1"}, "rolled_back", {"returned": None, "never_back": None, "gaps": None, "recovered": None}),
        ({"blue-1"}, "done", {"returned": None, "never_back": None, "gaps": None, "recovered": None, "refused": None}),
        (set(), "done", {"returned": None, "never_back": None, "gaps": None, "recovered": None, "refused": None}),
    ],
    ids=["all count", "old does not", "old does not and gets clients back", "new does not", "none counts"],
)
def test_what_only_nodes_know_is_unknown_where_one_of_them_does_not_count(
    counting: set[str], state: DeployState, known: dict[str, Any]
) -> None:
    """How many were asked is known all the same: by the answers to the orders."""
    facts = moved(counting, state)
    assert facts.clients.asked == 30
    assert {name: getattr(facts.clients, name) for name in known} == known
    assert (facts.rates.peak_per_s is None) == (known["recovered"] is None)
