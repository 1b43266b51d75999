"""The faulty server does what it says, seen by a client of another implementation."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from tests.support.load.faulty_server import Did, Faults, FaultyProcess, FaultyServer, parse_faults
from tests.support.patience import patient


async def hear(socket: ClientConnection, timeout: float = 5.0) -> Any:
    """The next message, decoded."""
    return json.loads(await asyncio.wait_for(socket.recv(), patient(timeout)))


async def say(socket: ClientConnection, **message: Any) -> None:
    await socket.send(json.dumps(message))


@asynccontextmanager
async def subscribed(server: FaultyServer, **more: Any) -> AsyncIterator[ClientConnection]:
    """A client in channel `room`."""
    async with connect(server.url()) as socket:
        assert (await hear(socket))["type"] == "connection_established"
        await say(socket, type="subscribe", id=1, channels=["room"], **more)
        yield socket


async def publish(socket: ClientConnection, count: int) -> None:
    for number in range(count):
        await say(socket, type="publish", id=number, channel="room", data={"n": number})


async def offsets(socket: ClientConnection, until: int) -> list[int]:
    """Offsets of publications, up to the acknowledgement of offset `until`."""
    seen = []
    while True:
        message = await hear(socket)
        if message["type"] == "publication":
            seen.append(message["offset"])
        elif message["type"] == "publish_ack" and message["offset"] == until:
            return seen


async def test_without_faults_echo_and_feed_are_right() -> None:
    """An echo comes back as it was, and a publication reaches its publisher, before the acknowledgement."""
    async with FaultyServer() as server:
        async with connect(server.url("/ws/echo")) as socket:
            for text in ("a", "b" * 300, b"c" * 70_000):
                await socket.send(text)
                assert await socket.recv() == text
        async with subscribed(server) as socket:
            ack = await hear(socket)
            assert ack["positions"]["room"]["offset"] == 0
            await publish(socket, 1)
            first, second = await hear(socket), await hear(socket)
        assert (first["type"], first["offset"], first["prev"], first["data"]) == ("publication", 1, 0, {"n": 0})
        assert (second["type"], second["id"], second["offset"], "prev" in second) == ("publish_ack", 0, 1, False)
        assert server.did == []


async def test_an_acknowledgement_in_place_carries_prev() -> None:
    """The publisher gets no publication of its own, but its place in the order."""
    async with FaultyServer(Faults(ack_in_place=True)) as server, subscribed(server) as socket:
        await hear(socket)
        await publish(socket, 2)
        acks = [await hear(socket), await hear(socket)]
    assert [(ack["type"], ack["offset"], ack["prev"]) for ack in acks] == [("publish_ack", 1, 0), ("publish_ack", 2, 1)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("drop", [1, 2, 3, 5, 6, 7, 9, 10]),
        ("duplicate", [1, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 9, 10]),
        ("reorder", [1, 3, 2, 4, 5, 7, 6, 8, 9]),
        ("gap", [1, 2, 4, 5, 6, 8, 9, 10]),
    ],
)
async def test_faults_of_publications_come_at_their_distance_and_are_noted(kind: str, expected: list[int]) -> None:
    """One in four goes wrong, and the list says which."""
    async with FaultyServer(Faults(**{kind: 4})) as server, subscribed(server) as socket:
        await publish(socket, 10)
        assert await offsets(socket, 10) == expected
        done = [(did.kind, did.channel, did.connection) for did in server.did]
        assert done == [(kind, "room", 0)] * len(done)
        first = {"drop": 4, "duplicate": 1, "reorder": 2, "gap": 3}[kind]
        assert [did.offset for did in server.did] == [at for at in range(first, 11, 4) if kind != "reorder" or at < 10]


async def test_faults_of_echoes_are_numbered_from_zero() -> None:
    """An echo that is left out, and one that comes behind the next."""
    async with FaultyServer(Faults(drop=3, reorder=8)) as server, connect(server.url("/ws/echo")) as socket:
        for number in range(6):
            await socket.send(str(number))
        assert [await socket.recv() for _ in range(4)] == ["0", "1", "4", "3"]
        assert server.did == [Did("drop", "", 2, 0), Did("reorder", "", 3, 0), Did("drop", "", 5, 0)]


async def test_a_stall_holds_answers_back() -> None:
    """An echo that falls into a stall comes when it is over."""
    faults = Faults(stall=0.4, stall_every=0.5)
    async with FaultyServer(faults) as server, connect(server.url("/ws/echo")) as socket:
        longest = 0.0
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            began = time.monotonic()
            await socket.send("x")
            await socket.recv()
            longest = max(longest, time.monotonic() - began)
        assert 0.3 < longest < patient(0.9)
        assert server.done("stall")


async def test_refused_and_broken_handshakes() -> None:
    """A status for a share of them, an answer that is wrong, one that never comes, one that comes late."""
    async with FaultyServer(Faults(refuse=503, refuse_share=0.5)) as server:
        async with connect(server.url()):
            pass
        with pytest.raises(InvalidStatus, match="503"):
            await connect(server.url())
        server.faults = Faults(false_accept=True)
        with pytest.raises(InvalidHandshake):
            await connect(server.url())
        server.faults = Faults(silent=True)
        with pytest.raises(TimeoutError):
            await connect(server.url(), open_timeout=0.2)
        server.faults = Faults(accept_delay=0.2)
        began = time.monotonic()
        async with connect(server.url()) as socket:
            assert time.monotonic() - began >= 0.2
            assert (await hear(socket))["type"] == "connection_established"
        assert server.done("refuse") == [Did("refuse", "", 503, 1)]


@pytest.mark.parametrize(
    ("faults", "code"), [(Faults(close=1011), 1011), (Faults(close=1006), 1006), (Faults(garbage=True), 1006)]
)
async def test_connections_that_end_at_once(faults: Faults, code: int) -> None:
    """A close frame, none, or bytes that are no frames."""
    async with FaultyServer(faults) as server, connect(server.url()) as socket:
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(socket.recv(), patient(5))
        assert (caught.value.rcvd.code if caught.value.rcvd else 1006) == code


async def test_tls_is_trusted_only_with_its_certificate() -> None:
    """The certificate is of its own making, for the address it listens on."""
    async with FaultyServer(tls=True) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(server.url())
        async with connect(server.url(), ssl=ssl.create_default_context(cafile=server.ca_file)) as socket:
            assert (await hear(socket))["type"] == "connection_established"


async def test_above_the_rate_comes_an_error() -> None:
    """The third message of a second is answered with an error that carries its id."""
    async with FaultyServer(Faults(rate=3)) as server, connect(server.url()) as socket:
        await hear(socket)
        for number in range(8):
            await say(socket, type="heartbeat", id=number)
        answers = [await hear(socket) for _ in range(8)]
        errors = [answer["id"] for answer in answers if answer.get("code") == "RATE_LIMIT_EXCEEDED"]
        assert 2 <= len(errors) == len(server.done("rate"))
        assert answers[-1]["type"] == "error" or len(errors) < 5


async def test_recovery_and_its_loss() -> None:
    """What was missed follows the acknowledgement; with lost history it is said to be expired."""
    async with FaultyServer() as server:
        async with subscribed(server) as socket:
            epoch = (await hear(socket))["positions"]["room"]["epoch"]
            await publish(socket, 3)
            await offsets(socket, 3)
        recover = {"room": {"epoch": epoch, "offset": 1}}
        async with subscribed(server, recover=recover) as socket:
            position = (await hear(socket))["positions"]["room"]
            assert (position["recovered"], position["replayed"], position["offset"]) == (True, 2, 1)
            assert [(await hear(socket))["offset"] for _ in range(2)] == [2, 3]
        server.faults.lose_history = True
        async with subscribed(server, recover=recover) as socket:
            position = (await hear(socket))["positions"]["room"]
            assert (position["recovered"], position["reason"], position["offset"]) == (False, "expired", 3)
        assert server.did == [Did("unrecovered", "room", 3, 2)]


async def test_a_drain_says_goodbye_and_closes_with_1012() -> None:
    """The goodbye is the last message, and says when to come back."""
    async with FaultyServer(Faults(reconnect_after_ms=250, heartbeat=0.05)) as server, connect(server.url()) as socket:
        await hear(socket)
        assert (await hear(socket))["type"] == "heartbeat"
        server.drain()
        heard = [await hear(socket)]
        with pytest.raises(ConnectionClosed):
            await hear(socket)
        assert socket.close_code == 1012
        assert (heard[-1]["type"], heard[-1]["reconnect_after_ms"]) == ("goodbye", 250)


async def test_as_a_process_it_tells_what_it_did() -> None:
    """Faults are given as words, and read over HTTP."""
    async with FaultyProcess("drop:2", "heartbeat:5") as server:
        async with connect(server.url("/ws/echo")) as socket:
            await socket.send("a")
            await socket.send("b")
            await socket.send("c")
            assert [await socket.recv(), await socket.recv()] == ["a", "c"]
        assert await server.did() == [Did("drop", "", 1, 0)]


def test_words_become_faults() -> None:
    """Two numbers are parted by a slash."""
    assert parse_faults(["stall:1/10", "refuse:503/0.5", "silent", "drop:7"]) == Faults(
        stall=1.0, stall_every=10.0, refuse=503, refuse_share=0.5, silent=True, drop=7
    )
    with pytest.raises(SystemExit, match="unknown"):
        parse_faults(["nonsense:1"])
