"""Calls flows back at their moments, to a tenth of a millisecond: one alarm and one heap for all sessions of a worker.

Rules:

- The loop's own timers will not do: uvloop's may be a millisecond early or late, which would stand in every latency.
- Nothing is taken back. Whoever is called looks whether the moment is still his.
- The alarm is a file, so it is there only while a session is connected.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from weakref import WeakKeyDictionary, ref

from trunkline.load.client.alarm import Alarm, make_alarm
from trunkline.load.client.session import Shared

Callback = Callable[[float], None]
"""Gets the moment that it was meant for."""


class Moments:
    """What is to be called when; `join` before `call_at`, `leave` at the end.

    Args:
        shared: of the worker, for its clock.
    """

    def __init__(self, shared: Shared) -> None:
        # Held weakly: by it these are found, and so they must not keep it.
        self._shared = ref(shared)
        self._alarm: Alarm | None = None
        self._joined = 0
        self._heap: list[tuple[float, int, Callback]] = []
        self._count = 0

    def join(self) -> None:
        """One session more may want to be called."""
        self._joined += 1
        if self._alarm is None:
            self._alarm = make_alarm(asyncio.get_running_loop(), self._ring)

    def leave(self) -> None:
        """One less; after the last one nobody is called any more."""
        self._joined -= 1
        if not self._joined and self._alarm is not None:
            self._alarm.close()
            self._alarm = None
            self._heap.clear()

    def call_at(self, moment: float, callback: Callback) -> None:
        """Call back at a moment of the coordinator's clock, or soon when it has passed."""
        self._count += 1  # callbacks of one moment are called in order, and never compared
        entry = (moment, self._count, callback)
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._set()

    def _ring(self) -> None:
        heap = self._heap
        shared = self._shared()
        if shared is None:
            return
        now = shared.now()
        try:
            while heap and heap[0][0] <= now:
                moment, _, callback = heapq.heappop(heap)
                callback(moment)
        finally:
            self._set()

    def _set(self) -> None:
        shared = self._shared()
        if self._alarm is not None and self._heap and shared is not None:
            self._alarm.set(shared.local(self._heap[0][0]))


_moments: WeakKeyDictionary[Shared, Moments] = WeakKeyDictionary()


def moments_of(shared: Shared) -> Moments:
    """Those of a worker."""
    moments = _moments.get(shared)
    if moments is None:
        moments = _moments[shared] = Moments(shared)
    return moments
