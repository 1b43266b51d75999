"""Clients between the accept and the first byte of HTTP: those of a TLS listener, whose handshake comes first.

Rules:

- They are bare sockets until their handshake begins, and pending connections from the accept on: bounded in number and
  time with all others. (uvloop's own servers report a client after its TLS handshake alone, so nobody would count those
  that never begin one.)
- A few are accepted in one turn of the loop, so that a flood of them does not hold up those that are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

import structlog

from trunkline.balancer.relay.pending import PendingConnections
from trunkline.process.open_files import exhausted

log = structlog.get_logger("trunkline.balancer")

AT_ONCE: Final = 8
PAUSE_S: Final = 0.1
"""How long nothing is accepted after the system had no room for another socket."""


class ArrivalListener:
    """Accepts clients from one listening socket; `make` makes the protocol of a client."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pending: PendingConnections,
        sock: socket.socket,
        make: Callable[[Arrival], asyncio.Protocol],
        tls: ssl.SSLContext,
        handshake_timeout_s: float,
    ) -> None:
        self.loop = loop
        self.pending = pending
        self.make = make
        self.tls: dict[str, Any] = {
            "ssl": tls,
            "ssl_handshake_timeout": handshake_timeout_s,
            "ssl_shutdown_timeout": 2.0,
        }
        self._sock = sock
        self._resuming: asyncio.TimerHandle | None = None
        self._resume()

    def close(self) -> None:
        """Accept no more."""
        if self._resuming is not None:
            self._resuming.cancel()
        self.loop.remove_reader(self._sock)
        self._sock.close()

    def _resume(self) -> None:
        self.loop.add_reader(self._sock, self._on_ready)

    def _on_ready(self) -> None:
        for _ in range(AT_ONCE):
            try:
                client, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if not exhausted(error):
                    # The client has left already.
                    continue
                log.warning("accept_failed", why=error.strerror)
                self.loop.remove_reader(self._sock)
                self._resuming = self.loop.call_later(PAUSE_S, self._resume)
                return
            client.setblocking(False)
            Arrival(self, client).begin()


class Arrival:
    """One client on its way; a `Waiting`."""

    __slots__ = ("_began", "_listener", "_sock", "_task", "deadline", "fresh")

    def __init__(self, listener: ArrivalListener, sock: socket.socket) -> None:
        self._listener = listener
        self._sock = sock
        self._task: asyncio.Task[None] | None = None
        self._began = False
        self.fresh = True
        self.deadline = 0.0

    def begin(self) -> None:
        """Do what comes before HTTP."""
        if self._listener.pending.add(self):
            self._task = self._listener.loop.create_task(self._shake_hands())
        else:
            self._sock.close()

    def arrived(self) -> None:
        """The client's protocol has it from now on."""
        self._listener.pending.remove(self)

    def abort(self) -> None:
        """Cut the TCP connection."""
        if self._task is not None:
            # Ends the handshake, and with it the transport, which has the socket.
            self._task.cancel()
        if not self._began:
            self._sock.close()

    on_time_out = abort

    def close_if_idle(self) -> None:
        """The edge stops: a client that has just come still gets its first request served."""

    async def _shake_hands(self) -> None:
        listener = self._listener
        self._began = True
        try:
            # A client that does not get through its handshake is its own affair, and says nothing to anybody.
            with contextlib.suppress(OSError):
                await listener.loop.connect_accepted_socket(lambda: listener.make(self), self._sock, **listener.tls)
        finally:
            listener.pending.remove(self)
