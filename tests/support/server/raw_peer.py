"""A client without manners: frames and HTTP by hand, for what a well-behaved library refuses to send."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.support.patience import patient

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Answer(NamedTuple):
    """An HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """One frame as a client sends it; `rsv` is 0x40, 0x20 or 0x10."""
    first = (0x80 if fin else 0) | rsv | opcode
    bit = 0x80 if masked else 0
    length = len(payload)
    if length < 126:
        head = bytes((first, bit | length))
    elif length < 65536:
        head = bytes((first, bit | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + length.to_bytes(8, "big")
    if not masked:
        return head + payload
    mask = os.urandom(4)
    repeated = mask * (length // 4 + 1)
    body = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated[:length], "big")).to_bytes(length, "big")
    return head + mask + body


def upgrade(path: str = "/ws", headers: Mapping[str, str] | None = None, host: str = "localhost") -> bytes:
    """A handshake's request; `headers` come on top or replace what is there."""
    fields = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()


class RawPeer:
    """A TCP connection to a node; it reads when it is told to and not before."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, port: int, *, receive_buffer: int | None = None) -> RawPeer:
        """Connect and say nothing. `receive_buffer`: bytes the kernel takes for a client that does not read."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return cls(sock)

    @classmethod
    async def open(
        cls,
        port: int,
        path: str = "/ws",
        *,
        headers: Mapping[str, str] | None = None,
        receive_buffer: int | None = None,
    ) -> RawPeer:
        """Connect and upgrade."""
        peer = await cls.connect(port, receive_buffer=receive_buffer)
        await peer.send(upgrade(path, headers))
        answer = await peer.answer()
        assert answer.status == 101, answer
        return peer

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        await self._loop.sock_sendall(self.sock, data)

    async def say(self, message: Any) -> None:
        """Send a JSON message."""
        await self.send(frame(TEXT, message if isinstance(message, bytes) else json.dumps(message).encode()))

    async def _more(self, timeout: float) -> None:
        data = await asyncio.wait_for(self._loop.sock_recv(self.sock, 1 << 18), patient(timeout))
        if not data:
            raise EOFError
        self.buffer += data

    async def take(self, count: int, timeout: float = 5.0) -> bytes:
        """The next `count` bytes; raises EOFError when the node has closed."""
        while len(self.buffer) < count:
            await self._more(timeout)
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    async def answer(self, timeout: float = 5.0, *, head: bool = False) -> Answer:
        """The next HTTP answer; `head`: it answers HEAD and has no body."""
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            await self._more(timeout)
        lines = (await self.take(end + 4)).decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = 0 if head else int(headers.get("content-length", "0"))
        return Answer(int(lines[0].split()[1]), headers, await self.take(length, timeout))

    async def frame(self, timeout: float = 5.0) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        first, second = await self.take(2, timeout)
        assert not second & 0x80, "a server must not mask"
        length = second & 0x7F
        if length == 126:
            length = int.from_bytes(await self.take(2, timeout), "big")
        elif length == 127:
            length = int.from_bytes(await self.take(8, timeout), "big")
        return first & 0x0F, await self.take(length, timeout)

    async def message(self, timeout: float = 5.0) -> dict[str, Any]:
        """The next JSON message; pings are passed over."""
        while True:
            opcode, payload = await self.frame(timeout)
            if opcode == PING:
                continue
            assert opcode == TEXT, (opcode, payload)
            decoded: dict[str, Any] = json.loads(payload)
            return decoded

    async def skip_to(self, kind: str, timeout: float = 5.0) -> dict[str, Any]:
        """The next message of a type."""
        while True:
            message = await self.message(timeout)
            if message["type"] == kind:
                return message

    async def closed(self, timeout: float = 5.0) -> tuple[int, str, list[dict[str, Any]]]:
        """Read up to the close frame; returns its code and reason and the messages before it."""
        messages: list[dict[str, Any]] = []
        while True:
            opcode, payload = await self.frame(timeout)
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big"), payload[2:].decode(), messages
            if opcode == TEXT:
                messages.append(json.loads(payload))

    async def ended(self, timeout: float = 5.0) -> bytes:
        """Read until the node has cut the TCP connection; returns what came until then."""
        try:
            while True:
                await self._more(timeout)
        except (EOFError, ConnectionError):
            return await self.take(len(self.buffer))

    def close(self) -> None:
        """Cut the TCP connection."""
        self.sock.close()


async def http(
    port: int, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, host: str = "localhost"
) -> Answer:
    """One request on a connection of its own."""
    peer = await RawPeer.connect(port)
    try:
        fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        await peer.send(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())
        return await peer.answer(head=method == "HEAD")
    finally:
        peer.close()
