"""The traffic table of a fleet: which colours get new connections, in what shares. Pure.

Rules:

- With no table ever written every colour gets connections by capacity. Once there is one, a colour that it does not
  name, or names with 0, is held: checked, visible, and given nothing.
- Each write makes the next generation, and is made only over the generation that its writer has seen.
- Balancers say which generation they apply with every sign of life, so that a writer knows when all do.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

TRAFFIC_KEY: Final = "traffic"
"""Where the table is in the fleet's store."""

MOST_COLOURS: Final = 64
MOST_WEIGHT: Final = 100.0

Colour = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Weight = Annotated[float, msgspec.Meta(ge=0, le=MOST_WEIGHT)]


class TrafficTable(msgspec.Struct, frozen=True):
    """The table as it is stored.

    Attributes:
        generation: 1 for the first one, then one more with each write.
        weights: by colour, its share of new connections beside the others.
        changed_at: when, UTC as RFC 3339 has it.
        changed_by: who, in words for people.
    """

    generation: Annotated[int, msgspec.Meta(ge=1)]
    weights: Annotated[dict[Colour, Weight], msgspec.Meta(max_length=MOST_COLOURS)]
    changed_at: str
    changed_by: str = ""


class TrafficOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`PUT /api/traffic`: make this the table.

    Attributes:
        expect: the generation it replaces, 0 for none; with another one there now the answer is 409.
        force: also with a colour that has no ready backend, which is 422 without, and over a table that cannot be read.
    """

    expect: Annotated[int, msgspec.Meta(ge=0)]
    weights: Annotated[dict[Colour, Weight], msgspec.Meta(min_length=1, max_length=MOST_COLOURS)]
    changed_by: Annotated[str, msgspec.Meta(max_length=256)] = ""
    force: bool = False


class BalancerTraffic(msgspec.Struct, frozen=True):
    """One balancer of the fleet, as the answering one hears it.

    Attributes:
        generation: that it applies now, 0 for none.
        silent_s: seconds since it was heard, 0 for the one that answers; one that left in order is not listed.
        place: machine and port, for people; empty when it does not say.
    """

    id: str
    generation: int
    silent_s: float = 0.0
    place: str = ""


class TrafficState(msgspec.Struct, frozen=True):
    """`GET /api/traffic`, and the answer to a `PUT`.

    Attributes:
        generation: 0 while no table was ever written.
        held: colours that there are and that get no new connections.
        balancers: all that are heard, or fell silent without a goodbye.
        stored: where the table is kept: `nats`, `file`, or `memory` for as long as the balancer lives.
    """

    generation: int
    weights: dict[str, float]
    held: tuple[str, ...]
    balancers: tuple[BalancerTraffic, ...]
    changed_at: str = ""
    changed_by: str = ""
    stored: str = ""
