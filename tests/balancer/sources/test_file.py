"""A watched file of backends: changes are taken over within a second, a broken file changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.balancer.told_lists import running
from tests.support.patience import patient
from trunkline.balancer.sources.file import FileSource, parse
from trunkline.balancer.sources.fixed import ListSource
from trunkline.errors import SettingsError
from trunkline.placement.backend import BackendSpec
from trunkline.settings.balancer import BackendEntry

A, B = "http://10.0.0.1:3001", "http://10.0.0.2:3001"
Logged = Callable[[str], Awaitable[Any]]


def toml(*urls: str) -> str:
    return "".join(f'[[backends]]\nurl = "{url}"\n' for url in urls) or "backends = []\n"


def replace(path: Path, text: str) -> None:
    """Put new content in place as editors and configuration tools do it."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


async def test_the_settings_list_is_told_once() -> None:
    """The listed backends are told with all that the operator wrote, and an unusable URL stops the start."""
    entry = BackendEntry("WS://Node-1:3001/", weight=2.0, group="blue", pool="m", capacity=9, health_path="/x")
    async with running(ListSource([entry])) as lists:
        assert await lists.until_urls("http://node-1:3001") == (
            BackendSpec("http://node-1:3001", 2.0, "blue", "m", 9, "/x", source="list"),
        )
    with pytest.raises(SettingsError, match=r"balancer.backends\[0\].url"):
        ListSource([BackendEntry("http://node-1:99999")])


@pytest.mark.parametrize("how", ["in place", "replaced"])
async def test_a_change_is_told_within_a_second(tmp_path: Path, how: str) -> None:
    """Both ways of changing a file are noticed, with every key taken over."""
    path = tmp_path / "backends.toml"
    path.write_text(toml(A))
    async with running(FileSource(path)) as lists:
        await lists.until_urls(A, within_s=5)
        text = f'{toml(A)}[[backends]]\nurl = "{B}"\nweight = 0.5\ngroup = "green"\npool = "m"\ncapacity = 7\n'
        began = time.monotonic()
        if how == "in place":
            path.write_text(text)
        else:
            replace(path, text)
        specs = await lists.until_urls(A, B, within_s=5)
        assert time.monotonic() - began < patient(1.0)
    assert specs[1] == BackendSpec(B, 0.5, "green", "m", 7, source="file")
    assert len(lists.all) == 2


async def test_a_change_that_leaves_time_and_size_alike_is_seen(tmp_path: Path) -> None:
    """A second write within the clock step of a file system changes neither, so a young file's content is compared."""
    path = tmp_path / "backends.toml"
    path.write_text(toml(A))
    before = path.stat()
    async with running(FileSource(path)) as lists:
        await lists.until_urls(A)
        with path.open("r+") as file:
            file.write(toml(B))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_ino) == (before.st_size, before.st_ino)
        await lists.until_urls(B)


async def test_a_broken_file_keeps_the_list_and_says_where(tmp_path: Path, logged: Logged, lines: list[Any]) -> None:
    """The reason is logged once with its line; the repaired file is taken over."""
    path = tmp_path / "backends.toml"
    path.write_text(toml(A))
    async with running(FileSource(path, poll_s=0.02)) as lists:
        await lists.until_urls(A)
        replace(path, f'{toml(A)}[[backends]]\nurl = "{B}"\nwieght = 2\n')
        line = await logged("backends_file_unusable")
        assert "backends[1].wieght (backends.toml line 5)" in line["why"]
        assert "did you mean weight?" in line["why"]
        assert line["keeps_backends"] == 1
        await asyncio.sleep(0.2)
        assert [line["event"] for line in lines].count("backends_file_unusable") == 1
        assert lists.urls == [A]
        replace(path, toml(B))
        await lists.until_urls(B)


async def test_a_half_written_file_is_not_taken_for_whole(tmp_path: Path, logged: Logged) -> None:
    """A writer that empties the file and stops midway never empties the fleet."""
    path = tmp_path / "backends.toml"
    path.write_text(toml(A, B))
    async with running(FileSource(path, poll_s=0.02)) as lists:
        await lists.until_urls(A, B)
        with path.open("w") as file:
            await logged("backends_file_unusable")
            file.write('[[backends]]\nurl = "http://10.0')
            file.flush()
            await asyncio.sleep(0.1)
            assert lists.all == [lists.last]
            file.write('.0.3:3001"\n')
        await lists.until_urls("http://10.0.0.3:3001")


async def test_a_file_that_goes_away_keeps_the_list(tmp_path: Path, logged: Logged) -> None:
    """Without the file the list stays; the same file again is read again, and only an empty list empties it."""
    path = tmp_path / "backends.json"
    path.write_text(json.dumps({"backends": [{"url": A}]}))
    async with running(FileSource(path, poll_s=0.02)) as lists:
        await lists.until_urls(A)
        path.unlink()
        assert "No such file" in (await logged("backends_file_unusable"))["why"]
        path.write_text(json.dumps({"backends": [{"url": A}]}))
        await logged("backends_file_read")
        replace(path, '{"backends": []}')
        await lists.until_urls()
        assert lists.all == [lists.all[0], ()]


async def test_a_file_that_is_not_there_yet(tmp_path: Path, logged: Logged) -> None:
    """The balancer starts without it, with an empty list and a log line, and takes it when it appears."""
    path = tmp_path / "later.toml"
    async with running(FileSource(path, poll_s=0.02)) as lists:
        await lists.until_urls()
        await logged("backends_file_unusable")
        path.write_text(toml(A))
        await lists.until_urls(A)


async def test_a_pipe_is_refused(tmp_path: Path, logged: Logged) -> None:
    """Reading a pipe would wait for ever; it is refused by name."""
    path = tmp_path / "backends.toml"
    os.mkfifo(path)
    async with running(FileSource(path, poll_s=0.02)):
        assert (await logged("backends_file_unusable"))["why"] == "it is no regular file"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("b.toml", "", "it is empty; write backends = []"),
        ("b.toml", "# only words\n", "it has no [[backends]]"),
        ("b.toml", '[[backends]]\nurl = "x', "valid TOML: Unterminated string (at end of document, line 2)"),
        ("b.toml", '[[backend]]\nurl = "http://a:1"', "line 1) cannot be used; only backends is known here"),
        ("b.toml", "backends = 3", "it must be a list of tables"),
        ("b.toml", "backends = [3]", "setting backends[0] (b.toml line 1): '3' cannot be used"),
        ("b.toml", "[[backends]]\nweight = 1", "setting backends[0] (b.toml line 1) cannot be used; it has no url"),
        ("b.toml", '[[backends]]\nurl = "http://a:99999"', "backends[0].url (b.toml line 2): 'http://a:99999'"),
        ("b.toml", '[[backends]]\nurl = "a:1"', "backends[0].url (b.toml line 2): 'a:1' cannot be used"),
        ("b.toml", '[[backends]]\nurl = "http://a:1"\nweight = nan', "backends[0].weight (b.toml line 3)"),
        ("b.toml", '[[backends]]\nurl = "http://a:1"\nweight = 1001', "backends[0].weight (b.toml line 3): '1001'"),
        ("b.toml", '[[backends]]\nurl = "http://a:1"\ncapacity = "many"', "capacity (b.toml line 3): 'many'"),
        ("b.json", "[]", "it must be an object"),
        ("b.json", '{"backends": [\n{"url": }]}', "it is not valid JSON: Expecting value (line 2)"),
        ("b.json", '{"backends": [\n{"url": "http://a:1"},\n{"url": "b"}]}', "backends[1].url (b.json line 3): 'b'"),
        ("b.json", '{"backends": [{"url": "http://a:1",\n"gruop": 1}]}', "backends[0].gruop (b.json line 2)"),
        ("b.json", "[" * 100_000, "it is not valid JSON"),
        ("b.json", f'{{"backends": {"9" * 5000}}}', "it is not valid JSON"),
    ],
)  # fmt: skip
def test_every_mistake_names_its_place(file: str, text: str, said: str) -> None:
    """File, line, key, value and what would have been right."""
    with pytest.raises(SettingsError) as caught:
        parse(text.encode(), file)
    assert said in str(caught.value)


def test_bytes_that_are_no_text() -> None:
    """A file in another encoding is refused with the line; a byte order mark is no mistake."""
    with pytest.raises(SettingsError, match=r"not UTF-8 text \(line 2\)"):
        parse(b"# a\n# \xff\n", "b.toml")
    assert parse(b"\xef\xbb\xbfbackends = []\n", "b.toml") == ()
