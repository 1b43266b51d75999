"""Nodes that join a fleet while it runs: their names and places, and who may not join. Pure.

Rules:

- They are called by their colour and a number, the smallest that is free: `green-1`, `green-2`. So a colour that was
  removed and comes back has the same names, and the same log files.
- Their ports are the next ones behind those of the fleet that can be used; nobody connects to a node but its edge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from trunkline.fleet.plan.layout import LAST_PORT, PORT_STEP, FleetPlan, plan_ports
from trunkline.fleet.plan.parts import HOST, NodePlan
from trunkline.process.control.messages import EnsureNodes

MOST_NODES = 64
"""Nodes of one fleet on a machine, those of all colours together."""


def refuses(there: Sequence[NodePlan], order: EnsureNodes, app: str) -> str:
    """Why `order` cannot be carried out beside the nodes that are there, empty when it can; `app` is the fleet's."""
    own = [node for node in there if node.colour == order.colour]
    missing = order.count - len(own)
    if missing + len(there) > MOST_NODES:
        return f"{len(there)} nodes run, and {missing} more are above the {MOST_NODES} that a fleet may have here"
    wanted = (order.app or app, order.python, order.version)
    for node in own if missing > 0 else ():
        if (runs := (node.app, node.python, node.version)) != wanted:
            different = next(
                f"{name} {is_there or 'of the fleet'!r}, not {asked or 'of the fleet'!r}"
                for name, is_there, asked in zip(("app", "python", "version"), runs, wanted, strict=True)
                if is_there != asked
            )
            return f"{node.name} runs already with {different}; nodes of one colour are alike"
    return ""


def joining(
    plan: FleetPlan, there: Sequence[NodePlan], order: EnsureNodes, usable: Callable[[str, int], bool]
) -> tuple[NodePlan, ...]:
    """The nodes of the order that are missing.

    Args:
        plan: of the fleet.
        there: all nodes that it has now.
        order: what is asked for.
        usable: whether a port of an address is free.
    """
    missing = order.count - sum(node.colour == order.colour for node in there)
    taken = {*plan_ports(plan), *(port for node in there for _, port in node.ports)}
    names = {part.name for part in (*plan.parts, *there)}
    has_admin = all(node.admin_port for node in plan.nodes)
    admin_host = plan.nodes[0].admin_host if plan.nodes else HOST
    numbers = (name for n in count(1) if (name := f"{order.colour}-{n}") not in names)
    firsts = (
        port
        for port in range(max(plan_ports(plan)) + 1, LAST_PORT, PORT_STEP)
        if not {port, port + 1} & taken and usable(HOST, port) and (not has_admin or usable(admin_host, port + 1))
    )
    return tuple(
        NodePlan(
            name=name,
            host=HOST,
            port=port,
            admin_host=admin_host,
            admin_port=port + 1 if has_admin else 0,
            colour=order.colour,
            app=order.app or plan.app,
            python=order.python,
            version=order.version,
        )
        for _, name, port in zip(range(missing), numbers, firsts, strict=False)
    )
