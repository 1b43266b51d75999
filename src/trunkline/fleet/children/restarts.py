"""When a part of the fleet that ended is started again, and when that would be of no use. Pure."""

from __future__ import annotations

from typing import Final

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MOST_S: Final = 10.0
STABLE_S: Final = 30.0
"""A node that was up this long has proved itself: its next restart is quick again."""

CANNOT_START: Final = 2
"""Exit code of a node that cannot start before settings or machine are changed."""


class Backoff:
    """How long to wait before a part that ended is started again: doubling, until it has proved itself."""

    def __init__(self) -> None:
        self._next_s = BACKOFF_FIRST_S

    def ended(self, up_s: float) -> float:
        """The part has ended after being up for `up_s` seconds; returns the seconds to wait."""
        if up_s >= STABLE_S:
            self._next_s = BACKOFF_FIRST_S
        wait_s = self._next_s
        self._next_s = min(wait_s * 2, BACKOFF_MOST_S)
        return wait_s


MOST_STARTS: Final = 3
"""Starts of a node that joined a running fleet and was never ready: somebody waits for it, and looks at why."""


def gives_up(exit_code: int, was_ready: bool, starts: int, most_starts: int | None) -> bool:
    """Whether a part that ended is given up: it was never ready, and a restart would not help.

    Args:
        exit_code: of the process that has ended.
        was_ready: whether any process of it was ever ready.
        starts: how many there were.
        most_starts: how many of them may fail, None for any number.
    """
    return not was_ready and (exit_code == CANNOT_START or (most_starts is not None and starts >= most_starts))
