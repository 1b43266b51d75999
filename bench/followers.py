"""Clients that follow a channel as a good client does: told to go, they come back and recover from where they were.

All run on one epoll in this process. Every publication is checked: its `prev` has to be the offset that this client saw
last, and each is counted, so that one that never came is noticed at the end.
"""

from __future__ import annotations

import base64
import errno
import heapq
import os
import re
import select
import socket
import time
from collections.abc import Iterator

from bench.errors import BenchError
from bench.servers import Server
from bench.swarm import PATIENCE_S, READ_BYTES, frame, frames

_PUBLICATION = re.compile(rb'"offset":(\d+),"prev":(\d+),"data"')
_POSITION = re.compile(rb'"epoch":"([^"]+)","offset":(\d+),"recovered":(true|false)')
_GOODBYE = re.compile(rb'"code":(\d+),.*"reconnect_after_ms":(\d+)')
_WAVE = 200
_RETRY_S = 0.25
"""Pause of a client whose connection ended with no goodbye, or that was refused."""


class _Follower:
    """One client."""

    __slots__ = ("epoch", "held", "moves", "number", "offset", "received", "sock", "state", "wait_s")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sock: socket.socket | None = None
        self.state = "away"
        self.held = b""
        self.epoch = b""
        self.offset = 0
        self.received = 0
        self.moves = 0
        self.wait_s = _RETRY_S


class Followers:
    """Clients of one channel, by way of one server.

    Args:
        server: where they connect.
        channel: what they follow.
        count: how many.

    Attributes:
        lost: publications missed for good, as far as is known by now.
        repeated: publications that came twice or out of order.
        cut: connections that ended with no goodbye.
        refused: handshakes that were not answered with 101.
    """

    def __init__(self, server: Server, channel: str, count: int) -> None:
        self._server = server
        self._channel = channel.encode()
        self._epoll = select.epoll()
        self._by_fd: dict[int, _Follower] = {}
        self._coming: list[tuple[float, int]] = []
        self._all = [_Follower(number) for number in range(count)]
        self._subscribed = 0
        self.lost = self.repeated = self.cut = self.refused = 0
        try:
            for first in range(0, count, _WAVE):
                for number in range(first, min(first + _WAVE, count)):
                    self._connect(self._all[number])
                self._until_subscribed(min(first + _WAVE, count))
        except BaseException:
            self.abort()
            raise

    def __enter__(self) -> Followers:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    @property
    def subscribed(self) -> int:
        """How many follow the channel at the moment."""
        return self._subscribed

    @property
    def moves(self) -> list[int]:
        """How often each was asked to move."""
        return [follower.moves for follower in self._all]

    def behind(self, publications: int) -> int:
        """Deliveries that have not come, of so many publications to each."""
        return sum(max(0, publications - follower.received) for follower in self._all)

    def step(self, timeout_s: float) -> None:
        """Read what has come and connect those whose time it is; waits at most `timeout_s`."""
        now = time.monotonic()
        while self._coming and self._coming[0][0] <= now:
            self._connect(self._all[heapq.heappop(self._coming)[1]])
        if self._coming:
            timeout_s = min(timeout_s, max(0.0, self._coming[0][0] - now))
        for fd, _ in self._epoll.poll(timeout_s):
            follower = self._by_fd[fd]
            try:
                data = os.read(fd, READ_BYTES)
            except OSError:
                data = b""
            if data:
                self._read(fd, follower, data)
            elif follower.state != "away":
                self.cut += 1
                self._leave(fd, follower)

    def abort(self) -> None:
        """Cut all connections."""
        for follower in self._by_fd.values():
            if follower.sock is not None:
                follower.sock.close()
        self._by_fd.clear()
        self._epoll.close()

    # --- one client ---------------------------------------------------------------------------------------------------

    def _connect(self, follower: _Follower) -> None:
        sock = socket.create_connection(self._server.address, timeout=PATIENCE_S)
        host, port = self._server.address
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        sock.setblocking(False)
        follower.sock, follower.state, follower.held, follower.wait_s = sock, "shaking hands", b"", _RETRY_S
        self._by_fd[sock.fileno()] = follower
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _leave(self, fd: int, follower: _Follower) -> None:
        self._subscribed -= follower.state == "subscribed"
        self._epoll.unregister(fd)
        del self._by_fd[fd]
        if follower.sock is not None:
            follower.sock.close()
        follower.sock, follower.state = None, "away"
        heapq.heappush(self._coming, (time.monotonic() + follower.wait_s, follower.number))

    def _read(self, fd: int, follower: _Follower, data: bytes) -> None:
        if follower.state == "shaking hands":
            head, end, data = (follower.held + data).partition(b"\r\n\r\n")
            if not end:
                follower.held = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.refused += 1
                self._leave(fd, follower)
                return
            follower.state, follower.held = "open", b""
            recover = b""
            if follower.epoch:
                position = (self._channel, follower.epoch, follower.offset)
                recover = b',"recover":{"%b":{"epoch":"%b","offset":%d}}' % position
            self._write(fd, frame(b'{"type":"subscribe","channels":["%b"]%b}' % (self._channel, recover)))
        messages, follower.held = frames(follower.held + data)
        for opcode, payload in messages:
            if opcode == 8:
                self._write(fd, frame(payload[:2], 8))
                self._leave(fd, follower)
                return
            if opcode == 9:
                self._write(fd, frame(payload, 10))
            elif opcode == 1:
                self._heard(follower, payload)

    def _heard(self, follower: _Follower, message: bytes) -> None:
        if found := _PUBLICATION.search(message):
            offset, prev = int(found[1]), int(found[2])
            if offset <= follower.offset:
                self.repeated += 1
                return
            if prev != follower.offset:
                self.lost += 1
            follower.offset = offset
            follower.received += 1
        elif b'"type":"subscription_ack"' in message:
            position = _POSITION.search(message)
            if position is None:
                raise BenchError(f"a subscription was acknowledged without a position: {message[:300]!r}")
            if not follower.epoch:
                follower.epoch, follower.offset = position[1], int(position[2])
            elif position[3] != b"true":
                self.lost += 1
                follower.epoch, follower.offset = position[1], int(position[2])
            follower.state = "subscribed"
            self._subscribed += 1
        elif b'"type":"goodbye"' in message:
            goodbye = _GOODBYE.search(message)
            if goodbye is None or goodbye[1] != b"1012":
                raise BenchError(f"a client was sent away: {message[:300]!r}")
            follower.moves += 1
            follower.wait_s = int(goodbye[2]) / 1000
        elif b'"type":"gap"' in message or b'"type":"error"' in message:
            raise BenchError(f"a client got no publication but {message[:300]!r}")

    def _write(self, fd: int, data: bytes) -> None:
        try:
            os.write(fd, data)
        except OSError as error:  # it ends; the next read says so
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise

    def _until_subscribed(self, count: int) -> None:
        for _ in _patiently(f"{count} clients to be subscribed"):
            if self._subscribed >= count:
                return
            self.step(0.1)


def _patiently(what: str) -> Iterator[None]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        yield
    raise BenchError(f"waited {PATIENCE_S:g} s in vain for {what}")
