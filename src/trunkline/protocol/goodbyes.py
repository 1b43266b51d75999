"""Sessions that were asked to move, as nodes tell each other and the balancers. Pure.

Rules:

- A node sends the sessions that it is about to say goodbye to (1012, and 1001 at a shutdown) before it does so, in one
  message a turn of its loop; and those that came back to it after such a goodbye.
- A session counts as asked for `ASKED_S`: within this time its next handshake is not held against the limits of its
  address, once. Whoever hears that it is back forgets it.
- Only sessions that their clients know are sent: an endpoint without our envelope tells its clients none.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from trunkline.protocol.sessions import Session
from trunkline.protocol.traffic import Colour

ASKED_S: Final = 60.0
SESSIONS_AT_ONCE: Final = 4_096
"""Most sessions in one message."""

SESSIONS_KEPT: Final = 200_000
"""Most sessions that a process remembers as asked; the oldest are forgotten first."""

SAID_MS: Final = (-600_000, 10_000)
"""How far from now the goodbye of a message may be, so that no session counts as asked for longer."""

Sessions = Annotated[tuple[Session, ...], msgspec.Meta(max_length=SESSIONS_AT_ONCE)]


class Goodbyes(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one node: sessions that it asks to move, and sessions that came back to it.

    Attributes:
        colour: of the node, which those that it asks come from.
        in_ms: until the goodbye is said to those asked; below 0 when it was said so long ago.
    """

    node: Annotated[str, msgspec.Meta(max_length=256)]
    colour: Colour
    asked: Sessions = ()
    back: Sessions = ()
    in_ms: Annotated[int, msgspec.Meta(ge=SAID_MS[0], le=SAID_MS[1])] = 0


class CountsAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request for a node's `MoveCounts`, over NATS."""


class MoveCounts(msgspec.Struct, frozen=True):
    """What became of moved clients at one node, since its start.

    Attributes:
        run: drawn at the start of the process, as in its load report; with another one all counts begin at 0 again.
        connections: open now.
        opened: WebSockets opened.
        closed: connections that ended, for whatever reason.
        asked: clients that it asked to move; the return of `nameless` ones cannot be seen, for they know no session, or
            were asked while the bus was away.
        cut: connections that it cut at the deadline of a drain or of its end, without a closing handshake.
        resumed: sessions that came back here after a goodbye, by the colour of the node that said it.
        returned: histogram of the seconds between goodbye and return (`ws_reconnect_seconds`): counts by upper bound
            as text, `+Inf` last, each count including the smaller ones.
        recovered: channels whose missed publications a client got in full.
        not_recovered: channels of which a client heard that they cannot be recovered.
        gaps: `gap` messages sent.
        refused: handshakes refused, by label (`address_rate`, `full`, …).
        failed: server faults (`ws_errors_total` and failed handlers).
        loop_lag_ms: event-loop lag now.
    """

    node: str
    run: str
    colour: str
    version: str
    connections: int
    opened: int
    closed: int
    asked: int
    cut: int
    resumed: dict[str, int]
    returned: dict[str, int]
    recovered: int
    not_recovered: int
    gaps: int
    refused: dict[str, int]
    failed: int
    loop_lag_ms: float
    nameless: int = 0
