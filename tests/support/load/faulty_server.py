"""A WebSocket server that misbehaves on demand and writes down every fault it made.

It echoes at paths that end in `echo` and speaks the feed protocol everywhere else: subscribe with recovery, publish,
heartbeat. Like the real node it sends a publication to its publisher too, who gets a `publish_ack` besides; with
`ack_in_place` the ack, which then carries `prev`, stands in its place (as in a match). It is a second implementation on
purpose: of the product it uses the message structs alone.

    async with FaultyServer(Faults(drop=100)) as server:
        ...  # talk to server.url("/ws")
        server.did  # [Did("drop", "room", 17, 0), ...]

It runs in the test's own loop, or as a process (`FaultyProcess`, or by hand) so that its CPU is not the generator's:

    python -m tests.support.load.faulty_server --port 0 --fault drop:10000 --fault stall:1/10

It prints its port and runs until its standard input ends; `GET /did` tells the faults as JSON.

Faults of messages hit every N-th delivery over all connections (an echo is a delivery), each kind with a phase of its
own, so that a run has the same ones every time.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import datetime
import hashlib
import ipaddress
import secrets
import ssl
import struct
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import uvloop
from websockets.speedups import apply_mask

from tests.support import ROOT
from tests.support.patience import patient
from trunkline.protocol import wire

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MAX_HEAD = 16 << 10
RELEASE_S = 0.3
"""A message held back to be sent behind the next one goes out unswapped when none comes."""

Kind = Literal[
    "drop",
    "gap",
    "duplicate",
    "reorder",
    "corrupt",
    "cross",
    "refuse",
    "close",
    "rate",
    "unrecovered",
    "goodbye",
    "stall",
]


@dataclass
class Faults:
    """What goes wrong; may be changed while the server runs. 0 or False: never.

    Attributes:
        drop: one delivery in so many is silently left out.
        gap: one publication in so many is left out, with a `gap` message in its place.
        duplicate: one delivery in so many comes twice.
        reorder: one delivery in so many comes behind the next one of its channel.
        corrupt: one delivery in so many has its last byte changed.
        cross: one echo in so many goes to another connection instead.
        stall: for so many seconds nothing is read and nothing answered, on all connections ...
        stall_every: ... each time so many seconds have passed.
        refuse: the HTTP status of refused handshakes.
        refuse_share: the share of the handshakes that are refused.
        close: the code of a close frame straight after the 101; 1006: none, the connection breaks.
        silent: the handshake is never answered.
        false_accept: the 101 has a wrong Sec-WebSocket-Accept.
        garbage: after the 101 come bytes that are no frames.
        accept_delay: seconds until a handshake is answered.
        rate: messages a second that a feed client may send; more are answered with RATE_LIMIT_EXCEEDED.
        lose_history: no subscription is recovered, all are `expired`.
        ack_in_place: see the module.
        heartbeat: seconds between `heartbeat` messages.
        drain_at: seconds after the start at which all clients get a goodbye and 1012.
        reconnect_after_ms: what that goodbye says.
    """

    drop: int = 0
    gap: int = 0
    duplicate: int = 0
    reorder: int = 0
    corrupt: int = 0
    cross: int = 0
    stall: float = 0.0
    stall_every: float = 0.0
    refuse: int = 0
    refuse_share: float = 1.0
    close: int = 0
    silent: bool = False
    false_accept: bool = False
    garbage: bool = False
    accept_delay: float = 0.0
    rate: float = 0.0
    lose_history: bool = False
    ack_in_place: bool = False
    heartbeat: float = 0.0
    drain_at: float = 0.0
    reconnect_after_ms: int = 100


class Did(NamedTuple):
    """One fault that was made.

    Attributes:
        kind: which.
        channel: empty for echoes and for faults of connections.
        offset: of the publication; for an echo the number of the connection's message, from 0.
        connection: the number of the connection, in the order of arrival from 0.
    """

    kind: Kind
    channel: str
    offset: int
    connection: int


def frame(opcode: int, payload: bytes) -> bytes:
    """One frame of a server."""
    length = len(payload)
    if length < 126:
        return bytes((0x80 | opcode, length)) + payload
    if length < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, length) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, length) + payload


def message_frame(message: msgspec.Struct) -> bytes:
    """A message of the protocol as a frame."""
    return frame(TEXT, msgspec.json.encode(message))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Publication(msgspec.Struct, tag="publication"):
    channel: str
    epoch: str
    offset: int
    prev: int
    data: msgspec.Raw
    ts: int


@dataclass
class Channel:
    """One channel; its offsets are dense and begin at 1."""

    name: str
    epoch: str = field(default_factory=lambda: secrets.token_hex(4))
    last: int = 0
    kept: deque[Publication] = field(default_factory=lambda: deque(maxlen=1000))
    subscribers: dict[Peer, None] = field(default_factory=dict)


_decode = msgspec.json.Decoder(wire.Subscribe | wire.Unsubscribe | wire.Publish | wire.Heartbeat).decode


class Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: FaultyServer) -> None:
        self.server = server
        self.number = -1
        self.buffer = bytearray()
        self.fragments = bytearray()
        self.opcode = 0
        self.upgraded = False
        self.echoes = False
        self.echoed = 0
        self.channels: set[str] = set()
        self.held: dict[str, tuple[bytes, int]] = {}
        self.second = 0
        self.in_second = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is not derived from asyncio.Transport
        self.server.peers.add(self)
        if self.server.stalled:
            transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.peers.discard(self)
        for name in self.channels:
            self.server.channels[name].subscribers.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.upgraded:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self.buffer) > MAX_HEAD:
                    self.transport.abort()
                return
            head = bytes(self.buffer[:end])
            del self.buffer[: end + 4]
            self.upgraded = True
            delay = self.server.faults.accept_delay
            if delay:
                self.server.loop.call_later(delay, self.handshake, head)
                return
            self.handshake(head)
        self.read_frames()

    # --- handshake ----------------------------------------------------------------------------------------------------

    def handshake(self, head: bytes) -> None:
        server, faults = self.server, self.server.faults
        request, *lines = head.split(b"\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        path = request.split(b" ")[1].partition(b"?")[0]
        key = headers.get(b"sec-websocket-key")
        if key is None:
            known = path == b"/did"
            self.http(200 if known else 404, msgspec.json.encode(server.did) if known else b"")
            return
        self.number = server.handshakes
        server.handshakes += 1
        if faults.silent:
            return
        if faults.refuse:
            count = server.handshakes
            if int(count * faults.refuse_share) > int((count - 1) * faults.refuse_share):
                server.note("refuse", "", faults.refuse, self)
                self.http(faults.refuse, b"refused on purpose")
                return
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        if faults.false_accept:
            accept = base64.b64encode(bytes(20))
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        if faults.garbage:
            self.transport.write(b"\xff\xff these are no frames " * 4)
        elif faults.close:
            server.note("close", "", faults.close, self)
            self.end(faults.close)
        elif path.endswith(b"echo"):
            self.echoes = True
        else:
            limits = wire.ClientLimits(65536, faults.rate or 1e9, faults.rate or 1e9)
            hello = wire.ConnectionEstablished(
                f"c{self.number}", "faulty", secrets.token_hex(4), False, 30_000, limits, now_ms()
            )
            self.transport.write(message_frame(hello))
            if faults.heartbeat:
                server.loop.call_later(faults.heartbeat, self.heartbeat)
        if self.server.faults.accept_delay:
            self.read_frames()

    def http(self, status: int, body: bytes) -> None:
        head = (
            f"HTTP/1.1 {status} Told so\r\nContent-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def heartbeat(self) -> None:
        if not self.transport.is_closing():
            if not self.server.stalled:
                self.transport.write(message_frame(wire.ServerHeartbeat(now_ms())))
            self.server.loop.call_later(self.server.faults.heartbeat or 1.0, self.heartbeat)

    def end(self, code: int) -> None:
        """Close with a frame; 1006: without."""
        if code == 1006:
            self.transport.abort()
            return
        self.transport.write(frame(CLOSE, struct.pack("!H", code)))
        self.transport.close()

    # --- frames -------------------------------------------------------------------------------------------------------

    def read_frames(self) -> None:
        buffer = self.buffer
        at, end = 0, len(buffer)
        while end - at >= 6:
            first, second = buffer[at], buffer[at + 1] & 0x7F
            start = at + 2
            if second == 126:
                second = int.from_bytes(buffer[start : start + 2], "big")
                start += 2
            elif second == 127:
                second = int.from_bytes(buffer[start : start + 8], "big")
                start += 8
            after = start + 4 + second
            if after > end:
                break
            payload = apply_mask(bytes(buffer[start + 4 : after]), bytes(buffer[start : start + 4]))
            at = after
            opcode = first & 0x0F
            if opcode >= CLOSE:
                self.control(opcode, payload)
            elif first & 0x80 and opcode:
                self.message(opcode, payload)
            else:
                self.opcode = opcode or self.opcode
                self.fragments += payload
                if first & 0x80:
                    whole, self.fragments = bytes(self.fragments), bytearray()
                    self.message(self.opcode, whole)
        del buffer[:at]

    def control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.transport.write(frame(PONG, payload))
        elif opcode == CLOSE:
            self.transport.write(frame(CLOSE, payload[:2]))
            self.transport.close()

    def message(self, opcode: int, payload: bytes) -> None:
        server = self.server
        server.received += 1
        if self.transport.is_closing():
            return
        if self.echoes:
            self.deliver("", self.echoed, frame(opcode, payload))
            self.echoed += 1
            return
        if server.faults.rate and self.too_fast(payload):
            return
        try:
            request = _decode(payload)
        except msgspec.MsgspecError:
            self.transport.write(
                message_frame(wire.ErrorMessage(wire.INVALID_MESSAGE, "not known here", False, now_ms()))
            )
            return
        match request:
            case wire.Subscribe():
                self.subscribe(request)
            case wire.Unsubscribe():
                for name in request.channels:
                    server.channel(name).subscribers.pop(self, None)
                self.channels.difference_update(request.channels)
                ack = wire.UnsubscriptionAck(request.id, request.channels, len(self.channels), now_ms())
                self.transport.write(message_frame(ack))
            case wire.Publish():
                server.publish(request, self)
            case wire.Heartbeat():
                self.transport.write(message_frame(wire.Pong(now_ms(), request.id)))

    def too_fast(self, payload: bytes) -> bool:
        second = int(self.server.loop.time())
        if second != self.second:
            self.second, self.in_second = second, 0
        self.in_second += 1
        if self.in_second <= self.server.faults.rate:
            return False
        self.server.note("rate", "", self.in_second, self)
        try:
            message_id = msgspec.json.decode(payload, type=wire.Heartbeat | wire.Publish | wire.Subscribe).id
        except msgspec.MsgspecError:
            message_id = None
        error = wire.ErrorMessage(wire.RATE_LIMIT_EXCEEDED, "too many messages", True, now_ms(), message_id, 1000)
        self.transport.write(message_frame(error))
        return True

    def subscribe(self, request: wire.Subscribe) -> None:
        positions: dict[str, wire.AckPosition] = {}
        missed: list[Publication] = []
        for name in request.channels:
            channel = self.server.channel(name)
            self.channels.add(name)
            wanted = (request.recover or {}).get(name)
            reason: wire.RecoverReason | msgspec.UnsetType = msgspec.UNSET
            if wanted is not None:
                floor = channel.kept[0].offset - 1 if channel.kept else channel.last
                if wanted.epoch != channel.epoch or wanted.offset > channel.last:
                    reason = "epoch_changed"
                elif self.server.faults.lose_history or wanted.offset < floor:
                    reason = "expired"
                else:
                    items = [each for each in channel.kept if each.offset > wanted.offset]
                    missed += items
                    positions[name] = wire.AckPosition(channel.epoch, wanted.offset, True, len(items))
            if name not in positions:
                positions[name] = wire.AckPosition(channel.epoch, channel.last, False, 0, reason)
                if reason:
                    self.server.note("unrecovered", name, channel.last, self)
            channel.subscribers[self] = None
        ack = wire.SubscriptionAck(request.id, request.channels, len(self.channels), positions, now_ms())
        self.transport.write(message_frame(ack) + b"".join([message_frame(each) for each in missed]))

    # --- deliveries ---------------------------------------------------------------------------------------------------

    def deliver(self, channel: str, offset: int, data: bytes) -> None:
        """Send one publication or echo, if nothing goes wrong."""
        server, faults = self.server, self.server.faults
        server.deliveries = count = server.deliveries + 1
        late = self.held.pop(channel, None) if self.held else None
        if faults.drop and count % faults.drop == 0:
            server.note("drop", channel, offset, self)
            data = b""
        elif faults.duplicate and count % faults.duplicate == faults.duplicate // 4:
            server.note("duplicate", channel, offset, self)
            data += data
        elif faults.corrupt and count % faults.corrupt == faults.corrupt // 3:
            server.note("corrupt", channel, offset, self)
            data = data[:-1] + bytes([data[-1] ^ 1])
        elif faults.cross and count % faults.cross == 2 * faults.cross // 3 and len(server.peers) > 1:
            server.note("cross", channel, offset, self)
            next(peer for peer in server.peers if peer is not self).transport.write(data)
            return
        elif faults.gap and channel and count % faults.gap == 3 * faults.gap // 4:
            server.note("gap", channel, offset, self)
            epoch = server.channels[channel].epoch
            data = message_frame(wire.Gap(channel, epoch, offset - 1, offset + 1, "slow_client", now_ms()))
        elif faults.reorder and late is None and count % faults.reorder == faults.reorder // 2:
            self.held[channel] = data, offset
            server.loop.call_later(RELEASE_S, self.release, channel, offset)
            return
        if late is not None:
            if data:
                server.note("reorder", channel, late[1], self)
            data += late[0]
        if data:
            self.transport.write(data)

    def release(self, channel: str, offset: int) -> None:
        late = self.held.get(channel)
        if late is not None and late[1] == offset:
            del self.held[channel]
            self.transport.write(late[0])


class FaultyServer:
    """The server.

    Args:
        faults: what goes wrong.
        port: 0 takes a free one.
        host: an address of the loopback network.
        tls: speak TLS with a certificate of its own making; `ca_file` is what a client would have to trust.

    Attributes:
        did: the faults made so far.
        peers: the connections.
        channels: by name, with the last offset of each.
        handshakes: upgrade requests so far.
        received: messages received.
        deliveries: publications and echoes that were due to someone, with or without a fault.
    """

    def __init__(
        self, faults: Faults | None = None, *, port: int = 0, host: str = "127.0.0.1", tls: bool = False
    ) -> None:
        self.faults = faults or Faults()
        self.port = port
        self.host = host
        self.tls = tls
        self.ca_file = ""
        self.did: list[Did] = []
        self.peers: set[Peer] = set()
        self.channels: dict[str, Channel] = {}
        self.handshakes = self.received = self.deliveries = 0
        self.stalled = False
        self.loop: asyncio.AbstractEventLoop
        self._closing = contextlib.ExitStack()
        self._server: asyncio.Server | None = None
        self._timers: list[asyncio.TimerHandle] = []

    async def start(self) -> None:
        """Listen."""
        self.loop = asyncio.get_running_loop()
        context = None
        if self.tls:
            folder = Path(self._closing.enter_context(tempfile.TemporaryDirectory()))
            context, self.ca_file = self_signed(folder, self.host)
        self._server = await self.loop.create_server(
            lambda: Peer(self), self.host, self.port, ssl=context, backlog=4096
        )
        self.port = self._server.sockets[0].getsockname()[1]
        if self.faults.stall:
            self._after(self.faults.stall_every or 10.0, self._stall)
        if self.faults.drain_at:
            self._after(self.faults.drain_at, self.drain)

    async def stop(self) -> None:
        """Break all connections and stop listening."""
        for timer in self._timers:
            timer.cancel()
        for peer in tuple(self.peers):
            peer.transport.abort()
        if self._server is not None:
            self._server.close()
        self._closing.close()
        while self.peers:
            await asyncio.sleep(0.001)

    async def __aenter__(self) -> FaultyServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def url(self, path: str = "/ws") -> str:
        """Where a client connects."""
        return f"{'wss' if self.tls else 'ws'}://{self.host}:{self.port}{path}"

    def done(self, kind: Kind) -> list[Did]:
        """The faults of one kind."""
        return [each for each in self.did if each.kind == kind]

    def note(self, kind: Kind, channel: str, offset: int, peer: Peer | None) -> None:
        """Write a fault down."""
        self.did.append(Did(kind, channel, offset, peer.number if peer is not None else -1))

    def channel(self, name: str) -> Channel:
        """A channel, made when it is first named."""
        if name not in self.channels:
            self.channels[name] = Channel(name)
        return self.channels[name]

    def publish(self, request: wire.Publish, sender: Peer | None) -> None:
        """Deliver to all subscribers and acknowledge."""
        channel = self.channel(request.channel)
        prev, channel.last = channel.last, channel.last + 1
        message = Publication(channel.name, channel.epoch, channel.last, prev, request.data, now_ms())
        channel.kept.append(message)
        data = message_frame(message)
        in_place = self.faults.ack_in_place and sender in channel.subscribers
        for peer in channel.subscribers:
            if not in_place or peer is not sender:
                peer.deliver(channel.name, message.offset, data)
        if sender is not None:
            ack = wire.PublishAck(request.id, channel.name, channel.epoch, message.offset, now_ms())
            if in_place:
                ack.prev = prev
            sender.transport.write(message_frame(ack))

    def drain(self) -> None:
        """Say goodbye to all feed clients, and close every connection with 1012."""
        goodbye = message_frame(wire.Goodbye(1012, "draining", True, self.faults.reconnect_after_ms, now_ms()))
        for peer in tuple(self.peers):
            self.note("goodbye", "", 1012, peer)
            if not peer.echoes:
                peer.transport.write(goodbye)
            peer.end(1012)

    def cut(self) -> None:
        """Break every connection without a word."""
        for peer in tuple(self.peers):
            peer.end(1006)

    def _after(self, seconds: float, call: object) -> None:
        self._timers.append(self.loop.call_later(seconds, call))  # type: ignore[arg-type]

    def _stall(self) -> None:
        self.stalled = True
        self.note("stall", "", round(self.faults.stall * 1000), None)
        # Messages come only in answer to messages, so that not to read is not to answer.
        for peer in self.peers:
            with contextlib.suppress(RuntimeError):
                peer.transport.pause_reading()
        self._after(self.faults.stall, self._resume)
        self._after(self.faults.stall_every or 10.0, self._stall)

    def _resume(self) -> None:
        self.stalled = False
        for peer in self.peers:
            with contextlib.suppress(RuntimeError):
                peer.transport.resume_reading()


def self_signed(folder: Path, host: str) -> tuple[ssl.SSLContext, str]:
    """A server's TLS context with a new certificate for `host`, and the file of that certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "faulty")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(host))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context, str(folder / "certificate.pem")


# --- as a process -----------------------------------------------------------------------------------------------------


class FaultyProcess:
    """The server as a process of its own; `async with FaultyProcess("drop:100") as server`."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        self.port = 0
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> FaultyProcess:
        options = [word for fault in self.faults for word in ("--fault", fault)]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.load.faulty_server", *options,
            cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(await asyncio.wait_for(self._process.stdout.readline(), patient(15)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.wait()

    def url(self, path: str = "/ws") -> str:
        """Where a client connects."""
        return f"ws://127.0.0.1:{self.port}{path}"

    async def did(self) -> list[Did]:
        """The faults made so far."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /did HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), patient(10))
        writer.close()
        return msgspec.json.decode(answer.partition(b"\r\n\r\n")[2], type=list[Did])


def parse_faults(words: list[str]) -> Faults:
    """Faults from words: `drop:10000`, `stall:1/10` (1 s every 10 s), `refuse:503/0.5` (half of them), `silent`."""
    values: dict[str, object] = {}
    kinds = {each.name: type(each.default) for each in fields(Faults)}
    second = {"stall": "stall_every", "refuse": "refuse_share"}
    for word in words:
        name, _, text = word.partition(":")
        if name not in kinds:
            raise SystemExit(f"fault {name!r} is unknown; known: {', '.join(kinds)}")
        if kinds[name] is bool:
            values[name] = True
            continue
        text, _, more = text.partition("/")
        values[name] = kinds[name](text)
        if more:
            values[second[name]] = float(more)
    return Faults(**values)  # type: ignore[arg-type]


async def _serve(server: FaultyServer) -> None:
    async with server:
        print(server.port, flush=True)
        # Whoever started it holds the other end of its standard input: when that is gone, so is it.
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Run it until the standard input ends."""
    parser = argparse.ArgumentParser(description="A WebSocket server that misbehaves on demand.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--fault", action="append", default=[], help="drop:10000, stall:1/10, refuse:503/0.5, silent …")
    options = parser.parse_args()
    server = FaultyServer(parse_faults(options.fault), port=options.port, host=options.host, tls=options.tls)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(server))


if __name__ == "__main__":
    main()
