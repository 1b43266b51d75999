"""A foreign WebSocket backend as a child process: it echoes, and counts its connections itself.

Usage: python -m bench.backend PORT [PORT...], each port a backend of its own. It answers `/metric` as any backend may
(the load report that balancers ask for), `/counts` for the benchmark alone, and 200 to every other plain request.

It is written for this purpose and little else: frames come whole or cut anywhere, but fragmented messages are echoed
fragment by fragment, and nothing is checked.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import json
import re
import sys
import time
from collections.abc import Sequence

from bench.errors import BenchError
from bench.servers import Contender, Server, free_port

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_EMPTY_TIMEOUT_S = 20.0
_KEY = re.compile(rb"^sec-websocket-key:\s*(\S+)", re.IGNORECASE | re.MULTILINE)


class _Port:
    """What is counted of one backend."""

    def __init__(self) -> None:
        self.open = 0
        self.asked = 0


class _Peer(asyncio.Protocol):
    """One connection, first of plain requests."""

    def __init__(self, port: _Port) -> None:
        self._port = port
        self._upgraded = False
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        self._port.open -= self._upgraded

    def data_received(self, data: bytes) -> None:
        data = self._held + data if self._held else data
        self._held = self._echo(data) if self._upgraded else self._requests(data)

    def _requests(self, data: bytes) -> bytes:
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head, data = data[:end], data[end + 4 :]
            if found := _KEY.search(head):
                accept = base64.b64encode(hashlib.sha1(found[1] + _GUID).digest())
                self._transport.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
                )
                self._upgraded = True
                self._port.open += 1
                return self._echo(data)
            path = head.split(b" ", 2)[1].partition(b"?")[0]
            self._port.asked += path == b"/metric"
            body = b""
            if path in (b"/metric", b"/counts"):
                body = json.dumps({"agentsConnections": self._port.open, "asked": self._port.asked}).encode()
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
        return data

    def _echo(self, data: bytes) -> bytes:
        at, end = 0, len(data)
        answers = []
        while end - at >= 6:
            length, start = data[at + 1] & 127, at + 2
            if length == 126:
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if start + 4 + length > end:
                break
            mask, payload = data[start : start + 4], data[start + 4 : start + 4 + length]
            key = (mask * (length // 4 + 1))[:length]
            plain = (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(length, "little")
            first, opcode = data[at], data[at] & 15
            if opcode == 9:
                first = 0x8A
            if opcode != 10:
                answers += (bytes((first, data[at + 1] & 127)), data[at + 2 : start], plain)
            at = start + 4 + length
            if opcode == 8:
                self._transport.write(b"".join(answers))
                self._transport.close()
                return b""
        if answers:
            self._transport.write(b"".join(answers))
        return data[at:]


async def main(ports: Sequence[int]) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    servers = []
    for number in ports:
        counted = _Port()
        servers.append(
            await loop.create_server(lambda counted=counted: _Peer(counted), "127.0.0.1", number, backlog=4096)  # type: ignore[misc]
        )
    await asyncio.gather(*(server.serve_forever() for server in servers))


# --- seen from the benchmark ------------------------------------------------------------------------------------------


class Backends:
    """Running backends.

    Args:
        count: how many.
        apart: each in a process of its own, so that one can be restarted.

    Attributes:
        ports: where they listen.
    """

    def __init__(self, count: int, *, apart: bool = False) -> None:
        self._servers: list[Server] = []
        try:
            if apart:
                self._servers = [Server(_contender(())) for _ in range(count)]
                self.ports = [server.port for server in self._servers]
            else:
                more = tuple(free_port() for _ in range(count - 1))
                self._servers = [Server(_contender(more))]
                self.ports = [self._servers[0].port, *more]
        except BaseException:
            self.stop()
            raise

    @property
    def urls(self) -> list[str]:
        """As balancers are told of them."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def counts(self) -> list[int]:
        """Open WebSocket connections of each, by its own count."""
        return [_ask(port)["agentsConnections"] for port in self.ports]

    def wait_empty(self) -> None:
        """Wait until none counts a connection."""
        deadline = time.monotonic() + _EMPTY_TIMEOUT_S
        while any(self.counts()):
            if time.monotonic() > deadline:
                raise BenchError(f"the backends still count {self.counts()} connections that clients have closed")
            time.sleep(0.02)

    def asked(self) -> list[int]:
        """How often each has been asked for its load report."""
        return [_ask(port)["asked"] for port in self.ports]

    def kill(self, index: int) -> None:
        """End the process of one that runs apart, with no word to its clients."""
        self._servers[index].kill()

    def start(self, index: int) -> None:
        """Start it again, on its port."""
        self._servers[index] = Server(_contender(()), port=self.ports[index])

    def stop(self) -> None:
        """End all."""
        for server in self._servers:
            server.kill()

    def __enter__(self) -> Backends:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _contender(more: Sequence[int]) -> Contender:
    return Contender(
        "backend",
        lambda port: [sys.executable, "-m", "bench.backend", str(port), *map(str, more)],
        ready_path="/counts",
    )


def _ask(port: int) -> dict[str, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/counts")
        found: dict[str, int] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main([int(argument) for argument in sys.argv[1:]]))
