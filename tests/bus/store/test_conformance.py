"""What every store must do; each test runs over each store."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.server.store_probe import Seen, StoreUnderTest
from trunkline.bus.store.keys import KEY_CHARS, VALUE_BYTES
from trunkline.errors import BusError, Changed

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_empty_store_holds_nothing(under_test: StoreUnderTest) -> None:
    """Nothing is there before the first write, and reading makes nothing."""
    assert await under_test.store.get("traffic") is None
    assert await under_test.store.keys() == ()


async def test_what_was_written_is_read_by_everybody(under_test: StoreUnderTest) -> None:
    """A write that returned is seen by whoever reads next, with the revision that it returned."""
    other = await under_test.other()
    for number in range(20):
        revision = await under_test.store.put("traffic", b"%d" % number, None)
        entry = await other.get("traffic")
        assert entry is not None
        assert (entry.key, entry.value, entry.revision) == ("traffic", b"%d" % number, revision)


async def test_revisions_grow_over_all_keys(under_test: StoreUnderTest) -> None:
    """Each write gets a higher revision than every write before it, of whatever key, removals included."""
    store = under_test.store
    revisions = [await store.put(key, b"1", None) for key in ("a", "b", "a")]
    await store.delete("a", None)
    revisions.append(await store.put("a", b"2", 0))
    assert revisions == sorted(set(revisions))


async def test_a_write_lands_over_the_expected_revision_alone(under_test: StoreUnderTest) -> None:
    """With another revision there nothing is written, and the error names the one that is there."""
    store = under_test.store
    first = await store.put("traffic", b"1", 0)
    second = await store.put("traffic", b"2", first)
    for expect in (0, first, second + 1):
        with pytest.raises(Changed) as caught:
            await store.put("traffic", b"3", expect)
        assert caught.value.revision == second
    with pytest.raises(Changed) as caught:
        await store.put("deploy", b"1", 7)
    assert caught.value.revision == 0
    entry = await store.get("traffic")
    assert entry is not None
    assert (entry.value, entry.revision) == (b"2", second)
    assert await store.get("deploy") is None


async def test_of_those_who_write_over_one_revision_one_wins(under_test: StoreUnderTest) -> None:
    """Of many writers that saw the same, exactly one writes; the others are refused, and the winner's value stands."""
    stores = [await under_test.other() for _ in range(4)]
    seen = await under_test.store.put("deploy", b"", 0)
    for round_ in range(5):
        writes = (stores[number % 4].put("deploy", b"%d.%d" % (round_, number), seen) for number in range(12))
        results = await asyncio.gather(*writes, return_exceptions=True)
        won = [(number, each) for number, each in enumerate(results) if isinstance(each, int)]
        assert len(won) == 1
        assert all(isinstance(each, Changed) for each in results if not isinstance(each, int))
        number, seen = won[0]
        entry = await under_test.store.get("deploy")
        assert entry is not None
        assert (entry.value, entry.revision) == (b"%d.%d" % (round_, number), seen)


async def test_of_a_write_and_a_removal_over_one_revision_one_wins(under_test: StoreUnderTest) -> None:
    """A key is not removed under a writer that changed it meanwhile, nor written by one whose entry was removed."""
    stores = [await under_test.other() for _ in range(4)]
    for _ in range(8):
        seen = await under_test.store.put("deploy", b"0", None)
        attempts = (
            stores[number].put("deploy", b"1", seen) if number % 2 else stores[number].delete("deploy", seen)
            for number in (0, 1, 2, 3)
        )  # fmt: skip
        results = await asyncio.gather(*attempts, return_exceptions=True)
        won = [each for each in results if not isinstance(each, BaseException)]
        assert len(won) == 1
        entry = await under_test.store.get("deploy")
        assert (entry.revision if entry is not None else None) == won[0]


async def test_a_removed_key_is_one_that_is_not_there(under_test: StoreUnderTest) -> None:
    """After its removal a key is absent for reading, listing and writing; its old revision is worth nothing."""
    store, other = under_test.store, await under_test.other()
    first = await store.put("deploys.1", b"1", 0)
    await store.delete("deploys.1", first)
    assert await other.get("deploys.1") is None
    assert await other.keys("deploys.") == ()
    with pytest.raises(Changed) as caught:
        await other.put("deploys.1", b"2", first)
    assert caught.value.revision == 0
    await store.delete("deploys.1", None)
    await store.delete("deploys.1", 0)
    with pytest.raises(Changed):
        await store.delete("deploys.1", first)
    again = await other.put("deploys.1", b"3", 0)
    with pytest.raises(Changed) as caught:
        await store.delete("deploys.1", first)
    assert caught.value.revision == again
    entry = await store.get("deploys.1")
    assert entry is not None
    assert entry.value == b"3"


async def test_keys_are_listed_by_how_they_begin(under_test: StoreUnderTest) -> None:
    """The keys come sorted; of a prefix all that begin so, whether or not it ends with a dot."""
    for key in ("deploys.b", "deploy", "deploys.a", "versions.x.y", "A-1_z"):
        await under_test.store.put(key, b"1", 0)
    other = await under_test.other()
    assert await other.keys() == ("A-1_z", "deploy", "deploys.a", "deploys.b", "versions.x.y")
    assert await other.keys("deploys.") == ("deploys.a", "deploys.b")
    assert await other.keys("deploy") == ("deploy", "deploys.a", "deploys.b")
    assert await other.keys("nothing.") == ()


async def test_values_are_kept_byte_by_byte(under_test: StoreUnderTest) -> None:
    """Any bytes come back as they were, from none at all to the longest value, under the longest key."""
    key = ".".join(["k" * 66] * 3)[:KEY_CHARS]
    other = await under_test.other()
    for value in (b"", b"\n", b"0\n1\r\n\0\xff", bytes(range(256)) * (VALUE_BYTES // 256)):
        revision = await under_test.store.put(key, value, None)
        entry = await other.get(key)
        assert entry is not None
        assert entry.value == value
        assert entry.revision == revision
        assert await other.keys() == (key,)


async def test_what_no_store_takes_is_refused(under_test: StoreUnderTest) -> None:
    """Keys of other characters and values that are too long are refused before anything is written."""
    for key in ("", ".", "a.", ".a", "a..b", "a b", "a/b", "../a", "a*", "a.>", "ä", "a\n", "k" * (KEY_CHARS + 1)):
        with pytest.raises(ValueError, match="of the store"):
            await under_test.store.put(key, b"1", None)
        with pytest.raises(ValueError, match="of the store"):
            await under_test.store.get(key)
    for prefix in ("*", ".a", "a..", ">"):
        with pytest.raises(ValueError, match="of the store"):
            await under_test.store.watch(prefix, Seen())
    with pytest.raises(BusError, match="524,288"):
        await under_test.store.put("a", b"x" * (VALUE_BYTES + 1), None)
    assert await under_test.store.keys() == ()


async def test_a_watcher_of_a_key_is_given_what_is_there_and_each_change(under_test: StoreUnderTest) -> None:
    """What is there is given before `watch` returns; then each change, by whomever, with its revision."""
    store, other = under_test.store, await under_test.other()
    await store.put("deploy", b"0", 0)
    await store.put("deploys.1", b"not meant", 0)
    seen = Seen()
    await store.watch("deploy", seen)
    assert seen.got == [("deploy", b"0")]
    for number in range(1, 6):
        revision = await (store if number % 2 else other).put("deploy", b"%d" % number, None)
        await other.put("deploys.1", b"%d" % number, None)
        await seen.until(lambda seen, count=number + 1: len(seen.got) == count)  # type: ignore[misc]
        entry = seen.entries[-1][1]
        assert entry is not None
        assert entry.revision == revision
    assert seen.got == [("deploy", b"%d" % number) for number in range(6)]
    await other.delete("deploy", None)
    await seen.until(lambda seen: seen.now == {})
    await store.put("deploy", b"6", 0)
    await seen.until(lambda seen: seen.now == {"deploy": b"6"})
    assert seen.got[6:] == [("deploy", None), ("deploy", b"6")]


async def test_each_watcher_of_a_store_is_given_what_is_there(under_test: StoreUnderTest) -> None:
    """One that comes later is given it too, and nobody is given it again."""
    await under_test.store.put("deploy", b"1", 0)
    watchers = [Seen() for _ in range(3)]
    for seen in watchers:
        await under_test.store.watch("deploy", seen)
        assert seen.got == [("deploy", b"1")]
    await under_test.store.put("deploy", b"2", None)
    for seen in watchers:
        await seen.until(lambda seen: seen.now == {"deploy": b"2"})
        assert seen.got == [("deploy", b"1"), ("deploy", b"2")]


async def test_a_watcher_of_a_key_hears_that_it_is_not_there(under_test: StoreUnderTest) -> None:
    """That nothing is there is said once, so that it differs from a store that was not read yet."""
    seen = Seen()
    await under_test.store.watch("traffic", seen)
    assert seen.got == [("traffic", None)]
    await (await under_test.other()).put("other", b"1", 0)
    await under_test.store.put("traffic", b"1", 0)
    await seen.until(lambda seen: seen.now == {"traffic": b"1"})
    assert seen.got == [("traffic", None), ("traffic", b"1")]


async def test_a_watcher_of_a_prefix_is_given_all_below(under_test: StoreUnderTest) -> None:
    """All keys below are given, in the order in which they were written, and none that begins otherwise."""
    store, other = under_test.store, await under_test.other()
    for key in ("versions.b", "versions.a", "versions", "traffic"):
        await store.put(key, b"0", 0)
    below, everything = Seen(), Seen()
    await store.watch("versions.", below)
    await other.watch("", everything)
    assert below.got == [("versions.b", b"0"), ("versions.a", b"0")]
    assert [key for key, _ in everything.got] == ["versions.b", "versions.a", "versions", "traffic"]
    await other.delete("versions.b", None)
    await other.put("versions.c", b"1", 0)
    for seen in (below, everything):
        await seen.until(lambda seen: "versions.c" in seen.now and "versions.b" not in seen.now)
    assert below.now == {"versions.a": b"0", "versions.c": b"1"}


async def test_many_changes_end_with_the_last_one(under_test: StoreUnderTest) -> None:
    """However fast a key changes, its watchers are never given an older value after a newer one, and get the last."""
    other = await under_test.other()
    seen, late = Seen(), Seen()
    await under_test.store.watch("deploy", seen)
    for number in range(100):
        revision = await other.put("deploy", b"%d" % number, None)
        if number == 50:
            await other.watch("deploy", late)
    for watcher in (seen, late):
        await watcher.until(lambda seen: seen.now == {"deploy": b"99"})
        revisions = [entry.revision for _, entry in watcher.entries if entry is not None]
        assert revisions == sorted(set(revisions))
        assert revisions[-1] == revision


async def test_a_closed_watch_is_given_nothing(under_test: StoreUnderTest) -> None:
    """After `close`, which may come twice, a watcher is given nothing more; others are."""
    closed, open_ = Seen(), Seen()
    subscription = await under_test.store.watch("a", closed)
    await under_test.store.watch("a", open_)
    await subscription.close()
    await subscription.close()
    await under_test.store.put("a", b"1", None)
    await open_.until(lambda seen: seen.now == {"a": b"1"})
    assert closed.got == [("a", None)]


async def test_a_watcher_that_fails_harms_nobody(under_test: StoreUnderTest) -> None:
    """An exception of one watcher neither fails the writer nor keeps others from hearing."""

    def faulty(key: str, entry: object) -> None:
        raise RuntimeError(key)

    seen = Seen()
    await under_test.store.watch("a", faulty)
    await under_test.store.watch("a", seen)
    for number in range(3):
        await under_test.store.put("a", b"%d" % number, None)
    await seen.until(lambda seen: seen.now == {"a": b"2"})
