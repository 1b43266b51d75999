"""A WebSocket after its 101: two transports spliced, bytes untouched. The hot path of the balancer.

Rules:

- No await, task, timer or log line belongs to a message, and nothing of the handshake is kept.
- Each end reads from its own transport and writes to the other's. While the kernel takes our bytes they go straight to
  it with one `os.write`; once the other transport holds bytes that the kernel did not take, everything goes through
  that transport, for the order's sake, until it is empty again.
- The other's descriptor is kept only while it may be written to; -1 says no: TLS, bytes waiting, half-closed, gone. The
  kernel gives its number to the next connection, so it is forgotten at `connection_lost` or our own close.
- What one side does not take stops the reading of the other (`HIGH_WATER`), so that memory stays bounded.
- Whatever may wait for ever (half-closed, a farewell that nobody reads) gets a deadline in the edge's sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from trunkline.balancer.placing import Pick

HIGH_WATER: Final = 1 << 16
"""Bytes waiting for one side, above which the other is not read."""

HALF_CLOSED_S: Final = 60.0
"""How long a connection goes on after one side has ended its direction."""

LINGER_S: Final = 10.0
"""How long the last bytes of an ending connection may take."""

_write = os.write
_NO_LINGER = struct.pack("ii", 1, 0)


class RelayOwner(Protocol):
    """Who looks after relays: the edge."""

    def end_by(self, relay: Relay, in_s: float) -> None:
        """Abort `relay` when it is still there in so many seconds."""

    def relay_closed(self, relay: Relay) -> None:
        """Both its ends are gone."""


class End(asyncio.Protocol):
    """One end of a relayed connection.

    Attributes:
        fd: descriptor of the other end's socket while it may be written to directly, else -1.
        own: this end's transport.
        peer: the other end.
        relay: what both are ends of; None when this end is gone.
        active: it has read something since the last sweep.
        eof: its side will send no more.
        held: it is not read, because the other side does not take what came.
        blocked: the other transport holds bytes that the kernel did not take.
    """

    __slots__ = ("active", "blocked", "eof", "fd", "held", "own", "peer", "relay")

    peer: End

    def __init__(self, own: asyncio.Transport, relay: Relay) -> None:
        self.own = own
        self.relay: Relay | None = relay
        self.fd = -1
        self.active = False
        self.eof = False
        self.held = False
        self.blocked = False

    def data_received(self, data: bytes) -> None:
        """Pass on what one read returned."""
        self.active = True
        if self.fd >= 0:
            try:
                sent = _write(self.fd, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._nobody_reads()
                return
            if sent == len(data):
                return
            data = data[sent:]
        out = self.peer.own
        if out.is_closing():
            return
        # Of a plain transport the high-water mark is 0, so when bytes remain this calls pause_writing at once.
        out.write(data)
        if self.blocked and not self.held and out.get_write_buffer_size() > HIGH_WATER:
            self._hold()

    def _hold(self) -> None:
        if not self.own.is_closing():
            self.held = True
            self.own.pause_reading()

    def _nobody_reads(self) -> None:
        """A direct write found the other side gone.

        What it sent before it went may still wait to be read, such as its close frame: it is passed on, and
        `connection_lost` of that end follows. Only when that end reads no more would nothing follow.
        """
        self.fd = -1
        relay = self.relay
        if relay is None:
            return
        if self.peer.eof:
            relay.abort()
        else:
            self._hold()
            self.blocked = False
            relay.owner.end_by(relay, LINGER_S)

    def pause_writing(self) -> None:
        """This transport holds bytes that its side did not take."""
        peer = self.peer
        peer.blocked = True
        peer.fd = -1
        if not peer.held and self.own.get_write_buffer_size() > HIGH_WATER:
            peer._hold()

    def resume_writing(self) -> None:
        """Its side has taken them all (of a TLS one, most)."""
        peer = self.peer
        peer.blocked = False
        if self.relay is None or peer.relay is None:
            return
        if not peer.eof and not self.own.is_closing():
            peer.fd = descriptor(self.own)
        if peer.held:
            peer.held = False
            if not peer.own.is_closing():
                peer.own.resume_reading()

    def eof_received(self) -> bool:
        """This side will send no more: pass that on; the other direction goes on for a while."""
        self.eof = True
        self.fd = -1
        relay = self.relay
        out = self.peer.own
        if relay is None or self.peer.eof or out.is_closing():
            return False
        if out.can_write_eof():
            out.write_eof()
        else:
            # TLS cannot be closed by half; its last bytes still go out.
            relay.close_end(self.peer)
        if not self.own.can_write_eof():
            return False
        relay.owner.end_by(relay, HALF_CLOSED_S)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """This side is gone: what it sent still reaches the other one, unless it was cut off."""
        relay, peer = self.relay, self.peer
        self.relay = None
        self.fd = -1
        peer.fd = -1
        if relay is None:
            return
        if peer.relay is None:
            relay.owner.relay_closed(relay)
            # Without this only the garbage collector could free the two.
            del relay.client, self.peer, peer.peer
        elif exc is None:
            relay.close_end(peer)
        else:
            reset(peer.own)


class Relay:
    """A relayed connection.

    Args:
        owner: is told of its end, and keeps its deadlines.
        pick: the backend it was placed on.
        client: the client's transport.
        backend: the backend's transport.

    Attributes:
        client: the client's end; its peer is the backend's.
        opened_at: loop time.
        quiet_since: loop time of the first sweep that found it silent.
        address: the client's address.
        path: path of its request, without the query.
    """

    __slots__ = ("address", "client", "limited", "opened_at", "owner", "path", "pick", "quiet_since")

    client: End

    def __init__(
        self, owner: RelayOwner, pick: Pick, client: asyncio.Transport, backend: asyncio.Transport, now: float
    ) -> None:
        self.owner = owner
        self.pick = pick
        self.opened_at = now
        self.quiet_since = now
        self.address = ""
        self.path = ""
        self.limited = False
        near, far = End(client, self), End(backend, self)
        near.peer, far.peer = far, near
        self.client = near

    def start(self, to_client: bytes, to_backend: bytes) -> None:
        """Take over both transports and read on.

        Args:
            to_client: the 101 and what the backend sent behind it.
            to_backend: what the client sent behind its handshake.
        """
        near, far = self.client, self.client.peer
        for end in (near, far):
            end.own.set_protocol(end)
            plain = end.own.can_write_eof()
            end.own.set_write_buffer_limits(high=0 if plain else HIGH_WATER)
            if not end.own.get_write_buffer_size():
                end.peer.fd = descriptor(end.own)
        far.data_received(to_client)
        if to_backend:
            near.data_received(to_backend)
        for end in (near, far):
            if not end.held and not end.own.is_closing():
                end.own.resume_reading()

    def close_end(self, end: End) -> None:
        """Close one end after its last bytes, which it must take in time."""
        end.peer.fd = -1
        end.own.close()
        self.owner.end_by(self, LINGER_S)

    def close(self) -> None:
        """Close both ends after their last bytes."""
        near = self.client
        self.close_end(near)
        self.close_end(near.peer)

    def abort(self) -> None:
        """Cut both ends off."""
        near = self.client
        far = near.peer
        near.fd = far.fd = -1
        near.own.abort()
        far.own.abort()


def reset(transport: asyncio.Transport) -> None:
    """Cut a side off so that it notices: an abort alone would look like an ordinary end to it."""
    found = transport.get_extra_info("socket")
    if found is not None and not transport.is_closing():
        with contextlib.suppress(OSError), options_of(found.fileno()) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


@contextlib.contextmanager
def options_of(fileno: int) -> Iterator[socket.socket]:
    """A transport's socket for setting options, which asyncio's own view of it may not do; it stays the transport's."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno)
    try:
        yield sock
    finally:
        sock.detach()


def descriptor(transport: asyncio.Transport) -> int:
    """The descriptor that plain bytes may be written to, -1 for a TLS transport, which has none."""
    if not transport.can_write_eof():
        return -1
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())
