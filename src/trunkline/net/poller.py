"""One epoll for all bare sockets, itself watched by the event loop; what comes on one socket goes straight to another.

Rules:

- Level-triggered: what is not read in one turn is reported again in the next, behind all others that are ready. So a
  turn may be short (`BATCH` descriptors, one read of each) and nothing starves: no stream, no timer, no transport of
  the loop. Edge-triggered would save the kernel a little work, and need a list of descriptors to come back to.
- All that is known of a descriptor stands in lists by its number: an object for each would be most of the memory.
- The kernel gives the number of a closed descriptor to the next one. `forget` it before its close, because a
  registration lives as long as anything holds the socket, not the number; later events of the same batch find no
  watcher. The number cannot have a new owner within that batch: only tasks watch descriptors, and none runs meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
from typing import Final, Protocol, cast

import structlog

log = structlog.get_logger("trunkline.balancer")

AVAILABLE: Final = sys.platform == "linux"
"""Whether this system has epoll."""

BATCH: Final = 128
"""Descriptors served in one turn of the loop."""

READ_SIZE: Final = 1 << 16
"""Most bytes of one read: a full batch of them takes about 2 ms."""

IN: Final = 0x1
OUT: Final = 0x4
ERROR: Final = 0x8
HUNG_UP: Final = 0x10
ONCE: Final = 1 << 30
"""The flags of epoll(7), which `select` names on Linux alone."""

NOWHERE: Final = -1

_read = os.read
_write = os.write


class Watcher(Protocol):
    """The owner of a descriptor."""

    def ready(self, fd: int, events: int) -> None:
        """Something happened to `fd`."""


class Passing(Watcher, Protocol):
    """The owner of a descriptor whose bytes go straight to another one."""

    def not_taken(self, fd: int, rest: bytes) -> None:
        """The socket of `fd` had no room for `rest`."""

    def broken(self, fd: int) -> None:
        """The socket of `fd` takes nothing any more."""


class Poller:
    """Watches descriptors within an event loop.

    Attributes:
        straight: by descriptor the one that its bytes are written to at once, or NOWHERE.
        spoke: by descriptor whether bytes came from it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self._watchers: list[Watcher | None] = []
        self.straight: list[int] = []
        self.spoke = bytearray()
        loop.add_reader(self._epoll.fileno(), self._on_ready)

    def watch(self, fd: int, watcher: Watcher, events: int) -> None:
        """Report `events` on `fd`, and errors in any case, to `watcher`, which replaces any other."""
        if fd >= len(self._watchers):
            more = fd + 1 - len(self._watchers)
            self._watchers.extend([None] * more)
            self.straight.extend([NOWHERE] * more)
            self.spoke.extend(bytes(more))
        known = self._watchers[fd] is not None
        self._watchers[fd] = watcher
        self.spoke[fd] = 0
        if known:
            self.change(fd, events)
        else:
            self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Report other events on `fd`."""
        try:
            self._epoll.modify(fd, events)
        except FileNotFoundError:
            self._epoll.register(fd, events)

    def silence(self, fd: int) -> None:
        """Report nothing of `fd`, not even errors, until the next `change`."""
        self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """`fd` is about to be closed."""
        if fd >= len(self._watchers) or self._watchers[fd] is None:
            return
        self._watchers[fd] = None
        self.straight[fd] = NOWHERE
        with contextlib.suppress(FileNotFoundError):  # it was silenced
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Watch nothing from now on."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _on_ready(self) -> None:
        straight, spoke, watchers = self.straight, self.spoke, self._watchers
        for fd, events in self._poll(0, BATCH):
            try:
                if events == IN and (to := straight[fd]) >= 0:
                    try:
                        data = _read(fd, READ_SIZE)
                    except BlockingIOError:
                        continue
                    except OSError:
                        events = ERROR
                    else:
                        if data:
                            spoke[fd] = 1
                            try:
                                sent = _write(to, data)
                            except BlockingIOError:
                                sent = 0
                            except OSError:
                                # What is passed straight on has an owner that passes it.
                                cast(Passing, watchers[fd]).broken(to)
                                continue
                            if sent != len(data):
                                cast(Passing, watchers[fd]).not_taken(to, data[sent:])
                            continue
                watcher = watchers[fd]
                if watcher is not None:
                    watcher.ready(fd, events)
            except Exception:
                # A fault of one watcher must not stop the others of the batch.
                log.exception("connection_failed")
