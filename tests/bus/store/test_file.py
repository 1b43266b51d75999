"""What only the store in files has to stand: other processes, one that is killed in the middle, unusable files."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.patience import patient
from tests.support.server.store_probe import Seen
from trunkline.bus.store import directory
from trunkline.bus.store.file import FileStore
from trunkline.errors import BusCannotStore, BusUnavailable, Changed

WRITER = """
import asyncio, sys
from pathlib import Path
from trunkline.bus.store.file import FileStore

async def main():
    store = FileStore(Path(sys.argv[1]))
    while True:
        print(await store.put(sys.argv[2], b"x" * 100_000, None), flush=True)

asyncio.run(main())
"""


async def writer(store: Path, key: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(store), key, stdout=asyncio.subprocess.PIPE
    )


async def test_processes_share_it_and_one_that_is_killed_leaves_it_whole(tmp_path: Path) -> None:
    """Two other processes write and are killed in the middle: revisions stay unique, files whole, and the lock free."""
    fleet_store, seen = FileStore(tmp_path / "store"), Seen()
    await fleet_store.watch("", seen)
    writers = [await writer(tmp_path / "store", key) for key in ("a", "b")]
    try:
        async with asyncio.timeout(patient(20)):
            await seen.until(lambda seen: seen.now.keys() == {"a", "b"})
            mine = [await fleet_store.put("mine", b"1", None) for _ in range(20)]
    finally:
        for each in writers:
            each.send_signal(signal.SIGKILL)
    printed = [(await each.communicate())[0].split() for each in writers]
    acknowledged = [[int(line) for line in lines] for lines in printed]
    every = sorted(mine + acknowledged[0] + acknowledged[1])
    assert every == sorted(set(every))
    for key, theirs in zip(("a", "b"), acknowledged, strict=True):
        entry = await fleet_store.get(key)
        assert entry is not None
        assert entry.value == b"x" * 100_000
        assert entry.revision >= theirs[-1]
    assert await fleet_store.put("mine", b"2", mine[-1]) > every[-1]
    await seen.until(lambda seen: seen.now.get("mine") == b"2")
    await fleet_store.close()


async def test_it_outlives_its_process(tmp_path: Path) -> None:
    """Whoever opens the directory later finds the same entries, and goes on with higher revisions."""
    first = FileStore(tmp_path / "deep" / "store")
    revision = await first.put("traffic", b"1", 0)
    await first.close()
    second = FileStore(tmp_path / "deep" / "store")
    entry = await second.get("traffic")
    assert entry is not None
    assert entry.revision == revision
    assert await second.put("traffic", b"2", revision) > revision
    (tmp_path / "deep" / "store" / "revision").unlink()
    third = await second.put("other", b"1", 0)
    assert third > revision + 1
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "deep" / "store").iterdir()} == {0}


async def test_a_lock_that_is_not_released_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stands still with the lock fails writes after a while; reading goes on."""
    monkeypatch.setattr(directory, "LOCK_S", 0.05)
    fleet_store = FileStore(tmp_path)
    await fleet_store.put("a", b"1", 0)
    lock = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(BusUnavailable, match="lock"):
        await fleet_store.put("a", b"2", None)
    entry = await fleet_store.get("a")
    assert entry is not None
    assert entry.value == b"1"
    os.close(lock)
    await fleet_store.put("a", b"2", entry.revision)


async def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """A file that holds no entry, and a directory that is none, fail with their path."""
    fleet_store = FileStore(tmp_path)
    (tmp_path / "traffic.entry").write_text("{}")
    with pytest.raises(BusCannotStore, match=r"traffic\.entry.*remove it"):
        await fleet_store.get("traffic")
    (tmp_path / "file").write_text("")
    with pytest.raises(BusCannotStore, match="file/store"):
        await FileStore(tmp_path / "file" / "store").put("a", b"1", 0)


async def test_a_watcher_is_given_what_could_not_be_read_before(tmp_path: Path) -> None:
    """While an entry cannot be read its watcher is given nothing; once it can, it is given what is there."""
    fleet_store, seen = FileStore(tmp_path), Seen()
    (tmp_path / "traffic.entry").write_text("{}")
    await fleet_store.watch("traffic", seen)
    assert seen.got == []
    (tmp_path / "traffic.entry").write_text("7\n{}")
    await seen.until(lambda seen: seen.got == [("traffic", b"{}")])
    with pytest.raises(Changed):
        await fleet_store.put("traffic", b"1", 0)
    await fleet_store.close()
