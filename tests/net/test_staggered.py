"""Staggered attempts at the addresses of a host: order, delay, cancellation, and a real address that never answers."""

from __future__ import annotations

import asyncio
import socket
import sys
import time

import pytest

from tests.support.patience import patient
from tests.support.unanswered import unanswered
from trunkline.net.staggered import DELAY_S, Address, first_to_connect, interleaved

V4, V6 = socket.AF_INET, socket.AF_INET6


def test_families_take_turns() -> None:
    """The first stays the first, and each family keeps its order (RFC 8305, section 4)."""
    found: list[Address] = [(V6, 1), (V6, 2), (V6, 3), (V4, 4), (V4, 5)]
    assert interleaved(found) == [(V6, 1), (V4, 4), (V6, 2), (V4, 5), (V6, 3)]
    assert interleaved([(V4, 1), (V4, 2)]) == [(V4, 1), (V4, 2)]
    assert interleaved([]) == []


class Host:
    """Addresses that connect, refuse or hang; it keeps what was begun, cancelled and let go of."""

    def __init__(self, **behaviour: str) -> None:
        self.behaviour = behaviour
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.let_go: list[str] = []

    async def connect(self, address: Address) -> str:
        name = str(address[1])
        self.begun.append(name)
        what = self.behaviour[name]
        try:
            if what == "hangs":
                await asyncio.Event().wait()
            elif what == "stubborn":
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    return name
            elif what == "refuses":
                raise ConnectionRefusedError(name)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        return name

    async def first(self) -> str:
        return await first_to_connect([(V4, name) for name in self.behaviour], self.connect, self.let_go.append)


async def test_a_refusal_begins_the_next_at_once() -> None:
    """No time is lost over addresses that answer."""
    host = Host(a="refuses", b="refuses", c="connects", d="connects")
    began = time.monotonic()
    assert await host.first() == "c"
    assert time.monotonic() - began < patient(DELAY_S)
    assert host.begun == ["a", "b", "c"]


async def test_silence_begins_the_next_after_the_delay() -> None:
    """What hangs goes on meanwhile, and is cancelled when another has connected."""
    host = Host(a="hangs", b="hangs", c="connects")
    began = time.monotonic()
    assert await host.first() == "c"
    assert 2 * DELAY_S * 0.9 <= time.monotonic() - began < patient(3 * DELAY_S)
    await asyncio.sleep(0)
    assert (host.begun, sorted(host.cancelled)) == (["a", "b", "c"], ["a", "b"])


async def test_what_connects_too_late_is_let_go_of() -> None:
    """It connected in the moment in which it was cancelled."""
    host = Host(a="stubborn", b="connects")
    assert await host.first() == "b"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert host.let_go == ["a"]


async def test_when_none_connects_the_last_ones_error_says_so() -> None:
    """All were tried; and without an address there is nothing to try."""
    with pytest.raises(ConnectionRefusedError, match="b"):
        await Host(a="refuses", b="refuses").first()
    with pytest.raises(OSError, match="no address"):
        await Host().first()


async def test_whoever_gives_up_cancels_all() -> None:
    """A caller with a time limit, or whose client has left."""
    host = Host(a="hangs", b="hangs")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(DELAY_S * 1.5):
            await host.first()
    await asyncio.sleep(0)
    assert sorted(host.cancelled) == ["a", "b"]


@pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is loopback on Linux alone")
async def test_a_real_address_that_never_answers() -> None:
    """A listener whose backlog is full drops what comes, as a host that is gone; the second address is reached."""
    loop = asyncio.get_running_loop()

    async def connect(address: Address) -> socket.socket:
        sock = socket.socket(address[0], socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await loop.sock_connect(sock, address[1])
        except BaseException:
            sock.close()
            raise
        return sock

    with unanswered() as port, socket.create_server(("127.0.0.3", port)):
        addresses: list[Address] = [(V4, ("127.0.0.2", port)), (V4, ("127.0.0.3", port))]
        began = time.monotonic()
        sock = await first_to_connect(addresses, connect, socket.socket.close)
        assert sock.getpeername() == ("127.0.0.3", port)
        assert time.monotonic() - began < patient(1.0)
        sock.close()
