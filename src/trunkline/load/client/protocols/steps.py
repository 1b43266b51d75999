"""Steps: a message flow written down in the scenario. A connection goes through all its steps, again and again.

Rules:

- Open model. Each step has an intended moment: the start of the round and the pauses before it. A late answer delays
  the next step, for this is a dialogue, but no moment: the next step's latency counts from when it should have begun.
- Rounds begin at a random place within the first pause, so that thousands do not march in step.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Final

from trunkline.load.client.alarm import Moments
from trunkline.load.client.protocols.dialogue import Dialogue
from trunkline.load.client.protocols.templates import Template
from trunkline.load.client.session import Shared
from trunkline.load.model.expectations import Expectation
from trunkline.load.model.messages import Hole, Position

SHORTEST_ROUND_S: Final = 0.001  # a round without pauses lasts so long at least
_AT_ONCE: Final = 100  # steps that one session does before others have their turn
_expectation = lru_cache(maxsize=10_000)(Expectation)


class StepsSession(Dialogue):
    """Goes through the scenario's steps, which were checked before the run."""

    __slots__ = ("_awaited", "_index", "_moment", "_over", "_round", "_steps", "_timer")

    def __init__(self, number: int, shared: Shared, moments: Moments) -> None:
        super().__init__(number, shared, moments)
        steps = shared.scenario.steps
        shortfall = max(0.0, SHORTEST_ROUND_S - sum(step.pause_s for step in steps))
        self._steps = [
            (
                Template(step.send, number, shared.job.run) if step.send else None,
                _expectation(step.expect) if step.expect else None,
                step.timeout_s,
                step.pause_s + (shortfall if step is steps[-1] else 0.0),
            )
            for step in steps
        ]
        self._round = 0
        self._index = 0
        self._moment = 0.0
        self._awaited: Expectation | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    def opened(self) -> None:
        """Begin a round."""
        super().opened()
        if self._index:
            # The round that the last connection did not end is not gone through again under its number.
            self._index = 0
            self._round += 1
        self._moment = self.shared.now() + self.shared.rng.random() * self._steps[0][3]
        self._go_on()

    def message(self, payload: bytes, binary: bool) -> None:
        """It may be the answer."""
        kind = self.hear(payload, binary)
        awaited = self._awaited
        if awaited is not None and awaited.matches(kind, payload):
            if self._steps[self._index][0] is not None:
                self.shared.tally.round_trip.record(self.shared.now() - self._moment)
            self._next()
            self._go_on()

    def ended(self, code: int, reason: str) -> None:
        """The answer will not come any more."""
        super().ended(code, reason)
        self.shared.tally.totals.abandoned += self._give_up()
        self._stop_timer()

    def settled(self, ends: dict[str, Position]) -> bool:
        """From the first call on no step begins; True when no answer is awaited and the channels came to their ends."""
        self._over = True
        return self.link is None or (self._awaited is None and self.channels_reached(ends))

    def finish(self, ends: dict[str, Position]) -> list[Hole]:
        """Count the answer that is missing, and return the holes that are left."""
        self._over = True
        self._stop_timer()
        self.never_answered(self._give_up())
        return super().finish(ends)

    def _go_on(self) -> None:
        """Do what is due now, and set the timer for what is due later."""
        self._stop_timer()
        shared = self.shared
        loop = asyncio.get_running_loop()
        for _ in range(_AT_ONCE):
            if self._over or self.link is None:
                return
            if self._moment > shared.now():
                self._moments.call_at(self._moment, self._on_time)
                return
            send, expect, timeout_s, _ = self._steps[self._index]
            if send is not None:
                self.send(send.fill(self._round, self._moment))
            if expect is not None:
                self._awaited = expect
                self._timer = loop.call_later(timeout_s, self._on_timeout)
                return
            self._next()
        self._timer = loop.call_later(0, self._go_on)

    def _next(self) -> None:
        self._awaited = None
        self._moment += self._steps[self._index][3]
        self._index += 1
        if self._index == len(self._steps):
            self._index = 0
            self._round += 1

    def _on_time(self, moment: float) -> None:
        # Any other moment belonged to a connection that has ended.
        if moment == self._moment and self._awaited is None and self.link is not None:
            self.shared.tally.behind(self.shared.now() - moment)
            self._go_on()

    def _on_timeout(self) -> None:
        _, expect, timeout_s, _ = self._steps[self._index]
        if expect is not None:
            self.shared.tally.error(f"no answer: {expect.text} within {timeout_s:g} s")
        self._next()
        self._go_on()

    def _give_up(self) -> int:
        """Await no answer any more; returns how many messages go without one."""
        awaited, self._awaited = self._awaited, None
        return int(awaited is not None and self._steps[self._index][0] is not None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
