"""The states of a node, and what moves it from one to another: one table, complete. Pure.

A node is starting, then up, perhaps draining and up again; it can be stopped at any time, and no order ends a stop.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class State(enum.Enum):
    """What a node is doing."""

    STARTING = "starting"
    UP = "up"
    DRAINING = "draining"
    STOPPING = "stopping"


class Event(enum.Enum):
    """What happens to a node: its ports are open, a drain is ordered or called off, it drains for the last time."""

    LISTENING = "listening"
    DRAIN = "drain"
    RESUME = "resume"
    STOP = "stop"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.STARTING, Event.LISTENING): State.UP,
    (State.STARTING, Event.DRAIN): State.DRAINING,
    (State.STARTING, Event.RESUME): State.STARTING,
    (State.STARTING, Event.STOP): State.STOPPING,
    (State.UP, Event.LISTENING): State.UP,
    (State.UP, Event.DRAIN): State.DRAINING,
    (State.UP, Event.RESUME): State.UP,
    (State.UP, Event.STOP): State.STOPPING,
    # A drain that was ordered during the start outlasts it.
    (State.DRAINING, Event.LISTENING): State.DRAINING,
    (State.DRAINING, Event.DRAIN): State.DRAINING,
    (State.DRAINING, Event.RESUME): State.UP,
    (State.DRAINING, Event.STOP): State.STOPPING,
    # Nothing leads out of the end.
    (State.STOPPING, Event.LISTENING): State.STOPPING,
    (State.STOPPING, Event.DRAIN): State.STOPPING,
    (State.STOPPING, Event.RESUME): State.STOPPING,
    (State.STOPPING, Event.STOP): State.STOPPING,
}
