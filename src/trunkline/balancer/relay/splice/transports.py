"""A relay between two asyncio transports, spliced: for TLS on either side, and for systems without epoll.

Rules:

- Each end reads from its own transport and writes to the other's. While the kernel takes our bytes they go straight to
  it with one `os.write`; once the other transport holds bytes that the kernel did not take, everything goes through
  that transport, for the order's sake, until it is empty again.
- The other's descriptor is kept only while it may be written to; -1 else: TLS, bytes waiting, half-closed, gone. The
  kernel gives its number to the next connection, so it is forgotten at `connection_lost` or our own close.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from trunkline.balancer.relay.splice.relay import Relay, RelayOwner, close_by_reset

if TYPE_CHECKING:
    from trunkline.placement.placing import Pick

HIGH_WATER: Final = 1 << 16
"""Bytes waiting for one side, above which the other is not read."""

_write = os.write


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

    def __init__(self, own: asyncio.Transport, relay: TransportRelay) -> None:
        self.own = own
        self.relay: TransportRelay | None = relay
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
                self._peer_gone()
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

    def _peer_gone(self) -> None:
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
            relay.lingers()

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
        relay.is_half_closed()
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


class TransportRelay(Relay):
    """A relay on transports; `client` is the client's end, whose peer is the backend's."""

    __slots__ = ("client",)

    client: End

    def __init__(
        self, owner: RelayOwner, pick: Pick, client: asyncio.Transport, backend: asyncio.Transport, now: float
    ) -> None:
        super().__init__(owner, pick, now)
        near, far = End(client, self), End(backend, self)
        near.peer, far.peer = far, near
        self.client = near

    def start(self, to_client: bytes, to_backend: bytes) -> None:
        """Take over both transports and read on."""
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

    def spoke(self) -> bool:
        """Whether anything came from either side since the last call."""
        near = self.client
        far = near.peer
        spoke = near.active or far.active
        near.active = far.active = False
        return spoke

    def close_end(self, end: End) -> None:
        """Close one end after its last bytes, which it must take in time."""
        end.peer.fd = -1
        end.own.close()
        self.lingers()

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
    """Cut a side off so that it notices."""
    found = transport.get_extra_info("socket")
    if found is not None and not transport.is_closing():
        close_by_reset(found.fileno())
    transport.abort()


def descriptor(transport: asyncio.Transport) -> int:
    """The descriptor that plain bytes may be written to, -1 for a TLS transport, which has none."""
    if not transport.can_write_eof():
        return -1
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())
