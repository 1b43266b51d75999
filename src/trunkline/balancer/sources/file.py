"""Backends in a file that is watched: TOML with `[[backends]]` tables, or JSON `{"backends": [...]}`.

Facts:

- A table has the keys of [[balancer.backends]]: url, weight, group, pool, capacity, health_path. A name that ends in
  `.json` is JSON, any other TOML.
- A change is taken over within a second, whether the file is written in place or replaced by renaming another over it.
- A file that cannot be read or does not fit changes nothing: the last list holds, and one log line has the reason with
  its line. An empty file counts as broken, for so looks a file that somebody has just begun to write; `backends = []`
  says that there are none.

Why polling: watching a directory misses nothing either, but not on network file systems and not through the bind mounts
of containers, where such files live; and it needs a dependency. One stat every fifth of a second costs nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import structlog

from trunkline.balancer.sources.base import Update
from trunkline.balancer.sources.fixed import spec_of
from trunkline.errors import SettingsError
from trunkline.placement.backend import BackendSpec
from trunkline.settings.balancer import BackendEntry
from trunkline.settings.fields import Field, shown
from trunkline.settings.reading.spelling import nearest
from trunkline.settings.reading.toml_places import toml_lines

log = structlog.get_logger("trunkline.balancer")

MAX_BYTES = 4 * 1024 * 1024
_POLL_S = 0.2
# A file system may keep times in steps of up to two seconds (FAT, some network ones), so a second write within the same
# step can leave time and size as they were. While a file is this young its content is compared, not only its stamp.
_YOUNG_S = 2.5


class _Stamp(NamedTuple):
    modified_ns: int
    size: int
    inode: int


class FileSource:
    """The backends of one watched file, which may appear later."""

    def __init__(self, path: Path, *, poll_s: float = _POLL_S) -> None:
        self._path = path
        self._poll_s = poll_s
        self._specs: tuple[BackendSpec, ...] | None = None
        self._problem = ""

    async def run(self, update: Update) -> None:
        """Read the file and give its backends, again at each change, until cancelled."""
        seen: _Stamp | None = None
        taken: _Stamp | None = None
        content: bytes | None = None
        while True:
            try:
                stamp = await asyncio.to_thread(_stamp, self._path)
                # Whoever writes in place is given one look's time to finish: only what stood still is read. The first
                # look does not wait, for there the balancer has nothing else to go by.
                settled = stamp == seen or self._specs is None
                seen = stamp
                # By the wall clock, as file times are; one that was set back only means more reading.
                young = time.time() - stamp.modified_ns / 1e9 < _YOUNG_S
                if settled and (stamp != taken or young):
                    fresh = await asyncio.to_thread(_read, self._path)
                    if await asyncio.to_thread(_stamp, self._path) == stamp:
                        taken = stamp
                        if fresh != content:
                            content = fresh
                            self._take(fresh, update)
            except OSError as error:
                seen = taken = content = None
                self._fail(f"{error.strerror or error}", update)
            except ValueError as error:
                taken, content = seen, None
                self._fail(str(error), update)
            await asyncio.sleep(self._poll_s)

    def _take(self, content: bytes, update: Update) -> None:
        try:
            specs = parse(content, self._path.name)
        except SettingsError as error:
            self._fail(str(error), update)
            return
        recovered, self._problem = bool(self._problem), ""
        if specs != self._specs or recovered:
            log.info("backends_file_read", file=str(self._path), backends=len(specs))
        if specs != self._specs:
            self._specs = specs
            update(specs)

    def _fail(self, why: str, update: Update) -> None:
        if why != self._problem:
            self._problem = why
            keeps = len(self._specs or ())
            log.error("backends_file_unusable", file=str(self._path), why=why, keeps_backends=keeps)
        if self._specs is None:
            self._specs = ()
            update(())


def _stamp(path: Path) -> _Stamp:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file")  # reading a pipe would wait for ever
    return _Stamp(found.st_mtime_ns, found.st_size, found.st_ino)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES:,} bytes; split the fleet or find its backends by DNS")
    return content


def parse(content: bytes, file: str) -> tuple[BackendSpec, ...]:
    """The backends that a file lists, JSON by its name or TOML; raises SettingsError that names the line if known."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(file, allowed=f"it is not UTF-8 text (line {line})") from None
    if not text.strip():
        raise SettingsError(file, allowed="it is empty; write backends = [] when there are none")
    if file.lower().endswith(".json"):
        tables, lines = _load_json(text, file)
    else:
        tables, lines = _load_toml(text, file)
    for name in tables:
        if name != "backends":
            raise _error(name, file, lines, "only backends is known here", near=nearest(name, _TOP))
    if "backends" not in tables:
        raise SettingsError(file, allowed="it has no [[backends]]; write backends = [] when there are none")
    entries = tables["backends"]
    if not isinstance(entries, list):
        raise _error("backends", file, lines, "it must be a list of tables, written [[backends]]")
    return tuple(_entry(entry, f"backends[{index}]", file, lines) for index, entry in enumerate(entries))


_TOP = ("backends",)
_KEYS = tuple(field.name for field in msgspec.structs.fields(BackendEntry))


def _load_toml(text: str, file: str) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        return tomllib.loads(text), toml_lines(text)
    except (ValueError, RecursionError) as error:
        why = str(error).replace("at end of document", f"at end of document, line {len(text.splitlines())}")
        raise SettingsError(file, allowed=f"it is not valid TOML: {why}") from None


def _load_json(text: str, file: str) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(file, allowed=f"it is not valid JSON: {error.msg} (line {error.lineno})") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(file, allowed=f"it is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise SettingsError(file, allowed='it must be an object: {"backends": [...]}')
    return found, _json_lines(text)


def _entry(table: object, key: str, file: str, lines: dict[str, int]) -> BackendSpec:
    if not isinstance(table, dict):
        raise _error(key, file, lines, "it must be a table with url and more", value=shown(table))
    values = {}
    for name, raw in table.items():
        full = f"{key}.{name}"
        if name not in _KEYS:
            known = f"there is no such key; known: {', '.join(_KEYS)}"
            raise _error(full, file, lines, known, near=nearest(name, _KEYS))
        field = Field.of(BackendEntry, name)
        try:
            values[name] = field.convert(raw, textual=False)
        except (ValueError, TypeError):
            allowed = f"allowed: {field.allowed}"
            raise _error(full, file, lines, allowed, value=shown(raw)) from None
    if "url" not in values:
        raise _error(key, file, lines, "it has no url")
    try:
        return spec_of(msgspec.convert(values, BackendEntry), "file")
    except ValueError as error:
        raise _error(f"{key}.url", file, lines, str(error), value=shown(values["url"])) from None


def _error(
    key: str, file: str, lines: dict[str, int], allowed: str, *, value: str | None = None, near: str | None = None
) -> SettingsError:
    entry = key.rpartition(".")[0]
    line = next((lines[place] for place in (key, entry, key.partition("[")[0]) if place in lines), None)
    source = f"{file} line {line}" if line else file
    return SettingsError(key, value=value, allowed=allowed, nearest=near, source=source)


def _json_lines(text: str) -> dict[str, int]:
    """The lines on which the entries of `backends` and their keys stand; for messages only, of valid JSON."""
    places: dict[str, int] = {}
    start = re.search(r'"backends"\s*:\s*\[', text)
    if start is None:
        return places
    decoder = json.JSONDecoder()
    at, index = start.end(), 0
    while (item := re.compile(r"[\s,]*(?=[^\s,\]])").match(text, at)) is not None:
        begin = item.end()
        _, at = decoder.raw_decode(text, begin)
        places[f"backends[{index}]"] = text.count("\n", 0, begin) + 1
        for name in re.finditer(r'"([^"\\]+)"\s*:', text[begin:at]):
            places.setdefault(f"backends[{index}].{name[1]}", text.count("\n", 0, begin + name.start()) + 1)
        index += 1
    return places
