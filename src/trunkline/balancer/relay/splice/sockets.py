"""A relay between two bare sockets, by descriptors alone: the cheap kind.

While all goes well the poller passes bytes by itself. Rules for the rest:

- Of a direction at most one read waits (`Poller.READ_SIZE`); until the kernel has taken it, nothing more is read.
- The end of a side is passed on once the other has all bytes. Both ended: both sockets are closed.
- A side that can be written to no more may still have sent something, such as its close frame. That is passed on;
  what the other side sends meanwhile is thrown away, not left unread: closing with unread bytes resets, and the reset
  may overtake the last bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Final

from trunkline.balancer.relay.splice.relay import Relay, RelayOwner, close_by_reset, options_of
from trunkline.net.poller import ERROR, HUNG_UP, IN, NOWHERE, OUT, READ_SIZE, Poller

if TYPE_CHECKING:
    from trunkline.placement.placing import Pick

_CLIENT_ENDED: Final = 1
_BACKEND_ENDED: Final = 2
_CLIENT_BROKEN: Final = 4
_BACKEND_BROKEN: Final = 8
_GONE: Final = 16

_NO_PROTOCOL: Final = asyncio.Protocol()


class SocketRelay(Relay):
    """A relay on descriptors, which are its own from now on."""

    __slots__ = ("_backend", "_client", "_for_backend", "_for_client", "_poller", "_state")

    def __init__(self, owner: RelayOwner, pick: Pick, poller: Poller, client: int, backend: int, now: float) -> None:
        super().__init__(owner, pick, now)
        self._poller = poller
        self._client = client
        self._backend = backend
        self._for_client = b""
        self._for_backend = b""
        self._state = 0

    def start(self, to_client: bytes, to_backend: bytes) -> None:
        """Take over both descriptors and read on."""
        for fd in (self._client, self._backend):
            self._poller.watch(fd, self, IN)
        self._poller.straight[self._client] = self._backend
        self._poller.straight[self._backend] = self._client
        self._pass(self._client, to_client)
        if to_backend and not self._state & _GONE:
            self._pass(self._backend, to_backend)

    @property
    def descriptors(self) -> tuple[int, int]:
        """Of the client and of the backend."""
        return self._client, self._backend

    @property
    def waiting(self) -> tuple[int, int]:
        """Bytes that wait for the client, and for the backend."""
        return len(self._for_client), len(self._for_backend)

    def spoke(self) -> bool:
        """Whether anything came from either side since the last call."""
        spoke = self._poller.spoke
        found = spoke[self._client] or spoke[self._backend]
        spoke[self._client] = spoke[self._backend] = 0
        return bool(found)

    def close(self) -> None:
        """Close both sides after their last bytes, which they must take in time."""
        self.lingers()
        for fd, ended in ((self._client, _CLIENT_ENDED), (self._backend, _BACKEND_ENDED)):
            if not self._state & (ended | _GONE):
                self._on_end(fd)

    def abort(self) -> None:
        """Cut both sides off."""
        if self._state & _GONE:
            return
        self._state |= _GONE
        self._for_client = self._for_backend = b""
        for fd in (self._client, self._backend):
            self._poller.forget(fd)
            os.close(fd)
        self.owner.relay_closed(self)

    def ready(self, fd: int, events: int) -> None:
        """Something happened that the poller does not handle."""
        if events & OUT:
            self._flush(fd)
        if self._state & _GONE or not events & (IN | ERROR | HUNG_UP):
            return
        if self._is_read(fd):
            if events == ERROR:
                # Its read failed, or there would be more events than that.
                self._cut_off(fd)
            else:
                self._read(fd)
        elif events & ERROR:
            # A side that had ended has closed for good; one that is not read was cut off.
            if self._state & (_CLIENT_ENDED if fd == self._client else _BACKEND_ENDED):
                self.abort()
            else:
                self._cut_off(fd)
        elif events & HUNG_UP:
            # Both its directions have ended, which epoll would report again and again.
            self._poller.silence(fd)

    def not_taken(self, fd: int, rest: bytes) -> None:
        """The kernel had no room for `rest`: keep it, and read no more of what goes there."""
        if fd == self._client:
            self._for_client = rest
        else:
            self._for_backend = rest
        self._watch_both()

    def broken(self, fd: int) -> None:
        """A side takes nothing any more. What it sent before may still wait to be read: its end follows that."""
        if fd == self._client:
            self._state |= _CLIENT_BROKEN
            self._for_client = b""
            ended = self._state & _CLIENT_ENDED
        else:
            self._state |= _BACKEND_BROKEN
            self._for_backend = b""
            ended = self._state & _BACKEND_ENDED
        if ended:
            self.abort()
            return
        self._poller.straight[self._other(fd)] = NOWHERE
        self._watch_both()
        self.lingers()

    def _other(self, fd: int) -> int:
        return self._backend if fd == self._client else self._client

    def _is_read(self, fd: int) -> bool:
        if fd == self._client:
            return not self._for_backend and not self._state & _CLIENT_ENDED
        return not self._for_client and not self._state & _BACKEND_ENDED

    def _watch_both(self) -> None:
        """Ask for the events that can be used now."""
        for fd, waiting in ((self._client, self._for_client), (self._backend, self._for_backend)):
            self._poller.change(fd, (IN if self._is_read(fd) else 0) | (OUT if waiting else 0))

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self._cut_off(fd)
            return
        if data:
            self._poller.spoke[fd] = 1
            self._pass(self._other(fd), data)
        else:
            self._on_end(fd)

    def _pass(self, fd: int, data: bytes) -> None:
        if self._state & (_CLIENT_BROKEN if fd == self._client else _BACKEND_BROKEN):
            return
        try:
            sent = os.write(fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.broken(fd)
            return
        if sent != len(data):
            self.not_taken(fd, data[sent:])

    def _flush(self, fd: int) -> None:
        waiting = self._for_client if fd == self._client else self._for_backend
        try:
            sent = os.write(fd, waiting)
        except BlockingIOError:
            return
        except OSError:
            self.broken(fd)
            return
        rest = waiting[sent:]
        if fd == self._client:
            self._for_client = rest
        else:
            self._for_backend = rest
        if rest:
            return
        self._watch_both()
        if self._state & (_BACKEND_ENDED if fd == self._client else _CLIENT_ENDED):
            self._pass_end(fd)

    def _on_end(self, fd: int) -> None:
        """A side sends no more."""
        self._state |= _CLIENT_ENDED if fd == self._client else _BACKEND_ENDED
        self._poller.straight[fd] = NOWHERE
        self._watch_both()
        self.is_half_closed()
        if not (self._for_backend if fd == self._client else self._for_client):
            self._pass_end(self._other(fd))
        elif self._state & _CLIENT_ENDED and self._state & _BACKEND_ENDED:
            self.lingers()

    def _pass_end(self, fd: int) -> None:
        """`fd` has all that will ever be sent to it."""
        both = _CLIENT_ENDED | _BACKEND_ENDED
        if self._state & both == both:
            if not self._for_client and not self._for_backend:
                self.abort()
                return
            self.lingers()
        with contextlib.suppress(OSError), options_of(fd) as sock:
            sock.shutdown(socket.SHUT_WR)

    def _cut_off(self, fd: int) -> None:
        close_by_reset(self._other(fd))
        self.abort()


def take_descriptor(transport: asyncio.Transport) -> int:
    """Take a plain transport's socket out of the event loop; raises OSError when no more files can be opened.

    The transport must have written all it was given, and is of no use afterwards. It has read nothing that its protocol
    did not get, for it reads only to hand over at once. An abort closes its own descriptor and no more: neither side of
    the connection notices.
    """
    fd = os.dup(transport.get_extra_info("socket").fileno())
    transport.set_protocol(_NO_PROTOCOL)
    transport.abort()
    return fd
