"""Floods: the longest that another client waits while one sends what costs most, in CPU time of the server.

A wait in CPU time says what a server holds back from its other clients, whatever else the machine does. The other
client sends one small message at a time, to the echo; its waits begin before the flood and end after it. The balancer
has its floods too, through TLS and without: its honest client is on the same process.
"""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.backend import Backends
from bench.errors import BenchError
from bench.proxies import Proxy, relay
from bench.rows import Options, Result, Row
from bench.servers import Server, ours, running
from bench.swarm import PATIENCE_S, frame

LONGEST_MS = 100.0
MOST_MB = 16.0
FLOOD_BYTES = 6_000_000
BOMB_BYTES = 500_000
_PAUSE_S = 0.002
_ASK = frame(b"the other client")
_ANSWER = len(_ASK) - 4
_UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n%b\r\n"
)
_DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
_LIMITS = {"TRUNKLINE_LIMITS_RATE_PER_S": "10", "TRUNKLINE_LIMITS_RATE_BURST": "100"}


class Flood(NamedTuple):
    """What one client sends at once; an empty `path` sends it as it is, with no WebSocket."""

    what: str
    path: str
    data: bytes
    headers: bytes = b""


def floods(size: int) -> list[Flood]:
    """All floods of about `size` bytes."""
    ping, empty, small = frame(b"", 9), b"\x00" + frame(b"", 0)[1:], frame(b"{}")
    chunked = b"POST /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    return [
        Flood("empty pings", "/ws", ping * (size // len(ping))),
        Flood("empty continuation frames", "/ws", b"\x01" + frame(b"")[1:] + empty * (size // len(empty))),
        Flood("over-rate small messages", "/ws", small * (size // len(small))),
        Flood("small messages without a rate", "/ws/echo", small * (size // len(small))),
        Flood("pipelined requests", "", request * (size // len(request))),
        Flood("chunks of one byte", "", chunked + b"1\r\na\r\n" * (size // 6)),
    ]


def bombs(path: str, message: int, size: int) -> Flood:
    """About `size` bytes of messages that inflate to `message` bytes each."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(b"0" * message) + packer.flush(zlib.Z_SYNC_FLUSH)
    whole = frame(packed[:-4])
    bomb = bytes((whole[0] | 0x40,)) + whole[1:]
    return Flood(f"compressed bombs of {message >> 10:,} KiB", path, bomb * max(1, size // len(bomb)), _DEFLATE)


def run(options: Options) -> Result:
    """Measure it."""
    size = FLOOD_BYTES // 10 if options.quick else FLOOD_BYTES
    small, large = bombs("/ws", 65_536, BOMB_BYTES), bombs("/ws/echo", 16 << 20, 4 * 16_400)
    rows: list[Row] = []
    for flood in (*floods(size), small, large):
        with running([ours(**_LIMITS)]) as servers:
            rows += _measure(servers["trunkline"], flood, memory=flood is small)
    with ExitStack() as stack:
        urls = stack.enter_context(Backends(1)).urls
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        certificate = _certificate(folder / "edge.pem")
        for name, more, tls in (
            ("relay", {}, None),
            ("relay, TLS", {"TRUNKLINE_BALANCER_TLS_CERT_FILE": str(certificate)}, _trusting(certificate)),
        ):
            for flood in (*floods(size), *((_tiny_records(size),) if tls else ())):
                # A fresh process for each: what one flood leaves behind is not the next one's.
                with Proxy(replace(relay(urls, name=name, **more), ready_path="")) as proxy:
                    rows += _measure(proxy, flood, tls, what=f"{name}: {flood.what}")
    return Result(rows, [f"Floods of {size / 1e6:g} MB; bombs of {BOMB_BYTES / 1e3:g} KB compressed."])


def _tiny_records(size: int) -> Flood:
    return Flood("TLS records of one byte", "/ws/echo", frame(b"m" * (size // 100), 2))


def _measure(
    server: Server, flood: Flood, tls: ssl.SSLContext | None = None, *, what: str = "", memory: bool = False
) -> list[Row]:
    before = _peak(server)
    with _Client(server, "/ws/echo", tls=tls) as other, _flooding(server, flood, tls) as over:
        longest = other.ask()
        waits = 1
        while not over.wait(_PAUSE_S):
            longest = max(longest, other.ask())
            waits += 1
    rows = [Row(what or flood.what, longest * 1e3, "ms CPU, longest wait", target=LONGEST_MS, note=f"{waits} waits")]
    if memory:
        grew = _peak(server) - before
        rows.append(Row(f"{flood.what}, memory", grew / 1e6, "MB more", target=MOST_MB))
    return rows


def _peak(server: Server) -> int:
    """The most memory that it ever had resident, in bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


class _Client:
    def __init__(self, server: Server, path: str, headers: bytes = b"", tls: ssl.SSLContext | None = None) -> None:
        self._server = server
        plain = socket.create_connection(server.address, timeout=PATIENCE_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = plain if tls is None else tls.wrap_socket(plain, server_hostname="127.0.0.1")
        if path:
            self.sock.sendall(_UPGRADE % (path.encode(), headers))
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += self.sock.recv(4096)
            if not answer.startswith(b"HTTP/1.1 101"):
                raise BenchError(f"no WebSocket: {answer[:80]!r}")

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def ask(self) -> float:
        """One message and its echo; returns CPU seconds of the server between them."""
        began = self._server.cpu_s()
        self.sock.sendall(_ASK)
        came = 0
        while came < _ANSWER:
            got = self.sock.recv(_ANSWER - came)
            if not got:
                raise BenchError("the other client was cut off")
            came += len(got)
        return self._server.cpu_s() - began


@contextlib.contextmanager
def _flooding(server: Server, flood: Flood, tls: ssl.SSLContext | None) -> Iterator[threading.Event]:
    """Send it from a thread of its own; the event says that the server has used little CPU for a while."""
    over = threading.Event()
    client = _Client(server, flood.path, flood.headers, tls)
    client.sock.setblocking(False)
    # One write of TLS is at least one record.
    step = 1 if flood.what.startswith("TLS records") else len(flood.data)

    def run() -> None:
        at, deadline, used, looked = 0, time.monotonic() + PATIENCE_S, server.cpu_s(), time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                idle = True
                with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    while at < len(flood.data):
                        at += client.sock.send(flood.data[at : at + step])
                        idle = False
                with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    if not client.sock.recv(1 << 20):
                        break
                    idle = False
                if idle:
                    time.sleep(0.001)
                if time.monotonic() > looked + 0.2:
                    before, used, looked = used, server.cpu_s(), time.monotonic()
                    # The other client goes on asking, which is little.
                    if at >= len(flood.data) and used - before < 0.05:
                        break
        over.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield over
    finally:
        thread.join(2 * PATIENCE_S)
        client.sock.close()


def _certificate(file: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return file


def _trusting(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    return context
