"""Clients that follow a channel, on any server, as a good client does: cut off or told to go, they come back.

All run on one epoll in this process. Every publication carries its number, `"n":5`, and each client counts those that
it got, so that one that never came is noticed. With a server of ours a client recovers from where it was; others have
no such thing. A client that lost its connection without having been asked to move waits as `trunkline.js` does: a
random part of half a second, and of twice as long after each failure.
"""

from __future__ import annotations

import base64
import errno
import heapq
import os
import random
import re
import select
import socket
import time
from collections.abc import Callable, Iterator

from bench.errors import BenchError
from bench.servers import Server
from bench.swarm import PATIENCE_S, READ_BYTES, frame, frames

_NUMBER = re.compile(rb'"n":(\d+)')
_OFFSET = re.compile(rb'"offset":(\d+),"prev":(\d+),"data"')
_POSITION = re.compile(rb'"epoch":"([^"]+)","offset":(\d+),"recovered":(true|false)')
_SESSION = re.compile(rb'"session":"([^"]+)"')
_GOODBYE = re.compile(rb'"code":(\d+),.*"reconnect_after_ms":(\d+)')
_WAVE = 200
_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0


class _Follower:
    """One client."""

    __slots__ = (
        "away_since", "epoch", "failures", "held", "moves", "next", "number", "offset", "received", "session", "sock",
        "state", "wait_s",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.sock: socket.socket | None = None
        self.state = "away"
        self.held = b""
        self.epoch = b""
        self.session = ""
        self.offset = 0
        self.next: int | None = None
        self.received = 0
        self.moves = 0
        self.failures = 0
        self.wait_s: float | None = None
        self.away_since: float | None = None


class Followers:
    """Clients of one channel, by way of one server.

    Args:
        server: where they connect; a proxy is one too.
        channel: what they follow.
        count: how many.
        of: who speaks behind `server`, by default itself.

    Attributes:
        lost: publications missed for good, as far as is known by now.
        repeated: publications that came twice or out of order.
        gaps: times that one was told of publications that it will not get.
        cut: connections that ended without the server having asked the client to move.
        refused: handshakes that were not answered with 101.
        attempts: when each of them began a handshake.
        away_s: how long each was without its subscription, every time.
    """

    def __init__(self, server: Server, channel: str, count: int, *, of: Server | None = None) -> None:
        self._server = server
        speaks = (of or server).contender
        self._ours = speaks.subscribe is not None
        self._path = speaks.subscribe_path
        self._subscribed_word = speaks.subscribed
        self._channel = channel.encode()
        self._epoll = select.epoll()
        self._by_fd: dict[int, _Follower] = {}
        self._coming: list[tuple[float, int]] = []
        self._all = [_Follower(number) for number in range(count)]
        self._random = random.Random(count)
        self._subscribed = 0
        self.lost = self.repeated = self.gaps = self.cut = self.refused = 0
        self.attempts: list[float] = []
        self.away_s: list[float] = []
        try:
            for first in range(0, count, _WAVE):
                for number in range(first, min(first + _WAVE, count)):
                    self._connect(self._all[number])
                self._until_subscribed(min(first + _WAVE, count))
        except BaseException:
            self.abort()
            raise
        self.attempts.clear()

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

    def peak_per_s(self) -> int:
        """Most handshakes begun within one second, the first ones apart."""
        most = first = 0
        times = sorted(self.attempts)
        for last, at in enumerate(times):
            while times[first] < at - 1.0:
                first += 1
            most = max(most, last - first + 1)
        return most

    def step(self, timeout_s: float) -> None:
        """Read what has come and connect those whose time it is; waits at most `timeout_s`."""
        now = time.monotonic()
        while self._coming and self._coming[0][0] <= now:
            self._connect(self._all[heapq.heappop(self._coming)[1]])
        if self._coming:
            timeout_s = min(timeout_s, max(0.0, self._coming[0][0] - now))
        for fd, _ in self._epoll.poll(timeout_s):
            follower = self._by_fd[fd]
            if follower.state == "connecting":
                self._connected(fd, follower)
                continue
            try:
                data = os.read(fd, READ_BYTES)
            except OSError:
                data = b""
            if data:
                self._read(fd, follower, data)
            else:
                self._ended(fd, follower)

    def abort(self) -> None:
        """Cut all connections."""
        for follower in self._by_fd.values():
            if follower.sock is not None:
                follower.sock.close()
        self._by_fd.clear()
        self._epoll.close()

    # --- one client ---------------------------------------------------------------------------------------------------

    def _connect(self, follower: _Follower) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect_ex(self._server.address)
        follower.sock, follower.state, follower.held, follower.wait_s = sock, "connecting", b"", None
        self.attempts.append(time.monotonic())
        self._by_fd[sock.fileno()] = follower
        self._epoll.register(sock.fileno(), select.EPOLLOUT)

    def _connected(self, fd: int, follower: _Follower) -> None:
        if follower.sock is None or follower.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.refused += 1
            self._leave(fd, follower)
            return
        host, port = self._server.address
        key = base64.b64encode(os.urandom(16)).decode()
        query = f"?session={follower.session}" if follower.session else ""
        self._write(
            fd,
            f"GET {self._path}{query} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode(),
        )
        follower.state = "shaking hands"
        self._epoll.modify(fd, select.EPOLLIN)

    def _ended(self, fd: int, follower: _Follower) -> None:
        """The connection has ended; that a client was told so before is in `wait_s`."""
        if follower.state == "shaking hands":
            self.refused += 1
        elif follower.wait_s is None:
            self.cut += 1
        self._leave(fd, follower)

    def _leave(self, fd: int, follower: _Follower) -> None:
        now = time.monotonic()
        if follower.state == "subscribed":
            self._subscribed -= 1
            follower.away_since = now
        self._epoll.unregister(fd)
        del self._by_fd[fd]
        if follower.sock is not None:
            follower.sock.close()
        wait_s = follower.wait_s
        if wait_s is None:
            wait_s = self._random.random() * min(_BACKOFF_S * 2**follower.failures, _LONGEST_BACKOFF_S)
            follower.failures += 1
        follower.sock, follower.state = None, "away"
        heapq.heappush(self._coming, (now + wait_s, follower.number))

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
            if self._ours:
                recover = b""
                if follower.epoch:
                    position = (self._channel, follower.epoch, follower.offset)
                    recover = b',"recover":{"%b":{"epoch":"%b","offset":%d}}' % position
                self._write(fd, frame(b'{"type":"subscribe","channels":["%b"]%b}' % (self._channel, recover)))
        messages, follower.held = frames(follower.held + data)
        for opcode, payload in messages:
            if opcode == 8:
                self._write(fd, frame(payload[:2], 8))
                self._ended(fd, follower)
                return
            if opcode == 9:
                self._write(fd, frame(payload, 10))
            elif opcode == 1 and self._ours:
                self._heard(follower, payload)
            elif opcode == 1 and follower.state == "open":
                if self._subscribed_word in payload:
                    self._is_subscribed(follower)
            elif opcode == 1:
                self._got(follower, payload)

    def _heard(self, follower: _Follower, message: bytes) -> None:
        if found := _OFFSET.search(message):
            follower.offset = int(found[1])
            self._got(follower, message)
        elif b'"type":"subscription_ack"' in message:
            position = _POSITION.search(message)
            if position is None:
                raise BenchError(f"a subscription was acknowledged without a position: {message[:300]!r}")
            if not follower.epoch or position[3] != b"true":
                self.gaps += bool(follower.epoch)
                follower.epoch, follower.offset = position[1], int(position[2])
            self._is_subscribed(follower)
        elif b'"type":"connection_established"' in message:
            session = _SESSION.search(message)
            follower.session = session[1].decode() if session else ""
        elif b'"type":"goodbye"' in message:
            goodbye = _GOODBYE.search(message)
            if goodbye is None or goodbye[1] not in (b"1001", b"1012"):
                raise BenchError(f"a client was sent away: {message[:300]!r}")
            follower.moves += 1
            follower.wait_s = int(goodbye[2]) / 1000
        elif b'"type":"gap"' in message:
            self.gaps += 1
        elif b'"type":"error"' in message:
            raise BenchError(f"a client got no publication but {message[:300]!r}")

    def _is_subscribed(self, follower: _Follower) -> None:
        follower.state, follower.failures = "subscribed", 0
        self._subscribed += 1
        if follower.away_since is not None:
            self.away_s.append(time.monotonic() - follower.away_since)
            follower.away_since = None

    def _got(self, follower: _Follower, message: bytes) -> None:
        found = _NUMBER.search(message)
        if found is None:
            raise BenchError(f"a publication has no number: {message[:300]!r}")
        number = int(found[1])
        if follower.next is not None and number < follower.next:
            self.repeated += 1
            return
        if follower.next is not None:
            self.lost += number - follower.next
        follower.next = number + 1
        follower.received += 1

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


class Scene:
    """Keeps clients and publications going while something is waited for.

    Args:
        followers: the clients.
        publish: sends one publication, whose number it is given.
        per_s: how many of them a second.

    Attributes:
        published: so many were sent; the next one has this number.
    """

    def __init__(self, followers: Followers, publish: Callable[[int], None], per_s: float) -> None:
        self.followers = followers
        self.published = 0
        self._publish = publish
        self._pause_s = 1 / per_s
        self._due = time.monotonic()

    def go_on(self, seconds: float) -> None:
        """Publish and follow for so long."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            if now >= self._due:
                self._publish(self.published)
                self.published += 1
                self._due = max(self._due + self._pause_s, now)
            self.followers.step(min(end, self._due) - now)

    def until(self, done: Callable[[], bool], what: str, limit_s: float, *, look_s: float = 0.05) -> float:
        """Go on until `done`, which is looked at every `look_s`; returns how long that took."""
        began = time.monotonic()
        while not done():
            if time.monotonic() - began > limit_s:
                raise BenchError(f"waited {limit_s:.0f} s in vain for {what}")
            self.go_on(look_s)
        return time.monotonic() - began

    def read_out(self, limit_s: float = PATIENCE_S) -> None:
        """Publish no more, and read until nothing is missing; what does not come counts as lost."""
        deadline = time.monotonic() + limit_s
        while self.followers.behind(self.published) and time.monotonic() < deadline:
            self.followers.step(0.1)

    @property
    def lost(self) -> int:
        """Deliveries that did not come. What was skipped never comes; what broke a chain is among it."""
        return max(self.followers.behind(self.published), self.followers.lost)


def _patiently(what: str) -> Iterator[None]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        yield
    raise BenchError(f"waited {PATIENCE_S:g} s in vain for {what}")
