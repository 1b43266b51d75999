"""What only the store over NATS has to stand: outages, a killed server, a lost bucket, changes that were not heard."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from tests.support.patience import patient
from tests.support.server.bus_probe import States, retention_of, settings, until
from tests.support.server.store_probe import Seen
from trunkline.bus.base import FleetBus, FleetStore
from trunkline.bus.nats import store as nats_store
from trunkline.bus.nats.bus import NatsBus
from trunkline.bus.nats.store import LinkedNatsStore
from trunkline.bus.nats.wire import Wire
from trunkline.errors import BusCannotStore, BusUnavailable, Changed
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.nats.address import parse_address

Start = Callable[..., Awaitable[NatsServer]]
Open = Callable[..., Awaitable[FleetStore]]


@pytest_asyncio.fixture
async def start_server() -> AsyncIterator[Start]:
    """Starts servers that are stopped after the test."""
    servers: list[NatsServer] = []

    async def start(store: Path, **options: object) -> NatsServer:
        server = await NatsServer.start(store, **options)  # type: ignore[arg-type]
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest_asyncio.fixture
async def open_fleet_store() -> AsyncIterator[Open]:
    """Opens stores that are closed after the test."""
    stores: list[FleetStore] = []

    async def open_fleet_store(url: str, **changes: float) -> FleetStore:
        store = LinkedNatsStore(settings(url, "t", **changes))
        stores.append(store)
        await store.start()
        return store

    yield open_fleet_store
    for store in stores:
        await store.close()


async def reached(store: FleetStore) -> None:
    """Wait until the store answers."""

    async def answers() -> bool:
        try:
            await store.get("a")
        except BusUnavailable:
            return False
        return True

    while not await answers():
        await asyncio.sleep(0.02)


async def stream(url: str, verb: str, question: object = None, name: str = "KV_t") -> None:
    """Ask JetStream for something that no part of ours does."""
    wire = await Wire.connect(parse_address(url), prefix="t", tls=None)
    data = msgspec.json.encode(question) if question is not None else b""
    answer = await wire.request(f"$JS.API.STREAM.{verb}.{name}", data, timeout_s=5)
    await wire.close("done")
    assert b'"error"' not in answer.data, answer.data


async def test_a_killed_server_loses_nothing_that_was_acknowledged(
    store: Path, start_server: Start, open_fleet_store: Open
) -> None:
    """NATS is killed while its store is written to: every write that returned is there, under its revision."""
    server = await start_server(store)
    writer, reader = await open_fleet_store(server.url, publish_timeout_s=0.5), await open_fleet_store(server.url)
    seen = Seen()
    await reader.watch("deploy", seen)
    acknowledged: list[int] = []
    unknown = 0

    async def write() -> None:
        nonlocal unknown
        revision = 0
        while unknown == 0 or len(acknowledged) < 300:
            try:
                revision = await writer.put("deploy", b"%d" % len(acknowledged), revision)
                acknowledged.append(revision)
            except BusUnavailable:
                unknown += 1
                await asyncio.sleep(0.02)
            except Changed as error:
                # The one whose answer was lost had been stored.
                revision = error.revision or -1

    writing = asyncio.create_task(write())
    await until(lambda: len(acknowledged) >= 100)
    os.kill(server.pid, signal.SIGKILL)
    await until(lambda: unknown > 0)
    await server.stop()
    with pytest.raises(BusUnavailable):
        await reader.get("deploy")
    server = await start_server(store, port=server.port)
    await writing
    assert acknowledged == sorted(set(acknowledged))
    await reached(reader)
    entry = await reader.get("deploy")
    assert entry is not None
    assert entry.revision == acknowledged[-1]
    await seen.until(lambda seen: seen.entries[-1][1] == entry)


async def test_a_watch_gives_what_changed_during_an_outage(
    store: Path, start_server: Start, open_fleet_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watcher whose connection is lost is given each key as it is when it is back: changed, removed and new."""
    monkeypatch.setattr(nats_store, "CHECK_S", 3600)
    server = await start_server(store)
    store_ = await open_fleet_store(server.url)
    for key in ("v.same", "v.changed", "v.removed"):
        await store_.put(key, b"0", 0)
    await store_.close()
    bus, states, seen = NatsBus(settings(server.url, "t"), retention_of), States(), Seen()
    await bus.start(states)
    try:
        await bus.fleet_store.watch("v.", seen)
        os.kill(server.pid, signal.SIGKILL)
        await states.wait(True, False)
        await server.stop()
        # The bus stays away from it for as long as the others change what is there.
        go_on = asyncio.Event()
        monkeypatch.setattr(bus._link, "_connect", _after(go_on, bus._link._connect))
        server = await start_server(store, port=server.port)
        other = await open_fleet_store(server.url)
        await reached(other)
        await other.put("v.changed", b"1", None)
        await other.delete("v.removed", None)
        await other.put("v.new", b"2", 0)
        before = len(seen.got)
        go_on.set()
        await seen.until(lambda seen: seen.now == {"v.same": b"0", "v.changed": b"1", "v.new": b"2"})
        assert seen.got[before:] == [("v.removed", None), ("v.changed", b"1"), ("v.new", b"2")]
    finally:
        await bus.close()


def _after(event: asyncio.Event, connect: Callable[[], Awaitable[Wire]]) -> Callable[[], Awaitable[Wire]]:
    async def late() -> Wire:
        await event.wait()
        return await connect()

    return late


async def test_a_watch_that_began_without_a_server_is_given_everything_later(
    store: Path, start_server: Start, open_fleet_store: Open
) -> None:
    """`watch` returns while NATS cannot be reached, says nothing, and gives what is there when it can."""
    server = await start_server(store)
    first = await open_fleet_store(server.url)
    await first.put("traffic", b"1", 0)
    await server.stop()
    second, seen = await open_fleet_store(server.url), Seen()
    await second.watch("traffic", seen)
    assert seen.got == []
    await start_server(store, port=server.port)
    await seen.until(lambda seen: seen.got == [("traffic", b"1")])


async def test_a_change_that_was_not_heard_is_found(
    store: Path, start_server: Start, open_fleet_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain messages may be lost: a watcher that hears none of a change is given it all the same."""
    monkeypatch.setattr(nats_store, "CHECK_S", 0.1)
    server = await start_server(store)
    watching, writing = await open_fleet_store(server.url), await open_fleet_store(server.url)
    seen = Seen()
    await writing.put("traffic", b"0", 0)
    await watching.watch("traffic", seen)
    watching._changes._wired.on_message = lambda _: None  # type: ignore[attr-defined]
    await writing.put("traffic", b"1", None)
    await seen.until(lambda seen: seen.got == [("traffic", b"0"), ("traffic", b"1")])


async def test_the_next_change_shows_that_one_was_not_heard(
    store: Path, start_server: Start, open_fleet_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sequence of a change that is heard shows a gap before it, whichever keys were changed."""
    monkeypatch.setattr(nats_store, "CHECK_S", 3600)
    server = await start_server(store)
    watching, writing = await open_fleet_store(server.url), await open_fleet_store(server.url)
    seen = Seen()
    await writing.put("traffic", b"0", 0)
    await watching.watch("traffic", seen)
    heard = watching._changes._wired.on_message  # type: ignore[attr-defined]
    lost: list[object] = []
    watching._changes._wired.on_message = lost.append  # type: ignore[attr-defined]
    await writing.put("traffic", b"1", None)
    await until(lambda: bool(lost))
    watching._changes._wired.on_message = heard  # type: ignore[attr-defined]
    await writing.put("other", b"1", None)
    await seen.until(lambda seen: seen.got == [("traffic", b"0"), ("traffic", b"1")])


@pytest.mark.parametrize("under_way", ["MSG.GET", "INFO"])
async def test_a_watch_that_begins_while_others_are_given_something_is_given_all_of_its_own(
    under_way: str, store: Path, start_server: Start, open_fleet_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a reading nor a check that is under way when a watch begins makes it miss what is there."""
    monkeypatch.setattr(nats_store, "CHECK_S", 0.1)
    server = await start_server(store)
    fleet_store = await open_fleet_store(server.url)
    await fleet_store.put("a", b"1", 0)
    await fleet_store.put("b", b"1", 0)
    await fleet_store.watch("a", Seen())
    request, held, go_on = Wire.request, asyncio.Event(), asyncio.Event()

    async def slow(wire: Wire, subject: str, data: bytes, *, timeout_s: float) -> Msg:
        if under_way in subject and not held.is_set():
            held.set()
            await go_on.wait()
        return await request(wire, subject, data, timeout_s=timeout_s)

    monkeypatch.setattr(Wire, "request", slow)
    if under_way == "MSG.GET":
        await fleet_store.put("a", b"2", None)
    await held.wait()
    seen = Seen()
    watching = asyncio.create_task(fleet_store.watch("b", seen))
    await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(patient(1.5)):
        await watching
    assert seen.got == [("b", b"1")]


async def test_an_answer_that_cannot_be_read_ends_no_watch(
    store: Path, start_server: Start, open_fleet_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may publish on a reply's subject can answer first: calls fail, and a watch reads again."""
    monkeypatch.setattr(nats_store, "PAUSE_S", 0.05)
    server = await start_server(store)
    watching, writing = await open_fleet_store(server.url), await open_fleet_store(server.url)
    await writing.put("traffic", b"0", 0)
    seen, asked = Seen(), 0
    await watching.watch("traffic", seen)
    request = Wire.request

    async def other(wire: Wire, subject: str, data: bytes, *, timeout_s: float) -> Msg:
        nonlocal asked
        asked += 1
        answer = await request(wire, subject, data, timeout_s=timeout_s)
        if asked < 4:
            answer.data = b"surprise"
        return answer

    monkeypatch.setattr(Wire, "request", other)
    with pytest.raises(BusUnavailable, match="cannot be read"):
        await writing.get("traffic")
    await writing.put("traffic", b"1", None)
    await seen.until(lambda seen: seen.got == [("traffic", b"0"), ("traffic", b"1")])
    assert asked >= 4


async def test_a_bucket_that_was_removed_is_made_again(
    store: Path, start_server: Start, open_fleet_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its bucket the store is empty, and watchers hear so; the next write makes it again."""
    monkeypatch.setattr(nats_store, "CHECK_S", 0.1)
    server = await start_server(store)
    fleet_store, seen = await open_fleet_store(server.url), Seen()
    for number in range(3):
        await fleet_store.put("traffic", b"%d" % number, None)
    await fleet_store.watch("traffic", seen)
    await stream(server.url, "DELETE")
    await seen.until(lambda seen: seen.got == [("traffic", b"2"), ("traffic", None)])
    assert await fleet_store.get("traffic") is None
    assert await fleet_store.keys() == ()
    with pytest.raises(Changed):
        await fleet_store.put("traffic", b"3", 3)
    await fleet_store.put("traffic", b"4", 0)
    await seen.until(lambda seen: seen.got[2:] == [("traffic", b"4")])


async def test_a_bucket_of_another_hand_is_brought_up_to_date(
    store: Path, start_server: Start, open_fleet_store: Open
) -> None:
    """A bucket that was made with the tools of NATS serves, keeps what is in it, and sends on its changes."""
    server = await start_server(store)
    made = {
        "name": "KV_t", "subjects": ["$KV.t.>"], "max_msgs_per_subject": 1, "discard": "new", "storage": "file",
        "allow_rollup_hdrs": True, "deny_delete": True, "allow_direct": True, "num_replicas": 1,
    }  # fmt: skip
    await stream(server.url, "CREATE", made)
    fleet_store, seen = await open_fleet_store(server.url), Seen()
    await fleet_store.watch("", seen)
    revision = await fleet_store.put("a", b"1", 0)
    await fleet_store.delete("a", revision)
    await fleet_store.put("a", b"2", 0)
    await seen.until(lambda seen: seen.now == {"a": b"2"})


async def test_the_store_of_a_bus_is_that_of_the_fleet(
    store: Path, start_server: Start, open_fleet_store: Open
) -> None:
    """A bus carries the store over its own connection, and what it writes is seen by others; it ends with the bus."""
    server = await start_server(store)
    bus = NatsBus(settings(server.url, "t"), retention_of)
    assert isinstance(bus, FleetBus)
    with pytest.raises(BusUnavailable):
        await bus.fleet_store.get("traffic")
    await bus.start(lambda _: None)
    seen = Seen()
    try:
        other = await open_fleet_store(server.url)
        await other.watch("traffic", seen)
        await bus.fleet_store.put("traffic", b"1", 0)
        await seen.until(lambda seen: seen.now == {"traffic": b"1"})
    finally:
        await bus.close()
    with pytest.raises(BusUnavailable):
        await bus.fleet_store.get("traffic")


async def test_replicas_that_there_are_not_are_named(store: Path, start_server: Start, open_fleet_store: Open) -> None:
    """A bucket that NATS cannot provide fails the write with the setting's value in the text."""
    server = await start_server(store)
    fleet_store = await open_fleet_store(server.url, replicas=3)
    with pytest.raises(BusUnavailable, match="replicas 3"):
        await fleet_store.put("a", b"1", 0)


async def test_a_full_bucket_says_so(store: Path, start_server: Start, open_fleet_store: Open) -> None:
    """When there is no more room the write is refused, what is there stays, and room that is made can be used."""
    server = await start_server(store)
    fleet_store = await open_fleet_store(server.url)
    value = b"x" * (512 * 1024)
    count = 0

    async def fill() -> None:
        nonlocal count
        for count in range(64):
            await fleet_store.put(f"deploys.{count}", value, 0)

    with pytest.raises(BusCannotStore):
        await fill()
    assert count > 20
    assert len(await fleet_store.keys("deploys.")) == count
    await fleet_store.delete("deploys.0", None)
    await fleet_store.delete("deploys.1", None)
    await fleet_store.put("traffic", b"1", 0)
