"""What a deploy can see of the fleet, and what it can order: the interface of the machine's driver. Pure.

Rules:

- A view is what was observed, never what was ordered. What could not be had is None or absent, not a default.
- Orders are absolute, or bounded by themselves: given twice they do no harm.
- `FleetUnreachable` is a passing state of the network; the driver asks again.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from trunkline.errors import TrunklineError
from trunkline.protocol.goodbyes import MoveCounts
from trunkline.protocol.traffic import TrafficState


class FleetUnreachable(TrunklineError):
    """A balancer or the bus cannot be reached now."""


class FleetRefused(TrunklineError):
    """A balancer or a node does not do what it was asked to, and would not the next time; the text says why."""


class NodeView(msgspec.Struct, frozen=True):
    """One backend, as the balancer has it and as it reports.

    Attributes:
        name: its node name; empty for a foreign backend, which takes no orders.
        state: as the balancer shows it (`up`, `draining`, `down`, …).
        usable: whether the balancer would send a connection there, its colour's weight aside.
        capacity: None when unknown.
        accepts_per_s: handshakes that it says it can take, None when it does not say.
    """

    name: str
    url: str
    colour: str
    version: str
    state: str
    usable: bool
    connections: int
    capacity: int | None
    accepts_per_s: float | None
    lag_ms: float | None


class FleetView(msgspec.Struct, frozen=True):
    """The fleet at one moment."""

    nodes: tuple[NodeView, ...]
    traffic: TrafficState

    def colour(self, name: str) -> tuple[NodeView, ...]:
        """The backends of one colour; none of an empty name, though backends without a colour have it."""
        return tuple(node for node in self.nodes if name and node.colour == name)


class World(Protocol):
    """The fleet, seen through its balancers and its bus."""

    async def look(self) -> FleetView:
        """The fleet now; raises FleetUnreachable."""

    async def put_traffic(self, expect: int, weights: dict[str, float], *, force: bool = False) -> TrafficState | None:
        """Write the table, with `force` also for colours without a ready backend.

        None when its generation is not `expect` any more.

        Raises FleetUnreachable (it may have been written), FleetRefused.
        """

    async def ready(self, node: NodeView) -> str:
        """Ask the node's `/ready` and its bus; empty when both are well, else why not."""

    async def counts(self, node: NodeView) -> MoveCounts | None:
        """What became of moved clients there; None of a foreign or an older node."""

    async def move(self, node: NodeView, count: int, over_ms: int) -> int:
        """Ask at most `count` clients to move, idle ones first; returns how many it asks.

        Raises FleetUnreachable (it may have been carried out), FleetRefused.
        """

    async def drain(self, node: NodeView, over_ms: int) -> int:
        """Have the node ask all that are left; returns how many. Raises as `move` does."""

    async def undrain(self, node: NodeView) -> None:
        """Have the node take connections again. Raises as `move` does."""
