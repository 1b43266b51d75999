"""What every bus must do; each test runs over each bus."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from tests.support.patience import patient
from tests.support.server.bus_probe import BusUnderTest, Inbox
from trunkline.bus.base import Bus, HistoryPage, Publication
from trunkline.errors import BusUnavailable

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def fill(bus: Bus, channel: str, count: int) -> list[int]:
    offsets = []
    for number in range(count):
        published = await bus.publish(channel, b"%d" % number)
        assert published.offset is not None
        offsets.append(published.offset)
    return offsets


def data_of(page: HistoryPage) -> list[bytes]:
    return [publication.data for publication in page.publications]


def offsets_of(publications: list[Publication]) -> list[int]:
    return [publication.offset or 0 for publication in publications]


def assert_chained(publications: list[Publication]) -> None:
    for before, after in pairwise(publications):
        assert after.prev == before.offset
        assert (after.offset or 0) > (before.offset or 0)


async def test_delivers_in_order_with_unbroken_chain(under_test: BusUnderTest) -> None:
    """Publications arrive in the order of publishing, and each names the one before it."""
    inbox = Inbox()
    await under_test.bus.subscribe("room.1", inbox)
    offsets = await fill(under_test.bus, "room.1", 50)
    got = await inbox.wait(50)
    assert inbox.data == [b"%d" % number for number in range(50)]
    assert offsets_of(got) == offsets
    assert got[0].prev == 0
    assert_chained(got)
    assert {publication.channel for publication in got} == {"room.1"}


async def test_chain_ignores_other_channels(under_test: BusUnderTest) -> None:
    """A channel's `prev` is its own last offset, however many publications other channels had in between."""
    inbox = Inbox()
    await under_test.bus.subscribe("room.a", inbox)
    for number in range(5):
        await under_test.bus.publish("room.b", b"noise")
        await under_test.bus.publish("room.a", b"%d" % number)
    assert_chained(await inbox.wait(5))
    assert inbox.data == [b"0", b"1", b"2", b"3", b"4"]


async def test_concurrent_publishes_of_one_caller_keep_their_order(under_test: BusUnderTest) -> None:
    """Publishes that are started one after the other, without waiting, are stored in that order."""
    inbox = Inbox()
    await under_test.bus.subscribe("room.1", inbox)
    published = await asyncio.gather(*(under_test.bus.publish("room.1", b"%d" % number) for number in range(200)))
    await inbox.wait(200)
    assert inbox.data == [b"%d" % number for number in range(200)]
    assert [each.offset for each in published] == offsets_of(inbox.got)


async def test_first_publishes_keep_their_order(under_test: BusUnderTest) -> None:
    """Order holds from the very first publication on, while what stores them is still being made."""
    results = await asyncio.gather(*(under_test.bus.publish("few.x", b"%d" % number) for number in range(20)))
    offsets = [each.offset or 0 for each in results]
    assert offsets == sorted(offsets)
    assert len(set(offsets)) == 20


async def test_several_subscribers_all_hear(under_test: BusUnderTest) -> None:
    """Every subscriber of a channel, in every node, gets every publication in the same order."""
    other = await under_test.node()
    inboxes = [Inbox() for _ in range(4)]
    for number, inbox in enumerate(inboxes):
        await (under_test.bus if number % 2 else other).subscribe("room.1", inbox)
    for number in range(20):
        await (other if number % 3 else under_test.bus).publish("room.1", b"%d" % number)
    for inbox in inboxes:
        await inbox.wait(20)
        assert offsets_of(inbox.got) == offsets_of(inboxes[0].got)
        assert_chained(inbox.got)


async def test_subscribed_means_nothing_after_is_missed(under_test: BusUnderTest) -> None:
    """Once `subscribe` returned, a publication of another node is delivered."""
    other = await under_test.node()
    for number in range(30):
        inbox = Inbox()
        await under_test.bus.subscribe(f"room.{number}", inbox)
        await other.publish(f"room.{number}", b"1")
        await inbox.wait(1)


async def test_one_publication_reaches_only_its_channel(under_test: BusUnderTest) -> None:
    """A channel whose name begins like another's hears nothing of it."""
    inboxes = {name: Inbox() for name in ("room", "room.1", "room.1.a", "room.10")}
    for name, inbox in inboxes.items():
        await under_test.bus.subscribe(name, inbox)
    for name in inboxes:
        await under_test.bus.publish(name, name.encode())
    for name, inbox in inboxes.items():
        await inbox.wait(1)
        assert inbox.data == [name.encode()]


async def test_every_allowed_character_in_a_name(under_test: BusUnderTest) -> None:
    """Channel names may hold all of their characters."""
    name = "azAZ09_~:@=+-.x~y.Z@1"
    inbox = Inbox()
    await under_test.bus.subscribe(name, inbox)
    await under_test.bus.publish(name, b"1")
    assert (await inbox.wait(1))[0].channel == name
    assert data_of(await under_test.bus.history(name, 0, 10)) == [b"1"]


async def test_history_is_what_was_published(under_test: BusUnderTest) -> None:
    """History equals what was delivered, with the same offsets, epoch and chain, and without origins."""
    inbox = Inbox()
    await under_test.bus.subscribe("room.1", inbox)
    for number in range(10):
        await under_test.bus.publish("room.1", b"%d" % number, origin="someone")
    live = await inbox.wait(10)
    page = await under_test.bus.history("room.1", 0, 100)
    assert data_of(page) == inbox.data
    assert offsets_of(page.publications) == offsets_of(live)
    assert [each.ts for each in page.publications] == [each.ts for each in live]
    assert {each.epoch for each in page.publications} == {page.epoch} == {each.epoch for each in live}
    assert {each.origin for each in page.publications} == {None}
    assert (page.floor, page.top, page.more) == (0, live[-1].offset, False)
    assert page.publications[0].prev == 0
    assert_chained(page.publications)


async def test_history_begins_after_the_position(under_test: BusUnderTest) -> None:
    """`after` is exclusive, and the first publication of the page links to it."""
    offsets = await fill(under_test.bus, "room.1", 10)
    page = await under_test.bus.history("room.1", offsets[3], 100)
    assert offsets_of(page.publications) == offsets[4:]
    assert page.publications[0].prev == offsets[3]
    assert page.floor <= offsets[3]


async def test_history_after_the_newest_is_empty(under_test: BusUnderTest) -> None:
    """At the newest position the page is empty, and `top` is that position."""
    offsets = await fill(under_test.bus, "room.1", 3)
    for after in (offsets[-1], offsets[-1] + 1000):
        page = await under_test.bus.history("room.1", after, 100)
        assert (page.publications, page.top, page.more) == ([], offsets[-1], False)
        assert page.floor <= offsets[-1]


async def test_history_of_an_unused_channel(under_test: BusUnderTest) -> None:
    """A channel where nothing was published has an empty history that misses nothing, and an epoch."""
    page = await under_test.bus.history("room.unused", 0, 10)
    assert (page.publications, page.floor, page.top, page.more) == ([], 0, 0, False)
    assert page.epoch
    assert (await under_test.bus.publish("room.unused", b"1")).epoch == page.epoch


async def test_limit_cuts_and_pages_join(under_test: BusUnderTest) -> None:
    """A cut page says so, and reading on from its `top` brings the rest without hole or repetition."""
    offsets = await fill(under_test.bus, "room.1", 25)
    seen: list[Publication] = []
    after = 0
    for size, more in ((10, True), (10, True), (5, False)):
        page = await under_test.bus.history("room.1", after, 10)
        assert (len(page.publications), page.more) == (size, more)
        assert page.top == page.publications[-1].offset
        assert page.floor <= after
        seen += page.publications
        after = page.top
    assert offsets_of(seen) == offsets
    assert_chained(seen)


async def test_limit_that_just_fits_has_no_more(under_test: BusUnderTest) -> None:
    """A page that holds everything is not called cut, even when it is full."""
    offsets = await fill(under_test.bus, "room.1", 10)
    assert not (await under_test.bus.history("room.1", 0, 10)).more
    assert not (await under_test.bus.history("room.1", offsets[4], 5)).more
    assert (await under_test.bus.history("room.1", offsets[4], 4)).more


async def test_limit_zero_asks_for_the_newest_offset(under_test: BusUnderTest) -> None:
    """A limit of 0 brings no publication, but the top of the channel."""
    offsets = await fill(under_test.bus, "room.1", 5)
    page = await under_test.bus.history("room.1", 0, 0)
    assert (page.publications, page.more, page.top) == ([], True, offsets[-1])


async def test_floor_rises_with_the_count(under_test: BusUnderTest) -> None:
    """What the count pushed out is gone, and the floor says exactly from where on everything is there."""
    offsets = await fill(under_test.bus, "few.1", 10)
    page = await under_test.bus.history("few.1", 0, 100)
    assert offsets_of(page.publications) == offsets[-3:]
    assert offsets[-4] <= page.floor < offsets[-3]
    # Who saw the newest one that is gone has missed nothing; who saw the one before has.
    assert (await under_test.bus.history("few.1", offsets[-4], 100)).floor <= offsets[-4]
    assert (await under_test.bus.history("few.1", offsets[-5], 100)).floor > offsets[-5]
    assert_chained(page.publications)


async def test_exactly_the_count_keeps_the_whole_history(under_test: BusUnderTest) -> None:
    """As many publications as fit are all there, in the page of a client that saw the first."""
    offsets = await fill(under_test.bus, "few.1", 3)
    page = await under_test.bus.history("few.1", offsets[0], 100)
    assert offsets_of(page.publications) == offsets[1:]
    assert page.floor <= offsets[0]


async def test_one_publication_kept(under_test: BusUnderTest) -> None:
    """A channel that keeps one publication serves the newest, and live delivery keeps its chain."""
    inbox = Inbox()
    await under_test.bus.subscribe("one.1", inbox)
    offsets = await fill(under_test.bus, "one.1", 5)
    assert_chained(await inbox.wait(5))
    page = await under_test.bus.history("one.1", 0, 10)
    assert offsets_of(page.publications) == offsets[-1:]
    assert offsets[-2] <= page.floor < offsets[-1]


async def test_floor_rises_with_age(under_test: BusUnderTest) -> None:
    """Publications that are too old are gone, the floor says so, and the top is still known."""
    bus = under_test.bus
    offsets = await fill(bus, "brief.1", 5)
    async with asyncio.timeout(patient(10)):
        while (page := await bus.history("brief.1", 0, 100)).publications:
            assert offsets_of(page.publications) == [each for each in offsets if each > page.floor]
            await asyncio.sleep(0.02)
    assert page.floor == page.top == offsets[-1]
    # A client that saw the last one missed nothing, although it is gone.
    page = await bus.history("brief.1", offsets[-1], 100)
    assert (page.publications, page.floor, page.top) == ([], offsets[-1], offsets[-1])
    # What comes now links to it.
    fresh = await bus.publish("brief.1", b"fresh")
    page = await bus.history("brief.1", offsets[-1], 100)
    assert (data_of(page), page.floor, page.publications[0].prev) == ([b"fresh"], offsets[-1], offsets[-1])
    page = await bus.history("brief.1", 0, 1)
    assert (data_of(page), page.more) == ([b"fresh"], False)
    assert offsets[-1] <= page.floor < (fresh.offset or 0)


async def test_epoch_is_stable(under_test: BusUnderTest) -> None:
    """Every publication, page and node names the same epoch."""
    other = await under_test.node()
    epochs = {(await under_test.bus.publish("room.1", b"1")).epoch for _ in range(3)}
    epochs.add((await other.publish("room.1", b"1")).epoch)
    epochs.add((await other.history("room.1", 0, 10)).epoch)
    assert len(epochs) == 1
    assert epochs.pop()


async def test_no_retention_has_no_positions(under_test: BusUnderTest) -> None:
    """A channel without retention is delivered in order, without offsets, and has no history."""
    inbox = Inbox()
    await under_test.bus.subscribe("none.1", inbox)
    for number in range(20):
        published = await under_test.bus.publish("none.1", b"%d" % number, origin="me")
        assert (published.epoch, published.offset) == (None, None)
    got = await inbox.wait(20)
    assert inbox.data == [b"%d" % number for number in range(20)]
    assert {(each.epoch, each.offset, each.prev, each.origin) for each in got} == {(None, None, None, "me")}
    assert got[0].ts > 1_600_000_000_000
    page = await under_test.bus.history("none.1", 0, 10)
    assert page == HistoryPage(None, 0, 0, [], False)


async def test_origin_reaches_live_subscribers(under_test: BusUnderTest) -> None:
    """The publisher's tag is delivered as it was given, and is None when there was none."""
    inbox = Inbox()
    await under_test.bus.subscribe("room.1", inbox)
    await under_test.bus.publish("room.1", b"1", origin="node-1:conn_42")
    await under_test.bus.publish("room.1", b"2")
    assert [each.origin for each in await inbox.wait(2)] == ["node-1:conn_42", None]


async def test_closed_subscription_is_silent(under_test: BusUnderTest) -> None:
    """After `close` nothing is delivered to this subscriber, others go on, and closing again is allowed."""
    leaving, staying = Inbox(), Inbox()
    subscription = await under_test.bus.subscribe("room.1", leaving)
    await under_test.bus.subscribe("room.1", staying)
    await under_test.bus.publish("room.1", b"1")
    await leaving.wait(1)
    await subscription.close()
    await subscription.close()
    await under_test.bus.publish("room.1", b"2")
    await staying.wait(2)
    assert leaving.data == [b"1"]


async def test_subscriber_that_raises_harms_nobody(under_test: BusUnderTest) -> None:
    """An exception in one subscriber reaches neither the publisher nor the other subscribers."""

    def faulty(_: Publication) -> None:
        raise RuntimeError("a fault of the subscriber")

    inbox = Inbox()
    await under_test.bus.subscribe("room.1", faulty)
    await under_test.bus.subscribe("room.1", inbox)
    await fill(under_test.bus, "room.1", 3)
    await inbox.wait(3)
    assert under_test.bus.connected


async def test_big_payload_survives(under_test: BusUnderTest) -> None:
    """64 KiB and bytes of every value pass unchanged, live and from history."""
    payload = bytes(range(256)) * 256
    inbox = Inbox()
    await under_test.bus.subscribe("room.1", inbox)
    await under_test.bus.publish("room.1", payload)
    await under_test.bus.publish("room.1", b"")
    await inbox.wait(2)
    assert inbox.data == [payload, b""]
    assert data_of(await under_test.bus.history("room.1", 0, 10)) == [payload, b""]


async def test_history_larger_than_one_answer(under_test: BusUnderTest) -> None:
    """A page of many megabytes is complete."""
    payload = b"x" * 65536
    await asyncio.gather(*(under_test.bus.publish("room.1", b"%d" % number + payload) for number in range(100)))
    page = await under_test.bus.history("room.1", 0, 1000)
    assert [data[:-65536] for data in data_of(page)] == [b"%d" % number for number in range(100)]
    assert (page.floor, page.more) == (0, False)


async def test_many_channels(under_test: BusUnderTest) -> None:
    """Five hundred channels are delivered each to its own subscriber."""
    inboxes = [Inbox() for _ in range(500)]
    await asyncio.gather(*(under_test.bus.subscribe(f"room.{n}", inbox) for n, inbox in enumerate(inboxes)))
    await asyncio.gather(*(under_test.bus.publish(f"room.{n}", b"%d" % n) for n in range(500)))
    for number, inbox in enumerate(inboxes):
        await inbox.wait(1)
        assert inbox.data == [b"%d" % number]


async def test_reading_while_publishing_has_no_silent_hole(under_test: BusUnderTest) -> None:
    """However fast the count pushes publications out, a page is complete above its floor."""
    stop = asyncio.Event()
    known: list[int] = []
    inbox = Inbox()
    await under_test.bus.subscribe("few.1", inbox)

    async def publish() -> None:
        while not stop.is_set():
            published = await asyncio.gather(*(under_test.bus.publish("few.1", b"x") for _ in range(20)))
            known.extend(each.offset or 0 for each in published)
            await asyncio.sleep(0)

    task = asyncio.create_task(publish())
    pages = []
    async with asyncio.timeout(patient(20)):
        # Until some page has raced with a publication, however the two take turns on this machine.
        while len(pages) < 40 or not any(page.publications for _, page in pages):
            after = known[-1] if known else 0
            pages.append((after, await under_test.bus.history("few.1", after, 100)))
            await asyncio.sleep(0)
    stop.set()
    await task
    await inbox.wait(len(known))
    for after, page in pages:
        assert offsets_of(page.publications) == [each for each in known if max(after, page.floor) < each <= page.top]
        assert_chained(page.publications)


async def test_closed_bus_refuses(under_test: BusUnderTest) -> None:
    """After `close` the bus is not connected, and every call says BusUnavailable."""
    bus = under_test.bus
    inbox = Inbox()
    subscription = await bus.subscribe("room.1", inbox)
    await bus.close()
    assert not bus.connected
    for channel in ("room.1", "none.1"):
        with pytest.raises(BusUnavailable):
            await bus.publish(channel, b"1")
    with pytest.raises(BusUnavailable):
        await bus.subscribe("room.1", inbox)
    with pytest.raises(BusUnavailable):
        await bus.history("room.1", 0, 10)
    await subscription.close()
    await bus.close()
    assert inbox.got == []
