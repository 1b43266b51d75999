"""Whether the ports that a fleet wants are free, tried before anything is started."""

from __future__ import annotations

from trunkline.errors import StartError
from trunkline.fleet.plan.layout import FleetPlan, TakenPort, taken_text
from trunkline.process.sockets import ports
from trunkline.process.sockets.ports import why_unusable


def check_ports(plan: FleetPlan) -> None:
    """Try every port of the plan; raises a StartError that names all that cannot be used."""
    wanted = [(host, port) for part in plan.parts for host, port in part.ports if port]
    if taken := [TakenPort(host, port, why) for host, port in wanted if (why := why_unusable(host, port)) is not None]:
        raise StartError(*taken_text(taken, plan))


def free_first_port(span: int) -> int:
    """A port from which on `span` ports are free on loopback; raises StartError."""
    first = ports.free_first_port(span)
    if first is None:
        raise StartError(f"there are no {span} free ports in a row", "Choose the first one with --port.")
    return first
