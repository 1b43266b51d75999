"""Calls back at a moment of the monotonic clock, to a tenth of a millisecond where the system can.

uvloop counts its timers in whole milliseconds and rounds up, which would stand in every latency that is counted from
the intended moment. Linux has timers that are files (timerfd_create(2)); elsewhere the loop's own timer has to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import os
import sys
import time
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1
_NANO = 1_000_000_000

Callback = Callable[[float], None]  # gets the moment that it was meant for


def make_alarm(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Alarm:
    """The most exact alarm that this system has; `callback` is called in the loop, once for each moment.

    It has one moment at a time, in seconds of `time.monotonic()`: `set` replaces it, and one in the past is now.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            return _FileAlarm(loop, callback)
    return _LoopAlarm(loop, callback)


class Moments:
    """One alarm for all sessions of a worker: `join` before `call_at`, `leave` when the connection ends.

    A callback cannot be withdrawn: the session that is called checks whether the moment is still one of its own. The
    alarm is a file, so it is open only while a session is connected. Moments are on the coordinator's clock, which is
    `clock_offset_s` ahead of this machine's.
    """

    def __init__(self, clock_offset_s: float = 0.0) -> None:
        self._offset_s = clock_offset_s
        self._alarm: Alarm | None = None
        self._joined = 0
        self._heap: list[tuple[float, int, Callback]] = []
        self._count = 0

    def join(self) -> None:
        """One more session may want to be called."""
        self._joined += 1
        if self._alarm is None:
            self._alarm = make_alarm(asyncio.get_running_loop(), self._ring)

    def leave(self) -> None:
        """One session less; after the last one nothing is called any more."""
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
        now = time.monotonic() + self._offset_s
        try:
            while heap and heap[0][0] <= now:
                moment, _, callback = heapq.heappop(heap)
                callback(moment)
        finally:
            self._set()

    def _set(self) -> None:
        if self._alarm is not None and self._heap:
            self._alarm.set(self._heap[0][0] - self._offset_s)


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


class _FileAlarm:
    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        # os.timerfd_create comes with Python 3.13.
        libc = ctypes.CDLL(None, use_errno=True)
        self._set = libc.timerfd_settime
        self._fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._timer = _Timer()
        self._loop = loop
        self._callback = callback
        self._was_set = False
        loop.add_reader(self._fd, self._fired)

    def set(self, at: float) -> None:
        moment = max(1, int(at * _NANO))  # 0 would switch it off
        self._timer.value.seconds, self._timer.value.nanoseconds = divmod(moment, _NANO)
        self._set(self._fd, _ABSOLUTE, ctypes.byref(self._timer), None)
        self._was_set = True

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _fired(self) -> None:
        self._was_set = False
        self._callback()
        # Setting it again clears the event as reading it does, and saves a system call a message.
        if not self._was_set and self._fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.read(self._fd, 8)


class _LoopAlarm:
    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        self.close()
        self._handle = self._loop.call_later(max(0.0, at - time.monotonic()), self._callback)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


Alarm = _FileAlarm | _LoopAlarm
