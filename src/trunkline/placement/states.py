"""The states of a backend as tables: which event leads from one to another, and which one is shown. Pure.

Two things are known of a backend: whether its active checks are good, and what became of the connections that were sent
to it. The second is a state of its own, and `CONNECTIONS` has its transitions. A pair that the table does not have
changes nothing: the outcome is of a connection begun before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Closed = Literal["ejected", "open"]
Connections = Literal["up", "ejected", "open", "half_open"]
State = Literal["up", "down", "ejected", "open", "half_open"]
Shown = Literal["up", "down", "ejected", "open", "half_open", "draining", "full"]

Event = Literal[
    "failed_in_a_row",  # `eject_after` failures in a row
    "failed_often",  # `breaker_ratio` of `breaker_volume` or more failed within `breaker_window_ms`
    "flapped",  # checks are good again that had turned bad less than `eject_max_ms` after they had last turned good
    "recovered",  # checks are good again otherwise: something new may be running there
    "rested",  # the back-off is over
    "trial",  # a pick took the trial
    "trial_opened",
    "trial_failed",  # while it was out
    "trial_dropped",  # while it was out, through no fault of the backend
]

AS_BEFORE: Final = "as_before"
"""Ejected or open, as it was before the trial, for twice as long."""

CONNECTIONS: Final[Mapping[Connections, Mapping[Event, Connections | Literal["as_before"]]]] = {
    "up": {"failed_in_a_row": "ejected", "failed_often": "open", "flapped": "ejected"},
    "ejected": {"trial": "half_open", "rested": "half_open", "recovered": "half_open", "flapped": "ejected"},
    "open": {"trial": "half_open", "rested": "half_open", "recovered": "half_open", "flapped": "ejected"},
    "half_open": {
        "trial": "half_open",
        "trial_opened": "up",
        "trial_failed": AS_BEFORE,
        "trial_dropped": "half_open",
        "flapped": "ejected",
    },
}

OUT: Final[tuple[State, ...]] = ("down", "ejected", "open")
"""The states in which a backend that was in use is not; the others let it have connections."""

SHOWN: Final[tuple[Shown, ...]] = (*OUT, "draining", "full", "half_open", "up")
"""Of the states that apply to a backend the first one is shown."""
