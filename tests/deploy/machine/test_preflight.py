"""What speaks against a deploy before anything is touched."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from tests.deploy.machine.simulation import fleet, plan
from tests.support.deploy.pretend_fleet import PretendFleet
from trunkline.deploy.machine.plan import Plan
from trunkline.deploy.machine.preflight import colours_with_traffic, refusals


def change(**values: object) -> Callable[[Plan], Plan]:
    """Another plan."""
    return lambda made: msgspec.structs.replace(made, **values)


def nothing(_: PretendFleet) -> None:
    """The fleet as it is."""


def small(there: PretendFleet) -> None:
    """Nodes that have just room for their clients."""
    for node in there.colour("blue"):
        node.capacity = 110


@pytest.mark.parametrize(
    ("there", "planned", "why"),
    [
        (lambda f: f.ensure("green", 1, ""), change(), "green has nodes already"),
        (nothing, change(nodes=0), "--nodes"),
        (lambda f: f.silent.add("b2"), change(), "the balancer b2 is silent"),
        (nothing, change(over_s=0.1), "--over 0.1s is too short for 200 clients"),
        (small, change(), "200 clients need 240"),
        (lambda f: f.put_traffic(0, {"blue": 50.0, "red": 50.0}, True), change(), "blue and red get new connections"),
        (lambda f: f.put_traffic(0, {"green": 100.0}, True), change(), "deploy to another one"),
        (lambda f: setattr(f.nodes["blue-1"], "colour", ""), change(), "has no colour"),
    ],
)
def test_what_speaks_against_it(
    there: Callable[[PretendFleet], object], planned: Callable[[Plan], Plan], why: str
) -> None:
    """Each is named with its value and its next step; without it nothing speaks against it."""
    scene = fleet(200)
    assert refusals(plan(), scene.view(), starts=True) == ()
    there(scene)
    assert why in "; ".join(refusals(planned(plan()), scene.view(), starts=True))


def test_silence_that_was_accepted_and_what_others_found() -> None:
    """`--without` names a balancer; runtime and load tester add what they know."""
    scene = fleet(10)
    scene.silent.add("b2")
    assert refusals(plan(without=("b2",)), scene.view(), starts=True, others=("", "no such app")) == ("no such app",)


def test_a_dead_old_colour_is_still_the_old_one() -> None:
    """It counts only where no other colour takes connections."""
    scene = fleet(10)
    for node in scene.colour("blue"):
        node.state = "down"
    assert colours_with_traffic(scene.view(), "green") == ("blue",)
    scene.ensure("red", 1, "")
    assert colours_with_traffic(scene.view(), "green") == ("red",)


def test_the_only_colour_there_is_is_not_held_by_a_deploy_to_it() -> None:
    """Without a table it has all clients; holding it would refuse everybody."""
    scene = fleet(10, starts=False)
    planned = plan(from_colour="", from_nodes=0, to_colour="blue")
    assert "blue is the colour that gets new connections" in "; ".join(refusals(planned, scene.view(), starts=False))
    scene.put_traffic(0, {"blue": 0.0}, True)
    assert refusals(planned, scene.view(), starts=False) == ()


def test_a_canary_becomes_the_colour_of_everybody() -> None:
    """Nodes that take a share already, started by somebody else; to a third colour it is unclear."""
    scene = fleet(10, starts=False)
    scene.ensure("green", 2, "")
    scene.put_traffic(0, {"blue": 90.0, "green": 10.0}, True)
    assert colours_with_traffic(scene.view(), "green") == ("blue",)
    assert refusals(plan(), scene.view(), starts=False) == ()
    assert "blue and green" in "; ".join(refusals(plan(to_colour="red"), scene.view(), starts=False))
