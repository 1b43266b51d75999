"""After the 101: bytes pass untouched, memory stays bounded, ends are passed on."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.balancer.relay_peers import (
    FixedPlacer,
    Session,
    Wire,
    answer_101,
    descriptors,
    echo,
    handshake,
    is_held,
    request,
    waiting,
)
from tests.support.free_ports import free_port
from tests.support.patience import patient
from trunkline.balancer.relay.meter import EdgeEvent
from trunkline.balancer.relay.splice.relay import Relay
from trunkline.balancer.relay.splice.transports import End

pytestmark = pytest.mark.usefixtures("relay_kind")


async def test_echo_through_a_real_node(start_edge: Any, start_node: Any) -> None:
    """Messages of an independent client reach a real node and come back, text and binary, compressed and not."""
    node = await start_node()
    placer = FixedPlacer(f"http://127.0.0.1:{node.port}")
    edge = await start_edge(placer)
    for compression in ("deflate", None):
        async with connect(
            f"ws://127.0.0.1:{edge.port}/ws/echo", proxy=None, max_size=None, compression=compression
        ) as ws:
            for message in ("hello", b"\0" * 70_000, "", "é" * 100):
                await ws.send(message)
                assert await ws.recv() == message
            assert edge.connections == 1
        await placer.hears("closed", placer.urls[0])
        assert [heard[0] for heard in placer.heard] == ["opened", "closed"]
        placer.heard.clear()


async def test_fragments_and_close_code_pass(start_edge: Any, start_node: Any) -> None:
    """A fragmented message arrives whole, and the client's close code comes back."""
    node = await start_node()
    edge = await start_edge(FixedPlacer(f"http://127.0.0.1:{node.port}"))
    async with connect(f"ws://127.0.0.1:{edge.port}/ws/echo", proxy=None) as ws:
        await ws.send(["one ", "two ", "three"])
        assert await ws.recv() == "one two three"
        await ws.close(4321, "my own reason")
        assert ws.close_code == 4321


async def test_bytes_are_untouched(start_edge: Any, raw_backend: Any) -> None:
    """Whatever bytes come after the 101, no frame is looked at: every byte value passes both ways in order."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url))
    wire = await Wire.upgraded(edge.port)
    pattern = bytes(range(256)) * 40
    for size in (1, 2, 255, 10_240):
        wire.send(pattern[:size])
        assert await wire.take(size) == pattern[:size]
    wire.close()


async def test_subprotocol_and_extensions_are_the_backends(start_edge: Any, raw_backend: Any) -> None:
    """What the backend chose of subprotocols and extensions reaches the client as it said it."""

    async def choose(session: Session) -> None:
        session.writer.write(
            answer_101(
                session.head,
                b"Sec-WebSocket-Protocol: chess.v2",
                b"sec-websocket-EXTENSIONS: permessage-deflate; client_no_context_takeover",
                b"X-Own:   kept  ",
            )
        )
        await session.reader.read()

    backend = await raw_backend(choose)
    edge = await start_edge(FixedPlacer(backend.url))
    wire = await Wire.connect(edge.port)
    wire.send(handshake(headers={"Sec-WebSocket-Protocol": "go.v1, chess.v2"}))
    answer = await wire.answer()
    assert answer.headers["sec-websocket-protocol"] == "chess.v2"
    assert "sec-websocket-EXTENSIONS: permessage-deflate; client_no_context_takeover" in answer.lines
    assert "X-Own: kept" in answer.lines
    assert b"Sec-WebSocket-Protocol: go.v1, chess.v2\r\n" in backend.heads[0]
    wire.close()


async def test_early_bytes_wait_for_the_101(start_edge: Any, raw_backend: Any) -> None:
    """Frames sent with the handshake reach the backend after its 101, and what it sends behind the 101 the client."""
    came_before: list[bytes] = []

    async def slow(session: Session) -> None:
        try:
            came_before.append(await asyncio.wait_for(session.reader.read(100), 0.3))
        except TimeoutError:
            came_before.append(b"")
        session.writer.write(answer_101(session.head) + b"behind the 101;")
        session.writer.write(await session.reader.readexactly(5))
        await session.reader.read()

    backend = await raw_backend(slow)
    edge = await start_edge(FixedPlacer(backend.url))
    wire = await Wire.connect(edge.port)
    wire.send(handshake() + b"ea")
    await asyncio.sleep(0.05)
    wire.send(b"rly")
    assert (await wire.answer()).status == 101
    assert await wire.take(20) == b"behind the 101;early"
    assert came_before == [b""]
    wire.close()


async def test_many_early_bytes_are_not_held(start_edge: Any, raw_backend: Any) -> None:
    """A client that pours megabytes behind its handshake is held back until the 101, and then loses none of them."""
    release = asyncio.Event()

    async def slow(session: Session) -> None:
        await release.wait()
        session.writer.write(answer_101(session.head))
        total = 0
        while data := await session.reader.read(1 << 16):
            total += len(data)
        session.writer.write(b"%d" % total)

    backend = await raw_backend(slow)
    edge = await start_edge(FixedPlacer(backend.url))
    wire = await Wire.connect(edge.port)
    wire.send(handshake() + b"x" * 8_000_000)
    while not backend.heads:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert wire.writer.transport.get_write_buffer_size() > 1_000_000
    release.set()
    assert (await wire.answer()).status == 101
    wire.writer.write_eof()
    assert await wire.ended() == b"8000000"


@pytest.mark.parametrize("slow_side", ["client", "backend"])
async def test_backpressure(start_edge: Any, raw_backend: Any, slow_side: str) -> None:
    """40 MB towards a side that does not read stop at the other side, and all arrive once it reads."""
    release = asyncio.Event()
    # More than the kernel's own buffers take.
    size = 40_000_000

    async def pour(session: Session) -> None:
        session.writer.write(answer_101(session.head))
        if slow_side == "client":
            for _ in range(size // 100_000):
                session.writer.write(b"p" * 100_000)
                await session.writer.drain()
            release.set()
            await session.reader.read()
        else:
            session.reader._transport.pause_reading()  # type: ignore[attr-defined]
            await release.wait()
            session.reader._transport.resume_reading()  # type: ignore[attr-defined]
            got = await session.reader.readexactly(size)
            session.writer.write(b"%d" % got.count(b"p"))

    backend = await raw_backend(pour)
    edge = await start_edge(FixedPlacer(backend.url))
    raw = socket.create_connection(("127.0.0.1", edge.port))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    wire = Wire(*await asyncio.open_connection(sock=raw, limit=1 << 16))
    wire.send(handshake())
    assert (await wire.answer()).status == 101
    if slow_side == "backend":
        wire.send(b"p" * size)
    relay = next(iter(edge.relays))
    for _ in range(100):
        await asyncio.sleep(0.02)
        if is_held(relay):
            break
    assert is_held(relay)
    # One read beyond the mark may be waiting.
    assert waiting(relay) < 1_000_000
    if slow_side == "backend":
        release.set()
        assert await wire.take(8, 20) == b"40000000"
    else:
        assert not release.is_set()
        assert (await wire.take(size, 30)).count(b"p") == size
        await asyncio.wait_for(release.wait(), patient(5))
    wire.close()


async def test_half_close_from_the_client(start_edge: Any, raw_backend: Any) -> None:
    """The client ends its direction; the backend sees that, and its last words still reach the client."""

    async def last_words(session: Session) -> None:
        session.writer.write(answer_101(session.head))
        got = await session.reader.read()
        await asyncio.sleep(0.05)
        session.writer.write(b"you said " + got)

    backend = await raw_backend(last_words)
    edge = await start_edge(FixedPlacer(backend.url))
    wire = await Wire.upgraded(edge.port)
    wire.send(b"good night")
    wire.writer.write_eof()
    assert await wire.ended() == b"you said good night"


async def test_half_close_from_the_backend(start_edge: Any, raw_backend: Any) -> None:
    """The backend ends its direction; what the client says after that still reaches it."""
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def done_talking(session: Session) -> None:
        session.writer.write(answer_101(session.head) + b"bye")
        session.writer.write_eof()
        heard.set_result(await session.reader.read())

    backend = await raw_backend(done_talking)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer)
    wire = await Wire.upgraded(edge.port)
    assert await wire.ended() == b"bye"
    wire.send(b"wait, one more thing")
    wire.close()
    assert await asyncio.wait_for(heard, patient(5)) == b"wait, one more thing"
    await placer.hears("closed", backend.url)


async def test_half_closed_connections_end(start_edge: Any, raw_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that ignores its client's end does not keep the connection for ever."""
    monkeypatch.setattr("trunkline.balancer.relay.splice.relay.HALF_CLOSED_S", 0.3)

    async def ignore(session: Session) -> None:
        session.writer.write(answer_101(session.head))
        await asyncio.sleep(30)

    backend = await raw_backend(ignore)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer)
    wire = await Wire.upgraded(edge.port)
    wire.writer.write_eof()
    await placer.hears("closed", backend.url)
    assert edge.connections == 0


async def test_last_bytes_that_nobody_takes(start_edge: Any, raw_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a backend left behind for a client that does not read is held for a moment, not for ever."""
    monkeypatch.setattr("trunkline.balancer.relay.splice.relay.LINGER_S", 0.3)

    async def flood(session: Session) -> None:
        session.writer.write(answer_101(session.head) + b"f" * 30_000_000)
        await session.writer.drain()

    backend = await raw_backend(flood)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer)
    wire = await Wire.upgraded(edge.port)
    wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
    relay = next(iter(edge.relays))
    async with asyncio.timeout(patient(5)):
        while not is_held(relay):
            await asyncio.sleep(0.02)
    backend.cut()
    relay.close()
    await placer.hears("closed", backend.url)
    wire.close()


async def test_a_killed_process_takes_its_clients_along(start_edge: Any) -> None:
    """A real node that is killed ends its connections at once; the next handshake is a failed dial."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", "serve", "--port", str(port), "--host", "127.0.0.1",
        env={**os.environ, "TRUNKLINE_ADMIN_PORT": "0"},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        placer = FixedPlacer(f"http://127.0.0.1:{port}")
        edge = await start_edge(placer)
        async with asyncio.timeout(patient(20)):
            while (await request(edge.port, b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")).status != 200:
                await asyncio.sleep(0.1)
        async with connect(f"ws://127.0.0.1:{edge.port}/ws/echo", proxy=None) as ws:
            await ws.send("alive")
            assert await ws.recv() == "alive"
            process.kill()
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(ws.recv(), patient(5))
        await placer.hears("closed", placer.urls[0])
        await process.wait()
        placer.heard.clear()
        assert (await request(edge.port, handshake())).status == 502
        assert placer.heard == [("failed", placer.urls[0], "dial")]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_reset_is_passed_on(start_edge: Any, raw_backend: Any) -> None:
    """A backend that is cut off takes its client along at once, and the placer hears it."""
    backend = await raw_backend(echo)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer)
    wire = await Wire.upgraded(edge.port)
    wire.send(b"x")
    await wire.take(1)
    backend.cut()
    assert await wire.ended() == b"(reset)"
    await placer.hears("closed", backend.url)
    assert edge.connections == 0


async def test_client_reset_reaches_the_backend(start_edge: Any, raw_backend: Any) -> None:
    """A client that is cut off is gone for the backend too."""
    gone = asyncio.Event()

    async def watch(session: Session) -> None:
        session.writer.write(answer_101(session.head))
        try:
            await session.reader.read()
        finally:
            gone.set()

    backend = await raw_backend(watch)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer)
    wire = await Wire.upgraded(edge.port)
    wire.reset()
    await asyncio.wait_for(gone.wait(), patient(5))
    await placer.hears("closed", backend.url)


async def test_last_words_survive_a_closing_race(start_edge: Any, raw_backend: Any) -> None:
    """A backend that says goodbye and closes while the client still sends: the goodbye reaches the client."""

    async def leave(session: Session) -> None:
        session.writer.write(answer_101(session.head))
        await session.reader.readexactly(1)
        session.writer.write(b"goodbye")

    backend = await raw_backend(leave)
    edge = await start_edge(FixedPlacer(backend.url))
    for _ in range(20):
        wire = await Wire.upgraded(edge.port)
        wire.send(b"x")
        assert await wire.take(7) == b"goodbye"
        wire.send(b"y" * 1000)
        await wire.ended()
        wire.close()


async def test_idle_connections_end(start_edge: Any, raw_backend: Any) -> None:
    """Silence in both directions ends a connection; one direction that speaks keeps it."""

    async def tick(session: Session) -> None:
        session.writer.write(answer_101(session.head))
        for _ in range(40):
            session.writer.write(b".")
            await asyncio.sleep(0.05)

    quiet, talking = await raw_backend(echo), await raw_backend(tick)
    placer = FixedPlacer(quiet.url)
    edge = await start_edge(placer, idle_timeout_ms=600)
    first = await Wire.upgraded(edge.port)
    placer.urls = (talking.url,)
    second = await Wire.upgraded(edge.port)
    assert await first.ended(5) == b""
    await placer.hears("closed", quiet.url)
    assert ("closed", talking.url) not in placer.heard
    assert len(await second.ended()) > 30


async def test_stop_waits_then_cuts(start_edge: Any, raw_backend: Any) -> None:
    """A stopping edge lets connections end by themselves for a while, takes no new ones, and cuts off the rest."""
    backend = await raw_backend(echo)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer)
    leaving, staying = await Wire.upgraded(edge.port), await Wire.upgraded(edge.port)
    loop = asyncio.get_running_loop()
    began = loop.time()
    stopping = asyncio.create_task(edge.stop(0.5))
    await asyncio.sleep(0.1)
    with pytest.raises(ConnectionRefusedError):
        await Wire.connect(edge.port)
    leaving.send(b"still served")
    assert await leaving.take(12) == b"still served"
    leaving.close()
    await stopping
    assert 0.4 < loop.time() - began < patient(2)
    assert await staying.ended() in (b"", b"(reset)")
    assert placer.heard.count(("closed", backend.url)) == 2


async def test_stop_ends_early_when_all_are_gone(start_edge: Any, raw_backend: Any) -> None:
    """With nobody left, a drain is over at once."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url))
    wire = await Wire.upgraded(edge.port)
    stopping = asyncio.create_task(edge.stop(30))
    await asyncio.sleep(0.05)
    wire.close()
    await asyncio.wait_for(stopping, patient(3))


async def test_a_client_that_came_before_the_stop_is_served(start_edge: Any, raw_backend: Any) -> None:
    """Who was accepted, and has not said anything yet, gets its handshake answered: a restart refuses nobody."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url))
    silent = await Wire.connect(edge.port)
    async with asyncio.timeout(patient(5)):
        while not edge.pending.fresh:
            await asyncio.sleep(0.01)
    stopping = asyncio.create_task(edge.stop(30))
    await asyncio.sleep(0.05)
    silent.send(handshake())
    assert (await silent.answer()).status == 101
    silent.send(b"served")
    assert await silent.take(6) == b"served"
    silent.close()
    await asyncio.wait_for(stopping, patient(3))


async def test_nothing_is_left_after_a_connection(start_edge: Any, raw_backend: Any) -> None:
    """Relay objects are freed by their counts alone, whichever side ended: no garbage collection is needed."""
    backend = await raw_backend(echo)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer)
    gc.collect()
    gc.disable()
    try:
        for number in range(3):
            wire = await Wire.upgraded(edge.port)
            if number == 0:
                wire.close()
            elif number == 1:
                wire.reset()
            else:
                backend.cut()
            await wire.ended() if number == 2 else None
            while edge.connections:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert [found for found in gc.get_objects() if isinstance(found, (Relay, End))] == []
    finally:
        gc.enable()


async def test_keep_alive_on_both_sockets(start_edge: Any, raw_backend: Any) -> None:
    """The kernel asks after a silent machine on both sides, and small messages are not held back."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url))
    wire = await Wire.upgraded(edge.port)
    relay = next(iter(edge.relays))
    for fd in descriptors(relay):
        with socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            if hasattr(socket, "TCP_KEEPIDLE"):
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    wire.close()


async def test_killed_backend_mid_connection(start_edge: Any, start_node: Any) -> None:
    """A node that dies without a word ends its clients' connections, and no other backend is tried."""
    node = await start_node()
    placer = FixedPlacer(f"http://127.0.0.1:{node.port}")
    edge = await start_edge(placer)
    async with connect(f"ws://127.0.0.1:{edge.port}/ws/echo", proxy=None) as ws:
        await ws.send("x")
        await ws.recv()
        for connection in list(node.registry.connections):
            connection.abort()
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(ws.recv(), patient(5))
    assert len(placer.asked) == 1


async def test_events_tell_no_query(start_edge: Any, raw_backend: Any) -> None:
    """Events name backend, reason, address and path, and never the query."""
    events: list[EdgeEvent] = []
    backend = await raw_backend(echo)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer, on_event=events.append)
    wire = await Wire.upgraded(edge.port, "/ws?token=secret")
    wire.close()
    await placer.hears("closed", backend.url)
    assert [(event.event, event.backend, event.path, event.status) for event in events] == [
        ("opened", backend.url, "/ws", 101),
        ("closed", backend.url, "/ws", 101),
    ]
    assert events[0].address == "127.0.0.1"
    assert "secret" not in repr(events)
