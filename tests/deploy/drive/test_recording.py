"""What is recorded of a deploy: counts of nodes that begin again, answer late, do not count, or are many."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.support.deploy.pretend_fleet import PretendFleet, PretendNode
from trunkline.bus.store.keys import VALUE_BYTES
from trunkline.deploy.drive.recording import MOST_KEPT, RUNS, Kept, Recorder, together
from trunkline.deploy.machine.plan import Deploy, Plan
from trunkline.deploy.verdict.facts import DeployFacts, WitnessFacts
from trunkline.deploy.world.base import FleetView
from trunkline.protocol.deploys import DeployState
from trunkline.protocol.goodbyes import MoveCounts
from trunkline.protocol.traffic import TrafficState

FLEET = FleetView((), TrafficState(1, {"blue": 100.0}, (), ()))
BOUNDS = ("0.05", "0.1", "0.25", "0.5", "1.0", "2.0", "5.0", "10.0", "30.0", "60.0", "+Inf")


def deploy(state: DeployState = "planned", **values: object) -> Deploy:
    """From blue to green."""
    return replace(Deploy(Plan("d1", "blue", "green", 2, 2), state=state), **values)


def counts(node: str = "blue-1", run: str = "r1", **values: object) -> MoveCounts:
    """Of one node, whose name begins with its colour."""
    zero = dict.fromkeys(BOUNDS, 0)
    made = MoveCounts(node, run, node.partition("-")[0], "", 0, 0, 0, 0, 0, {}, zero, 0, 0, 0, {}, 0, 0.0)
    return replace(made, **values)


def test_a_node_that_has_started_again_adds_all_that_it_counts() -> None:
    """And what the process before it had counted stays; what was there before the deploy is none of it."""
    recorder = Recorder(Kept("d1"))
    now = deploy("moving")
    recorder.take(1.0, now, FLEET, [counts(asked=1_000, nameless=10)], 0)
    recorder.take(2.0, now, FLEET, [counts(asked=1_040, nameless=10)], 0)
    recorder.take(3.0, now, FLEET, [counts(run="r2", asked=25), counts("green-1", resumed={"blue": 60})], 0)
    recorder.take(4.0, now, FLEET, [counts(run="r2", asked=30), counts("green-1", resumed={"blue": 120})], 0)
    facts = recorder.facts(now, 5.0, "", None).clients
    assert (facts.asked, facts.returned, facts.never_back) == (70, 60, 10)


def test_what_is_kept_is_gone_on_from_by_another_process() -> None:
    """Nothing is counted twice, and nothing is missed that happened while nobody looked."""
    now, first = deploy("moving"), Recorder(Kept("d1"))
    first.take(1.0, now, FLEET, [counts(asked=5)], 0)
    first.take(2.0, now, FLEET, [counts(asked=9)], 0)
    second = Recorder(msgspec.json.decode(first.encoded(), type=Kept))
    second.take(30.0, now, FLEET, [counts(asked=25)], 0)
    assert second.facts(now, 31.0, "", None).clients.asked == 20


def test_processes_of_a_node_that_crashes_again_and_again_are_not_kept_for_ever() -> None:
    """Their counts are."""
    recorder = Recorder(Kept("d1"))
    for number in range(100):
        recorder.take(float(number), deploy("moving"), FLEET, [counts(run=f"r{number}", asked=1)], 0)
    assert len(recorder.kept.tracked) == RUNS
    assert recorder.facts(deploy("moving"), 100.0, "", None).clients.asked == 99


def test_what_is_kept_of_a_large_fleet_fits_into_the_store() -> None:
    """A thousand nodes and as many samples as are kept: every node's counts are there, with fewer samples."""
    recorder, now = Recorder(Kept("d1")), deploy("moving")
    returned = dict.fromkeys(BOUNDS, 123_456)
    for second in range(MOST_KEPT):
        few = [counts(f"blue-{second}", asked=50_000, opened=90_000, closed=90_000, returned=returned)]
        recorder.take(float(second), now, FLEET, few, 50)
    data = recorder.encoded()
    assert len(data) < VALUE_BYTES
    kept = msgspec.json.decode(data, type=Kept)
    assert (len(kept.tracked), len(recorder.kept.samples)) == (MOST_KEPT, MOST_KEPT)
    assert kept.samples[-1] == recorder.kept.samples[-1]


def test_a_node_that_answers_late_makes_no_burst() -> None:
    """What it has opened meanwhile is spread over the time since it answered last."""
    recorder, now = Recorder(Kept("d1")), deploy("moving")
    recorder.take(1.0, now, FLEET, [counts("green-1", opened=100), counts("green-2", opened=0)], 0)
    recorder.take(2.0, now, FLEET, [counts("green-2", opened=20)], 0)
    recorder.take(5.0, now, FLEET, [counts("green-1", opened=180), counts("green-2", opened=80)], 0)
    assert recorder.kept.peak_per_s == 40.0


def test_the_way_back_makes_no_peak_of_another_colour() -> None:
    """What the old colour has opened since the deploy began did not come in the second in which it gets traffic."""
    recorder = Recorder(Kept("d1"))
    there, back = deploy("moving"), deploy("returning")
    for at, now, blue, green in ((0, there, 0, 0), (1, there, 900, 10), (2, back, 901, 10), (3, back, 921, 10)):
        recorder.take(float(at), now, FLEET, [counts("blue-1", opened=blue), counts("green-1", opened=green)], 0)
    assert recorder.kept.peak_per_s == 20.0


def test_usual_departures_are_those_while_nobody_was_asked() -> None:
    """Smoking connects to the old colour as well, and leaves it: that is no departure."""
    recorder = Recorder(Kept("d1"))
    states: list[tuple[DeployState, int]] = [("gating", 2), ("smoking", 60), ("verifying", 4)]
    at = closed = 0
    for state, leave in states:
        for _ in range(10):
            at, closed = at + 1, closed + leave // 2
            recorder.take(float(at), deploy(state), FLEET, [counts(closed=closed)], 0)
    facts = recorder.facts(deploy("moving", since=30.0), 90.0, "", None)
    assert facts.clients.usual_departures == 60 * (9 * 1 + 9 * 2) / 18


def test_quantiles_of_returns_beyond_the_last_bound() -> None:
    """They are that bound, also when nobody was faster."""
    recorder, now = Recorder(Kept("d1")), deploy("moving")
    recorder.take(1.0, now, FLEET, [counts("green-1")], 0)
    recorder.take(2.0, now, FLEET, [counts("green-1", returned={**dict.fromkeys(BOUNDS, 0), "+Inf": 3})], 0)
    assert recorder.facts(now, 3.0, "", None).clients.away_s == {"p50": 60.0, "p99": 60.0, "max": 60.0}


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


def test_who_came_back_is_unknown_after_an_outage_of_the_bus() -> None:
    """What nodes tell each other over it may be lost without notice, in flight or before all of them are back."""
    recorder = Recorder(Kept("d1"))
    recorder.take(0.0, deploy("moving"), FLEET, [counts(asked=0)], 0)
    recorder.take(1.0, deploy("moving"), FLEET, [counts(asked=60, resumed={"blue": 44})], 0)
    seen = recorder.facts(deploy("done"), 2.0, "", None).clients
    assert (seen.returned, seen.never_back) == (44, 16)
    unseen = recorder.facts(deploy("done", outage_at=1.0), 2.0, "", None).clients
    assert (unseen.returned, unseen.never_back) == (None, None)


def test_witnesses_of_two_processes_are_other_sessions() -> None:
    """Of all that were there not more can have moved than there were."""
    both = together(
        WitnessFacts(50, 10, 50, 0, 0, 0, 50, {"p99": 2.0}, absent=1),
        WitnessFacts(50, 20, 100, 1, 0, 0, 50, {"p99": 1.0}, why="b"),
    )
    assert both == WitnessFacts(100, 30, 150, 1, 0, 0, 100, {"p99": 2.0}, why="b", absent=1)
