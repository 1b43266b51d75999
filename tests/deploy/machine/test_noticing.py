"""What a deploy notes of parts that go away, and that an outage of the bus is no fault of the new colour."""

from __future__ import annotations

import msgspec

from tests.deploy.machine.simulation import fleet, plan
from tests.support.deploy.pretend_fleet import PretendFleet, PretendNode
from trunkline.deploy.machine.plan import Deploy
from trunkline.deploy.machine.seen import Action, Move, Seen
from trunkline.deploy.machine.step import step


def moving(there: PretendFleet) -> Deploy:
    """A deploy that has begun to move clients to two nodes of green."""
    for name in ("green-1", "green-2"):
        there.nodes[name] = PretendNode(name, "green")
    there.put_traffic(0, {"green": 100.0}, force=True)
    there.pass_time(0.0)
    deploy, _ = step(Deploy(plan(), "moving", switched=True), there.seen(Seen(0.0), "moving"))
    assert deploy.marks is not None
    return deploy


def next_step(deploy: Deploy, there: PretendFleet, **seen: object) -> Deploy:
    there.pass_time(0.5)
    return step(deploy, msgspec.structs.replace(there.seen(Seen(there.now), deploy.state), **seen))[0]


def test_what_goes_and_comes_back_is_noted_once_each() -> None:
    """Nodes of both colours and balancers; one that is not listed any more has not come back."""
    there = fleet(100)
    deploy = moving(there)
    assert deploy.notes == ()
    there.nodes["blue-1"].state = there.nodes["green-1"].state = "down"
    there.silent = {"b2"}
    for _ in range(3):
        deploy = next_step(deploy, there)
    assert [note.partition(",")[0] for note in deploy.notes] == [
        "balancer b2 is gone", "node blue-1 is gone", "node green-1 is gone"
    ]  # fmt: skip
    del there.nodes["blue-1"]
    there.nodes["green-1"].state = "up"
    there.silent = set()
    for _ in range(3):
        deploy = next_step(deploy, there)
    assert [note.partition(",")[0] for note in deploy.notes[3:]] == [
        "balancer b2 is there again", "node green-1 is there again"
    ]  # fmt: skip
    assert deploy.missing == ("node blue-1",)


def test_what_the_deploy_removes_is_not_noted() -> None:
    """The old colour goes when it is retired, the new one when clients return."""
    for state, removed in (("retiring", "blue-1"), ("returning", "green-1")):
        there = fleet(0)
        deploy = msgspec.structs.replace(moving(there), state=state)
        there.nodes[removed].state = "down"
        assert next_step(deploy, there).notes == ()


def test_faults_while_the_bus_is_away_are_not_held_against_the_new_colour() -> None:
    """Nodes are watched again from their next answer; the same faults without an outage return the clients."""
    for during, after, ends_in in (
        ({"counts": {}}, {}, "moving"),
        ({}, {"unstored_s": 4.0}, "moving"),
        ({}, {}, "returning"),
    ):
        there = fleet(100)
        deploy = next_step(moving(there), there, **during)
        there.nodes["green-1"].faults += 100
        deploy = next_step(deploy, there, **after)
        assert next_step(deploy, there).state == ends_in
        assert len(deploy.notes) == len(during) + len(after)


def test_nodes_that_were_without_the_bus_are_not_dead() -> None:
    """All are shown as down until they are checked again: nobody is left behind, and the new colour not given up."""
    there = fleet(100)
    deploy = moving(there)
    for node in there.nodes.values():
        node.state = "down"
    deploy = next_step(deploy, there)
    there.now += 10.0
    deploy = next_step(deploy, there, unstored_s=10.0)
    for _ in range(10):
        deploy = next_step(deploy, there)
    assert deploy.state == "moving"
    for node in there.nodes.values():
        node.state = "up"
    orders: list[Action] = []
    for _ in range(10):
        there.pass_time(0.5)
        deploy, actions = step(deploy, there.seen(Seen(there.now), deploy.state))
        orders += actions
    assert {order.node.name for order in orders if isinstance(order, Move)} == {"blue-1", "blue-2"}


def test_nodes_that_stay_down_after_an_outage_are_dead() -> None:
    """The time that they have is bounded."""
    there = fleet(100)
    deploy = next_step(moving(there), there, unstored_s=10.0)
    for name in ("blue-1", "blue-2"):
        there.nodes[name].state = "down"
    for _ in range(40):
        deploy = next_step(deploy, there)
    assert "moving" in {span.state for span in deploy.spans}


def test_nodes_that_do_not_count_are_no_outage() -> None:
    """Once nodes that count are removed, only those of an older release are left: the bus is not away."""
    there = fleet(100)
    deploy = moving(there)
    assert deploy.marks is not None
    blue = {node.url: deploy.marks[node.url] for node in there.view().colour("blue")}
    deploy = msgspec.structs.replace(deploy, marks=blue)
    removing = next_step(msgspec.structs.replace(deploy, state="retiring"), there, counts={})
    assert removing.notes == ()
    assert any("no node answered" in note for note in next_step(deploy, there, counts={}).notes)
