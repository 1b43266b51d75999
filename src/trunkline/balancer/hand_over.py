"""A restart that refuses nobody: a balancer gives its listening sockets to the process that takes its place.

Rules:

- The process that runs offers them on a Unix socket of its user, under a name made of the address and port that clients
  connect to. One that is started with `--take-over` connects there, gets the sockets (SCM_RIGHTS, unix(7)) and accepts
  from them beside the first one. Only when it is up does it say so, and the first one drains and ends.
- Until then the first one changes nothing: when the other fails, or says nothing for `READY_S` seconds, it goes on.
- Of several that ask, the first that is up takes its place. The others are told, and fail: two balancers that go on
  beside each other would each know half of the clients.
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
from trunkline.process.bounds import end_tasks
from trunkline.process.sockets.private import PrivateSocket, connect, is_own
from trunkline.settings.balancer import BalancerSettings

log = structlog.get_logger("trunkline.balancer")

READY_S: Final = 120.0
ANSWER_S: Final = 5.0
VERSION: Final = 1
LONGEST: Final = 4096
MOST_SOCKETS: Final = 64
READY: Final = b"ready\n"
ENDS: Final = b"ends\n"
STAYS: Final = b"stays\n"


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
        self._askers: dict[asyncio.Task[None], socket.socket] = {}
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
        """Withdraw it; this process ends, so whoever asked need not wait for it."""
        self.close()
        askers = dict(self._askers)
        for peer in askers.values():
            _answer(peer, ENDS)
        await end_tasks(askers)

    def _on_ready(self, listening: socket.socket) -> None:
        try:
            peer, _ = listening.accept()
        except OSError:
            return
        peer.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._give(peer))
        self._askers[task] = peer
        task.add_done_callback(lambda task: self._askers.pop(task, None))

    async def _give(self, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.closing(peer), contextlib.suppress(OSError):
            if not is_own(peer):
                log.warning("hand_over_refused", why="the process that asks is another user's")
                return
            clients, admin = self._counts
            offered = msgspec.json.encode(Offered(VERSION, os.getpid(), clients, admin))
            socket.send_fds(peer, [offered + b"\n"], [sock.fileno() for sock in self._sockets])
            try:
                async with asyncio.timeout(READY_S):
                    said = await loop.sock_recv(peer, len(READY))
            except TimeoutError:
                _answer(peer, STAYS)
                return
            if said != READY:
                # It could not start.
                return
            for task, other in self._askers.items():
                if other is not peer:
                    _answer(other, STAYS)
                    task.cancel()
            # The name, and whatever else the other one wants, is free before it hears that it may have it.
            self.close()
            log.info("hand_over_done")
            self._on_taken()
            _answer(peer, ENDS)


def _answer(peer: socket.socket, word: bytes) -> None:
    with contextlib.suppress(OSError):
        peer.send(word)


class TakenOver:
    """The sockets of a balancer that runs, for one that takes its place."""

    def __init__(self, peer: socket.socket, offered: Offered, sockets: list[socket.socket]) -> None:
        self._peer = peer
        self.pid = offered.pid
        self.clients = sockets[: offered.clients]
        self.admin = sockets[offered.clients :]

    async def finish(self) -> None:
        """This process is up: the other one ends.

        Raises:
            StartError: it goes on, or has ended for another process already.
        """
        loop = asyncio.get_running_loop()
        self._peer.setblocking(False)
        # It may have answered, and ended, before it was asked.
        _answer(self._peer, READY)
        try:
            async with asyncio.timeout(ANSWER_S):
                said = await loop.sock_recv(self._peer, len(STAYS))
        except (OSError, TimeoutError):
            said = b""
        self._peer.close()
        if said == STAYS:
            raise StartError(
                f"the balancer of process {self.pid} was taken over by another one first, or this one was not up "
                f"within {READY_S:g} s",
                "Start it again to take the place of whichever runs now.",
            )
        if said == ENDS:
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
