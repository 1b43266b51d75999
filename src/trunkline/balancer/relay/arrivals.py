"""Clients between the accept and the first byte of HTTP: a PROXY protocol header may come first, and a TLS handshake.

Rules:

- They are bare sockets until their handshake begins, and pending connections from the accept on: bounded in number and
  time with all others. (uvloop's own servers report a client after its TLS handshake alone, so nobody would count those
  that never begin one.)
- A header is expected from the load balancers of the settings, always, and from nobody else. Nothing is guessed: who
  may send one chooses its own address. Not a byte behind it is read.
- A few are accepted in one turn of the loop, so that a flood of them does not hold up those that are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from trunkline.balancer.relay.pending import PendingConnections
from trunkline.net.addresses import Network, within
from trunkline.net.crowding import Crowding
from trunkline.net.proxy_protocol import LONGEST, BadProxyHeader, read_header
from trunkline.process.open_files import exhausted

log = structlog.get_logger("trunkline.balancer")

AT_ONCE: Final = 8
PAUSE_S: Final = 0.1
"""How long nothing is accepted after the system had no room for another socket."""


class ArrivalListener:
    """Accepts clients from one listening socket.

    Args:
        make: makes the protocol of a client.
        tls: None for a plain listener.
        proxies: whose connections begin with a PROXY protocol header.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pending: PendingConnections,
        sock: socket.socket,
        make: Callable[[Arrival], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        proxies: Sequence[Network],
        handshake_timeout_s: float,
    ) -> None:
        self.loop = loop
        self.pending = pending
        self.make = make
        self.tls: dict[str, Any] = {}
        if tls is not None:
            self.tls = {"ssl": tls, "ssl_handshake_timeout": handshake_timeout_s, "ssl_shutdown_timeout": 2.0}
        self._proxies = proxies
        self._bad = Crowding()
        self._full = Crowding()
        self._sock = sock
        self._resuming: asyncio.TimerHandle | None = None
        self._resume()

    def close(self) -> None:
        """Accept no more."""
        if self._resuming is not None:
            self._resuming.cancel()
        self.loop.remove_reader(self._sock)
        self._sock.close()

    def refused(self, peer: str, why: str) -> None:
        """A load balancer has sent no header, or a bad one."""
        self.pending.refused("bad_proxy_header")
        if self._bad.is_news(self.loop.time()):
            log.warning("bad_proxy_header", peer=peer, why=why, setting="balancer.proxy_protocol")

    def _resume(self) -> None:
        self.loop.add_reader(self._sock, self._on_ready)

    def _on_ready(self) -> None:
        for _ in range(AT_ONCE):
            try:
                client, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if not exhausted(error):
                    # The client has left already.
                    continue
                if self._full.is_news(self.loop.time()):
                    log.warning("accept_failed", why=error.strerror)
                self.loop.remove_reader(self._sock)
                self._resuming = self.loop.call_later(PAUSE_S, self._resume)
                return
            client.setblocking(False)
            Arrival(self, client, address[0]).begin(within(address[0], self._proxies))


class Arrival:
    """One client on its way; a `Waiting`.

    Attributes:
        source: the client by the header, None where there is none or the load balancer speaks for itself.
        tls: whether it speaks TLS.
    """

    __slots__ = ("_began", "_header", "_listener", "_peer", "_sock", "_task", "deadline", "fresh", "source", "tls")

    def __init__(self, listener: ArrivalListener, sock: socket.socket, peer: str) -> None:
        self._listener = listener
        self._sock = sock
        self._peer = peer
        self._header = b""
        self._task: asyncio.Task[None] | None = None
        self._began = False
        self.source: str | None = None
        self.tls = bool(listener.tls)
        self.fresh = True
        self.deadline = 0.0

    def begin(self, has_header: bool) -> None:
        """Do what comes before HTTP."""
        if not self._listener.pending.add(self):
            self._sock.close()
        elif has_header:
            self._listener.loop.add_reader(self._sock, self._read_header)
        else:
            self._connect()

    def arrived(self) -> None:
        """The client's protocol has it from now on."""
        self._listener.pending.remove(self)

    def abort(self) -> None:
        """Cut the TCP connection."""
        listener = self._listener
        if self._task is not None:
            # Ends the handshake, and with it the transport, which has the socket.
            self._task.cancel()
        elif self._sock.fileno() >= 0:
            listener.loop.remove_reader(self._sock)
        if not self._began:
            self._sock.close()
        listener.pending.remove(self)

    on_time_out = abort

    def close_if_idle(self) -> None:
        """The edge stops: a client that has just come still gets its first request served."""

    def _read_header(self) -> None:
        try:
            # What belongs to the header is known only once it was looked at.
            seen = self._sock.recv(LONGEST, socket.MSG_PEEK)
            if not seen:
                # A check of the load balancer, which only connects.
                self.abort()
                return
            length, found = read_header(self._header + seen)
            self._header += self._sock.recv(length - len(self._header))
        except BlockingIOError:
            return
        except BadProxyHeader as bad:
            self._listener.refused(self._peer, str(bad))
            self.abort()
            return
        except OSError:
            self.abort()
            return
        if found is not None:
            self._listener.loop.remove_reader(self._sock)
            self.source = found.source
            self._header = b""
            self._connect()

    def _connect(self) -> None:
        self._task = self._listener.loop.create_task(self._shake_hands())

    async def _shake_hands(self) -> None:
        listener = self._listener
        self._began = True
        try:
            # A client that does not get through its handshake is its own affair, and says nothing to anybody.
            with contextlib.suppress(OSError):
                await listener.loop.connect_accepted_socket(lambda: listener.make(self), self._sock, **listener.tls)
        finally:
            listener.pending.remove(self)
