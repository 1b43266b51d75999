"""The states of a connection and what moves it from one to another. Pure.

    event            OPEN      CLOSING   CLOSED
    CLOSE_SENT       CLOSING
    CLOSE_RECEIVED   CLOSING   CLOSING
    EOF              CLOSING
    FINISHED                   CLOSED
    LOST             CLOSED    CLOSED    CLOSED

What is not in the table is refused: the connection stays what it is.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

# Plain integers: the hot path compares them once a message.
OPEN: Final = 0
CLOSING: Final = 1
CLOSED: Final = 2


class Event(enum.Enum):
    """What happens to a connection."""

    CLOSE_SENT = "our close frame was sent"
    CLOSE_RECEIVED = "the client's close frame was read"
    EOF = "the client sends no more, without a close frame"
    FINISHED = "the closing handshake is complete"
    LOST = "the TCP connection has ended or was cut"


TRANSITIONS: Final[Mapping[tuple[int, Event], int]] = {
    (OPEN, Event.CLOSE_SENT): CLOSING,
    (OPEN, Event.CLOSE_RECEIVED): CLOSING,
    (CLOSING, Event.CLOSE_RECEIVED): CLOSING,
    (OPEN, Event.EOF): CLOSING,
    (CLOSING, Event.FINISHED): CLOSED,
    (OPEN, Event.LOST): CLOSED,
    (CLOSING, Event.LOST): CLOSED,
    (CLOSED, Event.LOST): CLOSED,
}
