"""Polls every member of a changing set, once in each interval.

Rules: a member is polled as soon as it joins. Members that join together are polled together that one time alone: their
next turns are spread evenly over the interval (multiples of the golden ratio leave no large gap, however many there
are), and each later one is moved by a little jitter. No more than a given number is polled at the same time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog

from trunkline.process.bounds import end_tasks

log = structlog.get_logger("trunkline.balancer")

GOLDEN: Final = 0.6180339887498949
AT_ONCE: Final = 32
JITTER: Final = 0.1
"""Share of an interval by which a turn comes sooner or later."""


class Rota:
    """The members and their turns; faults of `poll` are logged and end nothing."""

    def __init__(
        self,
        poll: Callable[[str], Awaitable[None]],
        interval_s: float,
        at_once: int = AT_ONCE,
        rng: random.Random | None = None,
    ) -> None:
        self._poll = poll
        self._interval_s = interval_s
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secrets
        self._places = asyncio.Semaphore(at_once)
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._due: dict[str, float] = {}
        self._polling: set[str] = set()
        self._joined = 0
        self._members: set[str] = set()
        self._started = False

    def start(self) -> None:
        """Begin to poll."""
        self._started = True
        self.set_members(self._members)

    def set_members(self, members: Iterable[str]) -> None:
        """Take `members` as the whole set; new ones are polled at once, those that left never again."""
        self._members = wanted = set(members)
        if not self._started:
            return
        for gone in self._turns.keys() - wanted:
            self._turns.pop(gone).cancel()
            self._due.pop(gone, None)
        for member in wanted - self._turns.keys():
            self._joined += 1
            self._turns[member] = asyncio.get_running_loop().create_task(
                self._take_turns(member, self._joined * GOLDEN % 1.0)
            )

    def postpone(self, member: str) -> None:
        """Put a member's next turn off until a whole interval from now."""
        if member in self._due:
            self._due[member] = time.monotonic() + self._wait_s()

    def hurry(self, member: str) -> None:
        """Poll a member now, unless it is being polled or was within the last tenth of an interval."""
        due = self._due.get(member)
        # One that hangs would never get to its time-out if each suspicion began the poll again.
        if due is None or member not in self._turns or member in self._polling:
            return
        if due - time.monotonic() < self._interval_s * (1 - JITTER):
            self._turns[member].cancel()
            self._turns[member] = asyncio.get_running_loop().create_task(self._take_turns(member, 1.0))

    async def close(self) -> None:
        """Stop polling."""
        self._started = False
        turns = list(self._turns.values())
        self._turns.clear()
        await end_tasks(turns)

    async def _take_turns(self, member: str, share: float) -> None:
        wait_s = self._interval_s * share
        while True:
            async with self._places:
                # Counted from the request, so that slow answers do not make the turns rarer.
                self._due[member] = time.monotonic() + wait_s
                self._polling.add(member)
                try:
                    await self._poll(member)
                except Exception:
                    log.exception("backend_not_asked", backend=member)
                finally:
                    self._polling.discard(member)
            # Its turn may be postponed while it waits, again and again; an event would have to be waited for as well.
            while (left := self._due[member] - time.monotonic()) > 0:  # noqa: ASYNC110 - waits for a time, not a state
                await asyncio.sleep(left)
            wait_s = self._wait_s()

    def _wait_s(self) -> float:
        return self._interval_s * self._rng.uniform(1 - JITTER, 1 + JITTER)
