"""What only the NATS bus has to stand: restarts, wiped stores, outages, other nodes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
import structlog
from nats.aio.client import Client

from tests.support.free_ports import free_port
from tests.support.patience import patient
from tests.support.server.bus_probe import Inbox, States, retention_of, settings, until
from trunkline.bus.nats.bus import NatsBus
from trunkline.errors import BusError, BusUnavailable
from trunkline.fleet.children.nats_server import NatsServer

Start = Callable[..., Awaitable[NatsServer]]
Open = Callable[..., Awaitable[NatsBus]]


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
async def open_node() -> AsyncIterator[Open]:
    """Opens buses that are closed after the test."""
    buses: list[NatsBus] = []

    async def open_node(url: str, states: States | None = None, **changes: float) -> NatsBus:
        bus = NatsBus(settings(url, "t", **changes), retention_of)
        buses.append(bus)
        await bus.start(states or (lambda _: None))
        return bus

    yield open_node
    for bus in buses:
        await bus.close()


async def freeze(pid: int) -> None:
    """Stop a process, and return when every one of its threads stands still; the signal alone takes a moment."""
    os.kill(pid, signal.SIGSTOP)

    def frozen() -> bool:
        states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        return set(states) == {"T"}

    await until(frozen)


async def test_restart_keeps_epoch_offsets_and_publications(store: Path, start_server: Start, open_node: Open) -> None:
    """A server that is killed and started on the same store has everything that was acknowledged, in the same epoch."""
    server = await start_server(store)
    states = States()
    bus = await open_node(server.url, states)
    before = [await bus.publish("room.1", b"%d" % number) for number in range(20)]
    os.kill(server.pid, signal.SIGKILL)
    await states.wait(True, False)
    await server.stop()
    await start_server(store, port=server.port)
    await states.wait(True, False, True)
    page = await bus.history("room.1", 0, 100)
    assert [each.data for each in page.publications] == [b"%d" % number for number in range(20)]
    assert [each.offset for each in page.publications] == [each.offset for each in before]
    assert page.epoch == before[0].epoch
    after = await bus.publish("room.1", b"20")
    assert after.epoch == before[0].epoch
    assert (after.offset or 0) > (before[-1].offset or 0)


async def test_restart_of_a_node_keeps_the_epoch(store: Path, start_server: Start, open_node: Open) -> None:
    """A node that comes later reads the same history under the same epoch."""
    server = await start_server(store)
    first = await open_node(server.url)
    published = await first.publish("room.1", b"1")
    await first.close()
    second = await open_node(server.url)
    page = await second.history("room.1", 0, 10)
    assert (page.epoch, page.top) == (published.epoch, published.offset)


async def test_wiped_store_is_a_new_epoch(store: Path, tmp_path: Path, start_server: Start, open_node: Open) -> None:
    """When the server comes back without its data, live delivery and history name another epoch."""
    server = await start_server(store)
    states, inbox = States(), Inbox()
    bus = await open_node(server.url, states)
    await bus.subscribe("room.1", inbox)
    before = await bus.publish("room.1", b"1")
    await server.stop()
    await start_server(tmp_path / "other", port=server.port)
    await states.wait(True, False, True)
    page = await bus.history("room.1", 0, 10)
    assert page.publications == []
    assert page.epoch not in (None, before.epoch)
    after = await bus.publish("room.1", b"2")
    assert after.epoch == page.epoch
    assert [each.epoch for each in await inbox.wait(2)] == [before.epoch, after.epoch]


async def test_deleted_stream_is_a_new_epoch_for_every_node(store: Path, start_server: Start, open_node: Open) -> None:
    """When somebody deletes a stream under a running fleet, every node hears of a loss and goes on in a new epoch."""
    server = await start_server(store)
    all_states = [States(), States()]
    buses = [await open_node(server.url, states) for states in all_states]
    inbox = Inbox()
    await buses[1].subscribe("room.1", inbox)
    before = await buses[0].publish("room.1", b"1")
    await inbox.wait(1)
    admin = Client()
    await admin.connect(server.url)
    await admin.jetstream().delete_stream("T_1000_300S")
    await admin.close()
    for states in all_states:
        await states.wait(True, False, True)
    after = await buses[0].publish("room.1", b"2")
    assert after.epoch != before.epoch
    assert (await inbox.wait(2))[1].epoch == after.epoch


async def test_outage_is_told_at_once_and_ends_by_itself(store: Path, start_server: Start, open_node: Open) -> None:
    """While NATS is away calls fail at once; when it is back, subscriptions deliver and nothing comes twice or late."""
    server = await start_server(store)
    states, inbox, live = States(), Inbox(), Inbox()
    bus = await open_node(server.url, states)
    assert bus.connected
    await bus.subscribe("room.1", inbox)
    await bus.subscribe("none.1", live)
    await bus.publish("room.1", b"before")
    await inbox.wait(1)
    await server.stop()
    await states.wait(True, False)
    assert not bus.connected
    began = time.monotonic()
    for channel in ("room.1", "none.1"):
        with pytest.raises(BusUnavailable) as refused:
            await bus.publish(channel, b"while away")
        assert not refused.value.sent
    with pytest.raises(BusUnavailable):
        await bus.subscribe("room.2", inbox)
    with pytest.raises(BusUnavailable):
        await bus.history("room.1", 0, 10)
    assert time.monotonic() - began < patient(0.5)
    await start_server(store, port=server.port)
    await states.wait(True, False, True)
    assert bus.connected
    await bus.publish("room.1", b"after")
    await bus.publish("none.1", b"after")
    await inbox.wait(2)
    await live.wait(1)
    assert inbox.data == [b"before", b"after"]
    assert live.data == [b"after"]
    assert inbox.got[1].prev == inbox.got[0].offset
    page = await bus.history("room.1", 0, 10)
    assert [each.data for each in page.publications] == [b"before", b"after"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the threads' states from /proc")
async def test_publication_in_flight_when_nats_dies_fails(store: Path, start_server: Start, open_node: Open) -> None:
    """A caller that waits for an acknowledgement when the server goes is told so, not left waiting for the time-out."""
    server = await start_server(store)
    bus = await open_node(server.url, publish_timeout_s=30.0)
    await bus.publish("room.1", b"1")
    await freeze(server.pid)
    task = asyncio.create_task(bus.publish("room.1", b"2"))
    await asyncio.sleep(0)
    os.kill(server.pid, signal.SIGKILL)
    async with asyncio.timeout(patient(5)):
        with pytest.raises(BusUnavailable):
            await task


@pytest.mark.skipif(sys.platform != "linux", reason="reads the threads' states from /proc")
async def test_publish_times_out_when_nats_hangs(store: Path, start_server: Start, open_node: Open) -> None:
    """A server that stops answering costs no more than the time-out, and is noticed; then it is used again."""
    server = await start_server(store)
    states = States()
    bus = await open_node(server.url, states, publish_timeout_s=0.2)
    await bus.publish("room.1", b"1")
    await freeze(server.pid)
    try:
        with pytest.raises(BusUnavailable, match=r"within 0\.2 s"):
            await bus.publish("room.1", b"2")
        await states.wait(True, False)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await states.wait(True, False, True)
    await bus.publish("room.1", b"3")


async def test_server_down_at_the_start(store: Path, start_server: Start, open_node: Open) -> None:
    """A bus whose server is not there starts all the same, and connects when it comes."""
    port = free_port()
    states = States()
    bus = await open_node(f"nats://127.0.0.1:{port}", states)
    assert not bus.connected
    assert states.told == []
    with pytest.raises(BusUnavailable):
        await bus.publish("room.1", b"1")
    await start_server(store, port=port)
    await states.wait(True)
    await bus.publish("room.1", b"1")


async def test_two_nodes_publishing_at_once_agree_on_the_order(
    store: Path, start_server: Start, open_node: Open
) -> None:
    """Subscribers in both nodes and history see one and the same order, each node's own calls in order within it."""
    server = await start_server(store)
    nodes = [await open_node(server.url) for _ in range(2)]
    inboxes = [Inbox(), Inbox()]
    for node, inbox in zip(nodes, inboxes, strict=True):
        await node.subscribe("room.1", inbox)
    await asyncio.gather(
        *(node.publish("room.1", b"%d:%03d" % (n, i)) for i in range(100) for n, node in enumerate(nodes))
    )
    for inbox in inboxes:
        await inbox.wait(200)
    assert inboxes[0].data == inboxes[1].data
    page = await nodes[0].history("room.1", 0, 1000)
    assert [each.data for each in page.publications] == inboxes[0].data
    for number in range(2):
        own = [data for data in inboxes[0].data if data.startswith(b"%d:" % number)]
        assert own == sorted(own)
    for before, after in zip(inboxes[0].got, inboxes[0].got[1:], strict=False):
        assert after.prev == before.offset


async def test_quiet_channel_recovers_while_others_turn_over(store: Path, start_server: Start, open_node: Open) -> None:
    """A client of a channel whose last publication is too old to serve is told that it missed nothing."""
    server = await start_server(store)
    bus = await open_node(server.url)
    quiet = await bus.publish("brief.quiet", b"1")
    for number in range(1500):  # more than the count, so that the busy channel also evicts
        await bus.publish("brief.busy", b"%d" % number)
    assert quiet.offset is not None
    position = quiet.offset
    async with asyncio.timeout(patient(10)):
        while (await bus.history("brief.quiet", 0, 10)).publications:
            await asyncio.sleep(0.02)
    page = await bus.history("brief.quiet", position, 10)
    assert (page.publications, page.top) == ([], position)
    assert page.floor <= position
    fresh = await bus.publish("brief.quiet", b"2")
    page = await bus.history("brief.quiet", position, 10)
    assert [(each.offset, each.prev) for each in page.publications] == [(fresh.offset, position)]
    assert page.floor <= position


async def test_cut_page_skips_what_is_too_old(store: Path, start_server: Start, open_node: Open) -> None:
    """A small page from far back brings the oldest that is served, not an empty page or what is too old."""
    server = await start_server(store)
    bus = await open_node(server.url)
    old = [await bus.publish("brief.1", b"old %d" % number) for number in range(30)]
    async with asyncio.timeout(patient(10)):
        while (await bus.history("brief.1", 0, 100)).publications:
            await asyncio.sleep(0.02)
    page = await bus.history("brief.1", 0, 5)
    assert (page.publications, page.floor, page.top, page.more) == ([], old[-1].offset, old[-1].offset, False)
    fresh = [await bus.publish("brief.1", b"%d" % number) for number in range(8)]
    page = await bus.history("brief.1", 0, 5)
    assert [each.offset for each in page.publications] == [each.offset for each in fresh[:5]]
    assert page.more
    assert (old[-1].offset or 0) <= page.floor < (fresh[0].offset or 0)


async def test_what_the_log_no_longer_keeps_raises_the_floor(store: Path, start_server: Start, open_node: Open) -> None:
    """When even the server's log has let a channel's publications go, the page does not pretend to be complete."""
    server = await start_server(store)
    bus = await open_node(server.url, keep_s=1.0)
    first = await bus.publish("brief.1", b"1")
    assert first.offset is not None
    async with asyncio.timeout(patient(15)):
        while (await bus.history("brief.1", 0, 10)).floor < first.offset:
            await asyncio.sleep(0.05)
    page = await bus.history("brief.1", 0, 10)
    assert page.publications == []
    assert page.floor >= first.offset


async def test_live_chain_holds_over_what_the_log_lost(store: Path, start_server: Start, open_node: Open) -> None:
    """A subscriber that heard everything gets an unbroken chain, even when the server has forgotten the one before."""
    server = await start_server(store)
    bus = await open_node(server.url, keep_s=1.0)
    other = await open_node(server.url, keep_s=1.0)
    inbox = Inbox()
    await bus.subscribe("brief.1", inbox)
    first = await bus.publish("brief.1", b"1")
    await inbox.wait(1)
    async with asyncio.timeout(patient(15)):
        while (await other.history("brief.1", 0, 10)).floor < (first.offset or 0):
            await asyncio.sleep(0.05)
    await bus.publish("brief.1", b"2")
    got = await inbox.wait(2)
    assert got[1].prev == got[0].offset
    # History stays aware of what was delivered here.
    assert (await bus.history("brief.1", got[1].offset or 0, 10)).top == got[1].offset


async def test_limits_of_a_stream_can_be_changed(store: Path, start_server: Start, open_node: Open) -> None:
    """A node with other limits changes the stream and keeps its epoch and its publications."""
    server = await start_server(store)
    first = await open_node(server.url)
    published = await first.publish("room.1", b"1")
    second = await open_node(server.url, keep_s=7200.0)
    page = await second.history("room.1", 0, 10)
    assert (page.epoch, page.top) == (published.epoch, published.offset)


async def test_too_large_is_said_with_the_limit(store: Path, start_server: Start, open_node: Open) -> None:
    """A publication above the server's limit is refused for good, with both sizes, and the connection stays."""
    server = await start_server(store, max_payload=65536)
    bus = await open_node(server.url)
    with pytest.raises(BusError, match=r"70,000 bytes.*65,536") as caught:
        await bus.publish("room.1", b"x" * 70000)
    assert not isinstance(caught.value, BusUnavailable)
    assert bus.connected


async def test_secrets_are_never_shown(store: Path, start_server: Start, open_node: Open) -> None:
    """The token logs in, and neither logs nor errors hold it, whether it is right or wrong."""
    server = await start_server(store, token="s3cret-token")
    with structlog.testing.capture_logs() as logs:
        bus = await open_node(server.url)
        await bus.publish("room.1", b"1")
        wrong = await open_node(f"nats://wr0ng-token@127.0.0.1:{server.port}")
        assert not wrong.connected
        with pytest.raises(BusUnavailable) as caught:
            await wrong.publish("room.1", b"1")
    shown = f"{logs} {caught.value} {bus!r} {vars(bus)}"
    assert "check the user, password or token" in str(caught.value)
    assert "s3cret" not in shown
    assert "wr0ng" not in shown


async def test_tls_address_never_talks_in_the_clear(store: Path, start_server: Start, open_node: Open) -> None:
    """A tls:// address that leads to a server without TLS is refused before anybody logs in."""
    server = await start_server(store, token="s3cret-token")
    bus = await open_node(server.url.replace("nats://", "tls://"))
    assert not bus.connected
    with pytest.raises(BusUnavailable, match="never talks without it"):
        await bus.publish("room.1", b"1")


async def test_burst_of_a_slow_subscriber_is_complete(store: Path, start_server: Start, open_node: Open) -> None:
    """A subscriber that blocks its loop for a while misses nothing of a large burst."""
    server = await start_server(store)
    slow, fast = await open_node(server.url), await open_node(server.url)
    inbox = Inbox()

    def deliver(publication: object) -> None:
        time.sleep(0.0002)
        inbox(publication)  # type: ignore[arg-type]

    await slow.subscribe("none.1", deliver)
    for number in range(3000):
        await fast.publish("none.1", b"%d" % number + b"x" * 1000)
    await inbox.wait(3000)
    assert [int(data.rstrip(b"x")) for data in inbox.data] == list(range(3000))


async def test_closing_leaves_no_task_behind(store: Path, start_server: Start) -> None:
    """After `close` nothing of the bus runs any more, connected or not."""
    server = await start_server(store)
    before = asyncio.all_tasks()
    for url in (server.url, "nats://127.0.0.1:1"):
        bus = NatsBus(settings(url, "t"), retention_of)
        await bus.start(lambda _: None)
        await bus.close()
        await until(lambda: asyncio.all_tasks() <= before)
