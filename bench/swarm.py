"""The load generator: many raw WebSocket connections to one server, driven by one epoll in this process.

Rules:

- It must cost less than any server it measures: frames are masked once, replies are counted and not parsed unless the
  benchmark needs their content, and nothing is allocated for a connection but its socket.
- Each publication holds the byte `^` (0x5E) once, and nothing else a server sends holds it, frame headers included, so
  counting deliveries is counting that byte, however reads cut the stream.
- Whatever does not come within `PATIENCE_S` ends the run with an error that says how much was missing.
"""

from __future__ import annotations

import base64
import os
import re
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence

from bench.errors import BenchError
from bench.servers import Server

PATIENCE_S = 20.0
WAVE = 50
"""Connections opened at once: fewer than the shortest accept queue among the peers."""

SOURCES = 20
"""Source addresses 127.0.0.1 to 127.0.0.20: more ports than one address has."""

MARK = b"^"
_MASK = b"\x2d\x71\xc3\x1e"
_KEY = b"@" * 24
"""Its place is taken by a key of each connection's own: balancers tell connections apart by it."""

_RESET = struct.pack("ii", 1, 0)
READ_BYTES = 1 << 18


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A masked, unfragmented frame, as a client sends it."""
    length = len(payload)
    if length < 126:
        head = bytes((0x80 | opcode, 0x80 | length))
    elif length < 65536:
        head = bytes((0x80 | opcode, 0xFE)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + length.to_bytes(8, "big")
    key = (_MASK * (length // 4 + 1))[:length]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big") if length else b""
    return head + _MASK + masked


CLOSE = frame((1000).to_bytes(2, "big"), 8)


def frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Split what a server sent into (opcode, payload) pairs and the unfinished rest."""
    found = []
    at = 0
    end = len(data)
    while end - at >= 2:
        length, start = data[at + 1] & 127, at + 2
        if length == 126:
            length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        elif length == 127:
            length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
        if start > end or start + length > end:
            break
        found.append((data[at] & 15, data[start : start + length]))
        at = start + length
    return found, data[at:]


class Swarm:
    """Open connections to one server.

    Args:
        server: where to.
        path: the endpoint.
        count: how many connections.
        subscribe: a message to send once open.
        until: bytes to wait for on each connection before it counts as ready.
        offer_deflate: offer permessage-deflate.
        wave: how many are opened at once.
        also: further servers; connections go to them in turn.

    Attributes:
        sockets: by file descriptor.
        rest: what a connection sent behind its handshake and, if asked for, its subscription.
    """

    def __init__(
        self,
        server: Server,
        path: str,
        count: int,
        *,
        subscribe: bytes | None = None,
        until: bytes = b"",
        offer_deflate: bool = False,
        wave: int = WAVE,
        also: Sequence[Server] = (),
    ) -> None:
        self.server = server
        self._addresses = [each.address for each in (server, *also)]
        self.sockets: dict[int, socket.socket] = {}
        self.rest: dict[int, bytes] = {}
        self.epoll = select.epoll()
        host, port = server.address
        extension = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" if offer_deflate else ""
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {_KEY.decode()}\r\nSec-WebSocket-Version: 13\r\n{extension}\r\n"
        ).encode()
        self._subscribe = frame(subscribe) if subscribe is not None else b""
        self._until = until
        try:
            for first in range(0, count, wave):
                self._open(first, min(wave, count - first))
        except BaseException:
            self.abort()
            raise

    def __enter__(self) -> Swarm:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _open(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            sock = socket.socket()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            # On loopback the kernel completes a connect by itself as long as the accept queue has room.
            sock.settimeout(PATIENCE_S)
            self._bind(sock, number)
            sock.connect(self._addresses[number % len(self._addresses)])
            sock.sendall(self._request.replace(_KEY, base64.b64encode(os.urandom(16))))
            sock.setblocking(False)
            fd = sock.fileno()
            self.sockets[fd] = sock
            self.rest[fd] = b""
            self.epoll.register(fd, select.EPOLLIN)
        waiting = set(list(self.sockets)[first:])
        for fd, data in self._incoming(lambda: len(waiting), "handshakes"):
            held = self.rest[fd] = self.rest[fd] + data
            if held.startswith(b"HTTP/"):
                head, end, after = held.partition(b"\r\n\r\n")
                if not end:
                    continue
                if not head.startswith(b"HTTP/1.1 101"):
                    raise BenchError(f"{self.server.name} answered a handshake with {head[:200]!r}")
                held = self.rest[fd] = after
                if self._subscribe:
                    os.write(fd, self._subscribe)
            if self._until in held:
                waiting.discard(fd)

    def _bind(self, sock: socket.socket, number: int) -> None:
        option = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)
        sock.setsockopt(socket.IPPROTO_IP, option, 1)
        sock.bind((f"127.0.0.{1 + number % SOURCES}", 0))

    def _incoming(self, missing: object, what: str) -> Iterator[tuple[int, bytes]]:
        """Yield reads until `missing()` is 0."""
        poll, read = self.epoll.poll, os.read
        left: int = missing()  # type: ignore[operator]
        while left:
            ready = poll(PATIENCE_S)
            if not ready:
                raise BenchError(f"{self.server.name}: {left} {what} did not come within {PATIENCE_S:g} s")
            for fd, _ in ready:
                try:
                    data = read(fd, READ_BYTES)
                except BlockingIOError:
                    continue
                if not data:
                    raise BenchError(f"{self.server.name} closed a connection, {left} {what} missing")
                yield fd, data
            left = missing()  # type: ignore[operator]

    # --- loads ------------------------------------------------------------------------------------------------------

    def echo(self, message: bytes, total: int) -> None:
        """Send `message` on every connection, again after each answer, until `total` answers were read.

        The answer must fit a frame with a short header (125 bytes).
        """
        poll, read, write = self.epoll.poll, os.read, os.write
        partial: dict[int, bytes] = {}
        for fd in self.sockets:
            write(fd, message)
        sent = len(self.sockets)
        answered = 0
        while answered < total:
            ready = poll(PATIENCE_S)
            if not ready:
                raise BenchError(f"{self.server.name}: {total - answered} echoes did not come within {PATIENCE_S:g} s")
            for fd, _ in ready:
                data = read(fd, 4096)
                if len(data) < 2 or len(data) != 2 + (data[1] & 127):
                    if not data:
                        raise BenchError(f"{self.server.name} closed a connection")
                    data = partial.pop(fd, b"") + data
                    if len(data) < 2 or len(data) != 2 + (data[1] & 127):
                        partial[fd] = data
                        continue
                answered += 1
                if sent < total:
                    write(fd, message)
                    sent += 1

    def exchange(self, message: bytes, answer_bytes: int, total: int) -> None:
        """As `echo`, for answers of any size: `answer_bytes` is that of a whole frame, and they are not looked at."""
        poll, read, write = self.epoll.poll, os.read, os.write
        held = dict.fromkeys(self.sockets, 0)
        sent = answered = 0
        for fd in self.sockets:
            if write(fd, message) != len(message):
                raise BenchError(f"a message of {len(message)} bytes does not fit a socket's buffer")
            sent += 1
        while answered < total:
            ready = poll(PATIENCE_S)
            if not ready:
                raise BenchError(f"{self.server.name}: {total - answered} echoes did not come within {PATIENCE_S:g} s")
            for fd, _ in ready:
                data = read(fd, READ_BYTES)
                if not data:
                    raise BenchError(f"{self.server.name} closed a connection")
                held[fd] += len(data)
                if held[fd] < answer_bytes:
                    continue
                held[fd] -= answer_bytes
                answered += 1
                if sent < total:
                    if write(fd, message) != len(message):
                        raise BenchError(f"a message of {len(message)} bytes does not fit a socket's buffer")
                    sent += 1

    def forget_ended(self) -> int:
        """Close the connections that were ended from the other side; returns how many.

        What the others have received is thrown away.
        """
        gone = 0
        while ready := self.epoll.poll(0):
            for fd, _ in ready:
                try:
                    ended = not os.read(fd, READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError:
                    ended = True
                if ended:
                    gone += 1
                    self.epoll.unregister(fd)
                    self.sockets.pop(fd).close()
        return gone

    def receive(self, each: int) -> None:
        """Read until every connection got `each` publications; more than that on one of them is an error."""
        poll, read = self.epoll.poll, os.read
        counts = dict.fromkeys(self.sockets, 0)
        left = each * len(counts)
        while left > 0:
            ready = poll(PATIENCE_S)
            if not ready:
                raise BenchError(f"{self.server.name}: {left} deliveries did not come within {PATIENCE_S:g} s")
            for fd, _ in ready:
                data = read(fd, READ_BYTES)
                if not data:
                    raise BenchError(f"{self.server.name} closed a connection with {left} deliveries missing")
                count = data.count(MARK)
                counts[fd] += count
                left -= count
        if set(counts.values()) != {each}:
            raise BenchError(f"{self.server.name} delivered {min(counts.values())} to {max(counts.values())} of {each}")

    def positions(self) -> dict[int, tuple[str, int]]:
        """Epoch and offset of each connection, from the answer to its subscription."""
        found = {}
        for fd, held in self.rest.items():
            match = re.search(rb'"epoch":"([^"]+)","offset":(\d+)', held)
            if match is None:
                raise BenchError(f"{self.server.name} acknowledged a subscription without a position: {held[-300:]!r}")
            found[fd] = (match[1].decode(), int(match[2]))
        return found

    def close(self) -> None:
        """End all connections with a closing handshake."""
        for fd in self.sockets:
            os.write(fd, CLOSE)
        waiting = set(self.sockets)
        deadline = time.monotonic() + PATIENCE_S
        while waiting:
            if time.monotonic() > deadline:
                raise BenchError(f"{self.server.name}: {len(waiting)} connections were not closed")
            for fd, _ in self.epoll.poll(1.0):
                try:
                    ended = not os.read(fd, READ_BYTES)
                except OSError:
                    ended = True
                if ended:
                    waiting.discard(fd)
                    self.epoll.unregister(fd)
                    self.sockets.pop(fd).close()
        self.abort()

    def abort(self) -> None:
        """Cut what is still open."""
        for sock in self.sockets.values():
            sock.close()
        self.sockets.clear()
        if not self.epoll.closed:
            self.epoll.close()


class Publisher:
    """A connection that publishes and reads what it is answered only when asked to.

    Args:
        server: where to.
    """

    def __init__(self, server: Server) -> None:
        self._swarm = Swarm(server, server.contender.publish_path, 1)
        self.socket = next(iter(self._swarm.sockets.values()))
        self.fd = self.socket.fileno()
        self._acknowledged = 0
        self._held = b""

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave at once."""
        self._swarm.abort()

    def send(self, data: bytes) -> None:
        """Send whole frames in one write; answers so far are read and thrown away."""
        self.discard()
        self.socket.settimeout(PATIENCE_S)
        self.socket.sendall(data)
        self.socket.setblocking(False)

    def discard(self) -> None:
        """Read what is there, and count acknowledgements."""
        while True:
            try:
                data = self.socket.recv(READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                raise BenchError(f"{self._swarm.server.name} closed the publisher")
            found, self._held = frames(self._held + data)
            self._acknowledged += sum(b'"publish_ack"' in payload for _, payload in found)
            refused = [payload for _, payload in found if b'"type":"error"' in payload]
            if refused:
                raise BenchError(f"{self._swarm.server.name} refused a publication: {refused[0]!r}")

    def wait_acknowledged(self, count: int) -> None:
        """Wait until `count` publications were acknowledged in all."""
        deadline = time.monotonic() + PATIENCE_S
        while self._acknowledged < count:
            if time.monotonic() > deadline:
                raise BenchError(f"{count - self._acknowledged} publications were not acknowledged")
            self._swarm.epoll.poll(0.1)
            self.discard()
