"""What is recorded of a deploy, and what of it is known by what its nodes count."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.deploy.pretend_fleet import PretendFleet, PretendNode
from trunkline.deploy.machine.plan import Deploy, Plan
from trunkline.deploy.recording import Kept, Recorder, together
from trunkline.deploy.verdict.facts import DeployFacts, WitnessFacts
from trunkline.deploy.world import FleetView
from trunkline.protocol.deploys import DeployState
from trunkline.protocol.goodbyes import MoveCounts
from trunkline.protocol.traffic import TrafficState


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


DEPLOY = Deploy(Plan(id="d-1", from_colour="blue", to_colour="green", nodes=1), state="moving")


def counts(colour: str, opened: int) -> MoveCounts:
    return MoveCounts(f"{colour}-1", "r", colour, "", 0, opened, 0, 0, 0, {}, {}, 0, 0, 0, {}, 0, 0.0)


def test_the_way_back_makes_no_peak_of_another_colour() -> None:
    """What the old colour has opened since the deploy began did not come in the second in which it gets traffic."""
    fleet = FleetView((), TrafficState(1, {}, (), (), "", ""))
    recorder = Recorder(Kept("d-1"))
    back = replace(DEPLOY, state="returning")
    for at, deploy, blue, green in ((0, DEPLOY, 0, 0), (1, DEPLOY, 900, 10), (2, back, 901, 10), (3, back, 921, 10)):
        recorder.take(float(at), deploy, fleet, [counts("blue", blue), counts("green", green)], 0)
    assert recorder.kept.peak_per_s == 20.0


def test_witnesses_of_two_processes_are_other_sessions() -> None:
    """Of all that were there not more can have moved than there were."""
    both = together(
        WitnessFacts(50, 10, 50, 0, 0, 0, 50, {"p99": 2.0}, absent=1),
        WitnessFacts(50, 20, 100, 1, 0, 0, 50, {"p99": 1.0}, why="b"),
    )
    assert both == WitnessFacts(100, 30, 150, 1, 0, 0, 100, {"p99": 2.0}, why="b", absent=1)
