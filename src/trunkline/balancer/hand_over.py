"""A restart that refuses nobody: a balancer gives its listening sockets to the process that takes its place.

Rules:

- The process that runs offers them on a Unix socket of its user, under a name made of the address and port that clients
  connect to. One that is started with `--take-over` connects there, gets the sockets (SCM_RIGHTS, unix(7)) and accepts
  from them beside the first one. Only when it is up does it say so, and the first one drains and ends.
- Until then the first one changes nothing: when the other fails, or says nothing for `READY_S` seconds, it goes on.
- The sockets are the same ones, so no connection that waits in their queue is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from trunkline.errors import StartError
from trunkline.process.private_sockets import PrivateSocket, connect, is_own
from trunkline.settings.balancer import BalancerSettings

log = structlog.get_logger("trunkline.balancer")

READY_S: Final = 120.0
ANSWER_S: Final = 5.0
VERSION: Final = 1
LONGEST: Final = 4096
MOST_SOCKETS: Final = 64
READY: Final = b"ready\n"
ENDS: Final = b"ends\n"


class Offered(msgspec.Struct):
    """What comes with the sockets: those for clients first, then those of the admin port."""

    version: int
    pid: int
    clients: int
    admin: int


class Offer:
    """The offer of one balancer; `on_taken` is called when another process has taken its place."""

    def __init__(self, on_taken: Callable[[], None]) -> None:
        self._on_taken = on_taken
        self._private: PrivateSocket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self._counts = (0, 0)

    def start(
        self, settings: BalancerSettings, port: int, clients: Sequence[socket.socket], admin: Sequence[socket.socket]
    ) -> None:
        """Offer these sockets, unless the settings switch it off; without a directory for it there is no offer."""
        if not settings.hand_over:
            return
        try:
            self._private = PrivateSocket(_name(settings.host, port))
        except OSError as error:
            log.info("hand_over_not_offered", why=str(error))
            return
        # Of its own: whoever else has them closes them as it likes.
        self._sockets = [sock.dup() for sock in (*clients, *admin)]
        self._counts = (len(clients), len(admin))
        asyncio.get_running_loop().add_reader(self._private.sock, self._on_ready, self._private.sock)

    def close(self) -> None:
        """Withdraw it."""
        if self._private is not None:
            asyncio.get_running_loop().remove_reader(self._private.sock)
            self._private.close()
            self._private = None
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    async def stop(self) -> None:
        """Withdraw it, and end what is under way."""
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_ready(self, listening: socket.socket) -> None:
        try:
            peer, _ = listening.accept()
        except OSError:
            return
        peer.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._give(peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _give(self, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.closing(peer), contextlib.suppress(OSError, TimeoutError):
            if not is_own(peer):
                log.warning("hand_over_refused", why="the process that asks is another user's")
                return
            clients, admin = self._counts
            offered = msgspec.json.encode(Offered(VERSION, os.getpid(), clients, admin))
            socket.send_fds(peer, [offered + b"\n"], [sock.fileno() for sock in self._sockets])
            async with asyncio.timeout(READY_S):
                said = await loop.sock_recv(peer, len(READY))
            if said != READY or self._private is None:
                # It could not start, or another one was faster.
                return
            # The name is free before the other one wants it.
            self.close()
            log.info("hand_over_done")
            self._on_taken()
            await loop.sock_sendall(peer, ENDS)


class TakenOver:
    """The sockets of a balancer that runs, for one that takes its place."""

    def __init__(self, peer: socket.socket, offered: Offered, sockets: list[socket.socket]) -> None:
        self._peer = peer
        self.pid = offered.pid
        self.clients = sockets[: offered.clients]
        self.admin = sockets[offered.clients :]

    async def finish(self) -> None:
        """This process is up: the other one ends."""
        loop = asyncio.get_running_loop()
        self._peer.setblocking(False)
        try:
            async with asyncio.timeout(ANSWER_S):
                await loop.sock_sendall(self._peer, READY)
                done = await loop.sock_recv(self._peer, len(ENDS)) == ENDS
        except (OSError, TimeoutError):
            done = False
        self._peer.close()
        if done:
            log.info("taken_over", pid=self.pid)
        else:
            log.warning("not_taken_over", pid=self.pid, next_step="end that process if it still runs")

    def give_up(self) -> None:
        """This process does not get up: the other one goes on."""
        self._peer.close()
        for sock in (*self.clients, *self.admin):
            sock.close()


def take_over(settings: BalancerSettings) -> TakenOver | None:
    """Get the sockets of the balancer that runs on this address and port, None when none offers them.

    Raises:
        StartError: it does not answer, or is of another version.
    """
    peer = connect(_name(settings.host, settings.port), ANSWER_S)
    if peer is None:
        return None
    sockets: list[socket.socket] = []
    try:
        data, descriptors, _, _ = socket.recv_fds(peer, LONGEST, MOST_SOCKETS)
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        offered = msgspec.json.decode(data, type=Offered)
        if offered.version != VERSION or len(sockets) != offered.clients + offered.admin or not offered.clients:
            raise ValueError("it offers what this version does not know")
    except (OSError, ValueError) as error:
        peer.close()
        for sock in sockets:
            sock.close()
        raise StartError(
            f"the balancer on {settings.host}:{settings.port} cannot be taken over: {error or 'no answer'}",
            "End it, then start this one without --take-over.",
        ) from None
    for sock in sockets:
        sock.set_inheritable(False)
        sock.setblocking(False)
    return TakenOver(peer, offered, sockets)


def _name(host: str, port: int) -> str:
    return f"balancer-{host or 'all'}-{port}.sock"
