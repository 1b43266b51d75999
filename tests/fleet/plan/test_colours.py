"""Names, ports and refusals of nodes that join a fleet, without a process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trunkline.fleet.plan.colours import MOST_NODES, joining, refuses
from trunkline.fleet.plan.layout import FleetPlan, make_plan, part_command, part_environment, plan_ports
from trunkline.fleet.plan.parts import NodePlan
from trunkline.process.control.messages import EnsureNodes
from trunkline.settings.load import load


def plan_of(**environ: str) -> FleetPlan:
    return make_plan(load(None, environ, {}), 8080)


def joined(plan: FleetPlan, there: tuple[NodePlan, ...], order: EnsureNodes, *taken: int) -> tuple[NodePlan, ...]:
    return joining(plan, there, order, lambda _host, port: port not in taken)


def test_names_are_those_of_the_colour_and_ports_the_next_free_ones() -> None:
    """What somebody else listens on is passed over, and so are the places of the fleet's own parts."""
    plan = plan_of()
    assert max(plan_ports(plan)) == 8085
    nodes = joined(plan, plan.nodes, EnsureNodes("green", 3), 8089)
    assert [(node.name, node.colour, node.port, node.admin_port) for node in nodes] == [
        ("green-1", "green", 8086, 8087),
        ("green-2", "green", 8090, 8091),
        ("green-3", "green", 8092, 8093),
    ]


def test_only_those_that_are_missing_join() -> None:
    """Asked twice nobody joins; a colour that comes back has its names again, whoever left."""
    plan = plan_of()
    green = joined(plan, plan.nodes, EnsureNodes("green", 2))
    there = (*plan.nodes, *green)
    assert joined(plan, there, EnsureNodes("green", 2)) == ()
    assert [node.name for node in joined(plan, there, EnsureNodes("green", 3))] == ["green-3"]
    assert [node.name for node in joined(plan, green, EnsureNodes("blue", 2))] == ["blue-1", "blue-2"]
    assert joined(plan, plan.nodes, EnsureNodes("blue", 2)) == ()


def test_a_colour_called_as_the_first_nodes_are() -> None:
    """No name is there twice: `node-1` is taken."""
    plan = plan_of()
    assert [node.name for node in joined(plan, plan.nodes, EnsureNodes("node", 2))] == ["node-3", "node-4"]


@given(count=st.integers(1, 20), taken=st.sets(st.integers(8086, 8150)))
def test_no_port_is_there_twice(count: int, taken: set[int]) -> None:
    """Whatever others listen on."""
    plan = plan_of()
    nodes = joined(plan, plan.nodes, EnsureNodes("green", count), *taken)
    ports = [port for node in (*plan.nodes, *nodes) for _, port in node.ports]
    assert len(nodes) == count
    assert len(set(ports)) == len(ports)
    assert not set(ports) & taken


def test_what_a_node_runs_is_in_its_command_and_environment() -> None:
    """Application, interpreter and release; without its own release another interpreter has none of the fleet's."""
    plan = plan_of(TRUNKLINE_SERVER_APP="chat:app")
    (own,) = joined(plan, (), EnsureNodes("green", 1))
    assert part_command(plan, own, "nats://h", "python")[:5] == ["python", "-m", "trunkline", "serve", "chat:app"]
    (other,) = joined(plan, (), EnsureNodes("green", 1, app="shop:app", python="/old/python", version="7"))
    command = part_command(plan, other, "nats://h", "python")
    assert command[:5] == ["/old/python", "-m", "trunkline", "serve", "shop:app"]
    assert command[command.index("--colour") + 1] == "green"
    environ = {"TRUNKLINE_SERVER_VERSION": "8"}
    assert part_environment(plan, own, environ)["TRUNKLINE_SERVER_VERSION"] == "8"
    assert part_environment(plan, other, environ)["TRUNKLINE_SERVER_VERSION"] == "7"
    (older,) = joined(plan, (), EnsureNodes("green", 1, python="/old/python"))
    assert "TRUNKLINE_SERVER_VERSION" not in part_environment(plan, older, environ)


def test_refusals_name_what_is_there() -> None:
    """Nodes of one colour are alike, and there is an end to their number."""
    plan = plan_of()
    assert refuses(plan.nodes, EnsureNodes("green", 2, app="new:app"), "") == ""
    assert refuses(plan.nodes, EnsureNodes("blue", 2, app="new:app"), "") == ""
    assert refuses(plan.nodes, EnsureNodes("blue", 3, app="new:app"), "") == (
        "node-1 runs already with app 'of the fleet', not 'new:app'; nodes of one colour are alike"
    )
    assert "2 nodes run, and 63 more are above the 64" in refuses(plan.nodes, EnsureNodes("green", MOST_NODES - 1), "")
