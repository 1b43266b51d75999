"""Whose turn it is: connections of which more was read than one turn handles go on one after the other.

Between two slices the event loop serves everybody else. However many clients flood the node, what they left over takes
`SLICE_S` and one turn of one connection of each round of the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import Final, Protocol

from trunkline.logs.logger import get_logger
from trunkline.server.connections.tasks import FAULTS

log = get_logger("trunkline.connections")

SLICE_S: Final = 0.005
"""Seconds after which the event loop has its turn again."""


class TakesTurns(Protocol):
    """What goes on when it is its turn."""

    def turn(self) -> None:
        """It is its turn."""

    def abort(self) -> None:
        """Its turn failed: end it."""


class Turns:
    """The queue of a node's connections that wait for their next turn."""

    __slots__ = ("_due", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[TakesTurns] = deque()
        self._due = False

    def add(self, entry: TakesTurns) -> None:
        """`entry` gets its turn behind those that wait, not before the event loop has looked at everybody else."""
        self._waiting.append(entry)
        if not self._due:
            self._due = True
            loop = asyncio.get_running_loop()
            # Twice: uvloop runs what a read calls soon before it looks at the other sockets.
            loop.call_soon(loop.call_soon, self._run)

    def _run(self) -> None:
        waiting = self._waiting
        stop = perf_counter() + SLICE_S
        # Who is added meanwhile has had its turn in this round.
        for _ in range(len(waiting)):
            entry = waiting.popleft()
            try:
                entry.turn()
            except FAULTS:
                log.exception("turn_failed")
                entry.abort()
            if perf_counter() >= stop:
                break
        self._due = bool(waiting)
        if waiting:
            asyncio.get_running_loop().call_soon(self._run)
