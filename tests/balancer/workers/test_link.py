"""A worker and the truth over a real socket: nothing that one says or asks for costs the other its clients."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from tests.support.patience import patient
from trunkline.balancer.workers import link as worker_link
from trunkline.balancer.workers.link import LinkLost, Reloaded, RemotePlacer, WorkerSeat
from trunkline.placement.placing import Ask, Pick, Refusal

URL = "http://10.0.0.1:1"


class Truth:
    """Gives out numbered picks and keeps what it hears of them."""

    def __init__(self) -> None:
        self.number = 0
        self.heard: list[tuple[str, int]] = []
        self.later: asyncio.Future[Pick | Refusal] | None = None

    def place(self, ask: Ask) -> Any:
        self.number += 1
        return self.later or Pick(URL, self.number, "only")

    def opened(self, pick: Pick) -> None:
        self.heard.append(("opened", pick.reservation))

    def failed(self, pick: Pick, why: str) -> None:
        self.heard.append((why, pick.reservation))

    def dropped(self, pick: Pick) -> None:
        self.heard.append(("dropped", pick.reservation))

    def closed(self, pick: Pick) -> None:
        self.heard.append(("closed", pick.reservation))

    async def hears(self, *wanted: tuple[str, int]) -> None:
        async with asyncio.timeout(patient(10)):
            while len(self.heard) < len(wanted):
                await asyncio.sleep(0.005)
        assert self.heard == list(wanted)


class Pair:
    """Both ends of a link; `pages` are answered one after the other, an exception among them is raised."""

    def __init__(self) -> None:
        self.truth = Truth()
        self.pages: list[bytes | Exception] = []
        self.ended = asyncio.Event()
        self.placer = RemotePlacer(self.ended.set)
        self.seat = WorkerSeat(self.truth, self._page, lambda counts: None)

    def _page(self, query: str, accept: str) -> tuple[str, bytes]:
        page = self.pages.pop(0)
        if isinstance(page, Exception):
            raise page
        return "text/html", page

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        for protocol, sock in zip((self.seat.link, self.placer.link), socket.socketpair(), strict=True):
            sock.setblocking(False)
            await loop.create_unix_connection(lambda link=protocol: link, sock=sock)

    async def place(self) -> Pick:
        answer = await asyncio.wait_for(self.placer.place(Ask("key")), patient(10))
        assert isinstance(answer, Pick)
        return answer


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    """A worker that is connected."""
    made = Pair()
    await made.connect()
    yield made
    made.seat.close()
    async with asyncio.timeout(patient(10)):
        await made.ended.wait()


async def test_long_pages_reach_a_worker(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of megabytes comes whole; one that no message holds becomes a sentence; the worker lives on."""
    pair.pages = [b"x" * 5_000_000]
    assert await pair.placer.page("", "") == ("text/html", b"x" * 5_000_000)
    monkeypatch.setattr(worker_link, "LONGEST_PAGE", 1000)
    pair.pages = [b"x" * 1001]
    kind, body = await pair.placer.page("", "")
    assert (kind, b"too long" in body) == ("text/plain; charset=utf-8", True)
    assert (await pair.place()).url == URL


async def test_a_page_that_cannot_be_made_costs_no_worker(pair: Pair) -> None:
    """A fault in the page is a sentence for its reader; the worker that asked lives on."""
    pair.pages = [RuntimeError("no page"), b"good"]
    assert b"could not be made" in (await pair.placer.page("", ""))[1]
    assert (await pair.placer.page("", ""))[1] == b"good"
    assert not pair.ended.is_set()


async def test_the_largest_ask_passes(pair: Pair) -> None:
    """Whatever fits into the longest head that the settings allow can be asked with."""
    ask = Ask("k", affinity="é" * 1_000_000, sticky="é" * 1_000_000)
    assert isinstance(await asyncio.wait_for(pair.placer.place(ask), patient(10)), Pick)


async def test_what_a_dead_worker_held_is_let_go(pair: Pair) -> None:
    """What it had reserved is dropped, what it had opened is closed, and what was asked for it meanwhile is dropped."""
    reserved, opened = await pair.place(), await pair.place()
    pair.placer.opened(opened)
    pair.placer.closed(pick := await pair.place())
    pair.placer.closed(pick)
    await pair.truth.hears(("opened", 2), ("closed", 3), ("closed", 3))
    pair.truth.heard.clear()
    pair.truth.later = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(pair.placer.place(Ask("key")))
    async with asyncio.timeout(patient(10)):
        while pair.truth.number < 4:
            await asyncio.sleep(0.005)
    pair.placer.link.close()
    with pytest.raises(LinkLost):
        await waiting
    await pair.truth.hears(("dropped", reserved.reservation), ("closed", opened.reservation))
    pair.truth.later.set_result(Pick(URL, 4, "only"))
    await pair.truth.hears(("dropped", 1), ("closed", 2), ("dropped", 4))


async def test_a_client_that_left_meanwhile_holds_nothing(pair: Pair) -> None:
    """The pick for a client that has gone while it was asked for is dropped by the worker."""
    asked = pair.placer.place(Ask("key"))
    assert isinstance(asked, asyncio.Future)
    asked.cancel()
    await pair.truth.hears(("dropped", 1))


async def test_a_stream_out_of_step_ends(pair: Pair) -> None:
    """A length that no message has ends the link rather than to be waited for."""
    transport = pair.placer.link._transport
    assert transport is not None
    transport.write((worker_link.LONGEST + 1).to_bytes(4, "big"))
    async with asyncio.timeout(patient(10)):
        await pair.seat.lost.wait()


def test_messages_are_told_apart() -> None:
    """No tag stands for two messages of one direction."""
    for kinds in (worker_link.FromWorker, worker_link.ToWorker):
        msgspec.msgpack.Decoder(kinds)


async def test_a_late_answer_is_not_taken_for_one_about_later_settings(pair: Pair) -> None:
    """A reload was given up, for the worker took too long; what it says then is about settings of before."""
    pair.seat.prepare(b"first").cancel()
    second = pair.seat.prepare(b"second")
    first, wanted = [await asyncio.wait_for(pair.placer.reloads.get(), patient(10)) for _ in range(2)]
    assert isinstance(first, Reloaded)
    assert isinstance(wanted, Reloaded)
    pair.placer.prepared(first.id, "")
    pair.placer.prepared(wanted.id, "no such file")
    assert await asyncio.wait_for(second, patient(10)) == "no such file"
