"""One connection that is made again whenever it is lost."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from tests.support.patience import patient
from trunkline.errors import BusUnavailable, StartError
from trunkline.nats import link as module
from trunkline.nats.address import parse_address
from trunkline.nats.link import Link

ADDRESS = parse_address("nats://127.0.0.1:4222")
log = structlog.get_logger("trunkline.test")


class Fake:
    """A connection that is lost when a test says so."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.closed: list[str] = []

    async def close(self, reason: str) -> None:
        self.closed.append(reason)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.005)


async def test_a_lost_connection_is_replaced() -> None:
    """Tries go on until one succeeds; states are reported in order; the lost connection is closed with the reason."""
    made: list[Fake] = []
    states: asyncio.Queue[bool] = asyncio.Queue()
    failures = 3

    async def connect() -> Fake:
        nonlocal failures
        if failures:
            failures -= 1
            raise BusUnavailable("not yet")
        made.append(Fake())
        return made[-1]

    link = Link(ADDRESS, connect, log=log)
    with pytest.raises(BusUnavailable, match="was not started"):
        link.require()
    link.start(states.put_nowait)
    await link.first_try()
    assert (link.connection, link.why) == (None, "not yet")
    assert await states.get()
    assert link.require() is made[0]
    made[0].lost.set_result("the server is gone")
    assert [await states.get(), await states.get()] == [False, True]
    assert made[0].closed == ["the server is gone"]
    await link.close("enough")
    assert (made[1].closed, states.empty()) == (["enough"], True)
    with pytest.raises(BusUnavailable, match="enough"):
        link.require()


async def test_a_first_try_that_must_not_be_repeated() -> None:
    """What is no fault of the bus reaches the owner."""

    async def connect() -> Fake:
        raise StartError("there is another", "Use another name.")

    link = Link(ADDRESS, connect, log=log)
    link.start(lambda _: None)
    with pytest.raises(StartError):
        await link.first_try()
    await link.close()


async def test_a_server_that_answers_no_probe_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe's failure ends the connection, though nothing else has."""
    monkeypatch.setattr(module, "PROBE_EVERY_S", 0.001)
    made: list[Fake] = []
    lost = asyncio.Event()

    async def connect() -> Fake:
        made.append(Fake())
        return made[-1]

    async def probe(_: Fake) -> None:
        raise BusUnavailable("no echo")

    link = Link(ADDRESS, connect, log=log, probe=probe)
    link.start(lambda up: None if up else lost.set())
    await asyncio.wait_for(lost.wait(), 5)
    await link.close()
    assert made[0].closed[0] == "no echo"


@pytest.mark.parametrize("refused", [True, False])
async def test_a_cancellation_that_is_lost_in_a_try_does_not_keep_it_open(refused: bool) -> None:
    """`close` ends the link although the library swallows its cancellation, at once when the try ends by itself."""
    trying = asyncio.Event()
    made: list[Fake] = []
    states: list[bool] = []

    async def connect() -> Fake:
        trying.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            # As asyncio.wait_for of Python 3.11 does when the connection is made or refused at this very moment.
            if refused:
                raise BusUnavailable("refused") from None
        made.append(Fake())
        return made[-1]

    link = Link(ADDRESS, connect, log=log)
    link.start(states.append)
    await trying.wait()
    began = asyncio.get_running_loop().time()
    await asyncio.wait_for(link.close("enough"), patient(10))
    assert asyncio.get_running_loop().time() - began < patient(1)
    assert [fake.closed for fake in made] == ([] if refused else [["enough"]])
    assert (states, link.connection) == ([], None)
