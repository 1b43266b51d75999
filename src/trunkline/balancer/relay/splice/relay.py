"""What a relayed connection is, after its 101: two sides, bytes passed untouched between them. The balancer's hot path.

There are two kinds. `sockets.SocketRelay` passes bytes between bare sockets and costs little memory; it needs epoll and
plain TCP on both sides. `transports.TransportRelay` splices two asyncio transports for the rest: TLS on either side,
systems without epoll.

Rules of both:

- No await, task, timer or log line belongs to a message, and nothing of the handshake is kept.
- What one side does not take stops the reading of the other, so that memory stays bounded.
- A side that ends its direction ends only that; a side that is cut off cuts the other off.
- Whatever may wait for ever (half-closed, last bytes that are not read) gets a deadline in the edge's sweep.
"""

from __future__ import annotations

import abc
import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from trunkline.placement.placing import Pick

HALF_CLOSED_S: Final = 60.0
"""How long a connection goes on after one side has ended its direction."""

LINGER_S: Final = 10.0
"""How long the last bytes of an ending connection may take."""

_KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]

_NO_LINGER = struct.pack("ii", 1, 0)


class RelayOwner(Protocol):
    """Looks after relays."""

    def end_by(self, relay: Relay, in_s: float) -> None:
        """Abort `relay` when it is still there in so many seconds."""

    def relay_closed(self, relay: Relay) -> None:
        """Both its sides are gone."""


class Relay(abc.ABC):
    """A relayed connection.

    Attributes:
        quiet_since: loop time of the first sweep that found it silent.
        limited: it counts among its address's connections.
    """

    __slots__ = ("address", "limited", "opened_at", "owner", "path", "pick", "quiet_since")

    def __init__(self, owner: RelayOwner, pick: Pick, now: float) -> None:
        self.owner = owner
        self.pick = pick
        self.opened_at = now
        self.quiet_since = now
        self.address = ""
        self.path = ""
        self.limited = False

    @abc.abstractmethod
    def start(self, to_client: bytes, to_backend: bytes) -> None:
        """Take over both sides and read on; may end it at once.

        The client gets the 101 and what came behind it first, the backend what came behind the handshake.
        """

    @abc.abstractmethod
    def spoke(self) -> bool:
        """Whether anything came from either side since the last call."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close both sides after their last bytes, which they must take in time."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Cut both sides off."""

    def is_half_closed(self) -> None:
        """One side has ended its direction: the other goes on for a while."""
        self.owner.end_by(self, HALF_CLOSED_S)

    def lingers(self) -> None:
        """Only last bytes are on their way."""
        self.owner.end_by(self, LINGER_S)


def close_by_reset(fileno: int) -> None:
    """Let the coming close of a socket reach its side as a reset: a mere close would look like an ordinary end."""
    with contextlib.suppress(OSError), options_of(fileno) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def keep_alive(sock: socket.socket) -> None:
    """Let the kernel find out when the machine behind `sock` is gone, and send small messages at once."""
    for level, option, value in _KEEP_ALIVE:
        sock.setsockopt(level, option, value)


@contextlib.contextmanager
def options_of(fileno: int) -> Iterator[socket.socket]:
    """A socket for setting options, which asyncio's own view of it may not do; the descriptor stays its owner's."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno)
    try:
        yield sock
    finally:
        sock.detach()
