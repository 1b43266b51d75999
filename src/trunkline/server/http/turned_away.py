"""What serves a client whose handshake was refused after its 101: a goodbye, a close code, and nothing else.

A page cannot see the status of a handshake (the WebSocket API reports every failure as 1006), so a browser that gets a
401 cannot know that trying again is useless. It is a connection like any other until the client has answered the close
frame: it has a place within the node's limit, and its time-outs. Anybody can have one, so they get a share of the
places and no more.
"""

from __future__ import annotations

from trunkline.errors import Refused
from trunkline.protocol import close_codes
from trunkline.server.app.serving import goodbye
from trunkline.server.connections.connection import Connection


class TurnedAway:
    """The handler of such a connection, in `all` until it has ended.

    A refusal that names a time is one for now: 1013 and this time as the hint.
    """

    __slots__ = ("_all", "_connection", "_refused")

    held_back = False
    names_session = False

    def __init__(self, refused: Refused, all: set[TurnedAway], connection: Connection) -> None:
        self._all = all
        self._connection = connection
        self._refused = refused

    def begin(self) -> None:
        """Say goodbye."""
        self._all.add(self)
        reason, after_s = self._refused.reason, self._refused.retry_after_s
        if after_s is None:
            self._connection.end(close_codes.UNAUTHORIZED.code, reason)
        else:
            self._connection.end(close_codes.OVERLOADED.code, reason, int(after_s * 1000))

    def receive(self, opcode: int, payload: bytes) -> None:
        """Nothing is read from it."""

    def beat(self) -> None:
        """It is closing."""

    def expiring(self, left_ms: int) -> None:
        """It is closing."""

    def farewell(self, code: int, reason: str, reconnect_after_ms: int | None) -> bytes:
        """The goodbye message."""
        return goodbye(self._connection.runtime, code, reason, reconnect_after_ms)

    def ended(self) -> None:
        """No endpoint has known it; its place is free."""
        self._all.discard(self)
