"""What the machine is shown, and what it asks to be done. Pure.

Rules:

- `Seen` is what was observed since the last step; what was not looked for, or could not be had, is None.
- Actions are absolute or bounded by themselves: carried out twice, or by two processes after each other, they do no
  harm. An action that fails says so in the next `Seen`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trunkline.deploy.runtimes.base import RuntimeNode
from trunkline.deploy.world.base import FleetView, NodeView
from trunkline.protocol.goodbyes import MoveCounts

PersonsOrder = Literal["", "rollback", "abort"]


class SmokeSeen(msgspec.Struct, frozen=True):
    """What smoking found.

    Attributes:
        why: the first thing that failed, empty when all passed.
        accepts_per_s: handshakes a second that were measured, by the URL of the node.
    """

    why: str
    accepts_per_s: dict[str, float]


class WitnessSeen(msgspec.Struct, frozen=True):
    """The witnesses now.

    Attributes:
        late: connected witnesses that do not have what was acknowledged some seconds ago.
    """

    connected: int
    count: int
    lost: int = 0
    duplicated: int = 0
    late: int = 0
    gaps: int = 0
    moved: int = 0
    why: str = ""


class Seen(msgspec.Struct, frozen=True):
    """One observation.

    Attributes:
        at: seconds since the deploy began.
        fleet: None while it cannot be reached.
        processes: nodes of the colour that is started or removed, as the runtime knows them; None where it starts none.
        counts: of the nodes that say so, by URL.
        refusals: why the deploy must not begin; None when that was not looked into.
        unready: why the new colour is not ready, empty when it is; None when it was not asked.
        smoked: None when nobody smoked.
        asked: clients that the last wave asked, None when not every node has answered.
        failed: why the last action could not be carried out.
        witnesses: None while there are none.
        away: clients that were asked to move and are not back; None when that is unknown.
        unstored_s: for how long the last step could not be stored, 0 when that took no time to speak of.
        order: of a person; `order_number` tells it from others.
        entered: the first observation of this process, which was not there when the state began.
    """

    at: float
    fleet: FleetView | None = None
    processes: tuple[RuntimeNode, ...] | None = None
    counts: dict[str, MoveCounts] = {}
    refusals: tuple[str, ...] | None = None
    unready: str | None = None
    smoked: SmokeSeen | None = None
    asked: int | None = None
    failed: str = ""
    witnesses: WitnessSeen | None = None
    away: int | None = None
    unstored_s: float = 0.0
    order: PersonsOrder = ""
    order_number: str = ""
    entered: bool = False


class Preflight(msgspec.Struct, frozen=True, tag=True):
    """Find out whether anything speaks against the deploy."""


class PutTraffic(msgspec.Struct, frozen=True, tag=True):
    """Make these the weights, over the generation that was seen; `force` also without a ready backend."""

    expect: int
    weights: dict[str, float]
    force: bool = False


class Ensure(msgspec.Struct, frozen=True, tag=True):
    """Have the nodes of the new colour started."""

    colour: str
    count: int


class AskReady(msgspec.Struct, frozen=True, tag=True):
    """Ask each node whether it is ready."""

    nodes: tuple[NodeView, ...]


class Smoke(msgspec.Struct, frozen=True, tag=True):
    """Use each node as a client does; `briefly` without measuring."""

    nodes: tuple[NodeView, ...]
    others: tuple[NodeView, ...]
    briefly: bool = False


class StartWitnesses(msgspec.Struct, frozen=True, tag=True):
    """Have so many witnesses connected."""

    count: int


class Move(msgspec.Struct, frozen=True, tag=True):
    """Ask at most `count` clients of a node to move, spread over `over_ms`."""

    node: NodeView
    count: int
    over_ms: int


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Have a node ask all of its clients."""

    node: NodeView
    over_ms: int


class Undrain(msgspec.Struct, frozen=True, tag=True):
    """Have a node take connections again."""

    node: NodeView


class Remove(msgspec.Struct, frozen=True, tag=True):
    """Stop the nodes of a colour."""

    colour: str


Action = (
    Preflight | PutTraffic | Ensure | AskReady | Smoke | StartWitnesses | Move | Drain | Undrain | Remove
)  # fmt: skip
