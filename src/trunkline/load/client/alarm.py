"""Calls back at a moment of the monotonic clock, to a tenth of a millisecond where the system can.

uvloop counts its timers in whole milliseconds and rounds up, which would stand in every latency that is counted from
the intended moment. Linux has timers that are files (timerfd_create(2)); elsewhere the loop's own timer has to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1
_NANO = 1_000_000_000


class Alarm(Protocol):
    """One moment at a time; setting it again replaces it."""

    def set(self, at: float) -> None:
        """Call back at `at`, in seconds of `time.monotonic()`; a moment in the past is now."""

    def close(self) -> None:
        """Never call back again."""


def make_alarm(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Alarm:
    """The most exact alarm that this system has.

    Args:
        loop: the running loop; `callback` is called in it.
        callback: called once for each moment that is set.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            return _FileAlarm(loop, callback)
    return _LoopAlarm(loop, callback)


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
        self._set_anew = False
        loop.add_reader(self._fd, self._fired)

    def set(self, at: float) -> None:
        moment = max(1, int(at * _NANO))  # 0 would switch it off
        self._timer.value.seconds, self._timer.value.nanoseconds = divmod(moment, _NANO)
        self._set(self._fd, _ABSOLUTE, ctypes.byref(self._timer), None)
        self._set_anew = True

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _fired(self) -> None:
        self._set_anew = False
        self._callback()
        # To set it again takes the event away as reading it does, and saves a system call a message.
        if not self._set_anew and self._fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.read(self._fd, 8)


class _LoopAlarm:
    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(max(0.0, at - time.monotonic()), self._callback)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
