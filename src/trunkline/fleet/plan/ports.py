"""Whether the ports that a fleet wants are free, tried before anything is started."""

from __future__ import annotations

import random
from typing import Final

from trunkline.errors import StartError
from trunkline.fleet.plan.layout import FleetPlan, TakenPort, taken_text
from trunkline.process.ports import why_unusable

NEVER_CLIENTS: Final = (15_000, 32_000)
"""Ports below those that Linux (from 32,768), macOS and Windows (from 49,152) give to clients."""


def check_ports(plan: FleetPlan) -> None:
    """Try every port of the plan; raises a StartError that names all that cannot be used."""
    wanted = [(host, port) for part in plan.parts for host, port in part.ports if port]
    if taken := [TakenPort(host, port, why) for host, port in wanted if (why := why_unusable(host, port)) is not None]:
        raise StartError(*taken_text(taken, plan))


def free_first_port(span: int) -> int:
    """A port from which on `span` ports are free on loopback; raises StartError."""
    for _ in range(200):
        # Not from where the system takes ports for clients: between two of a thousand connections there is no room, and
        # what is free now would be a client's in a moment.
        first = random.randrange(*NEVER_CLIENTS)  # noqa: S311 - a port is no secret
        if all(why_unusable("127.0.0.1", port) is None for port in range(first, first + span)):
            return first
    raise StartError(f"there are no {span} free ports in a row", "Choose the first one with --port.")
