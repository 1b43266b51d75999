"""A directory that holds entries of the store, one file each; every call may wait for the disk.

Rules:

- A file has the revision, a line end, and the value. It is put in its place whole, after it and before its name are on
  the disk, so that neither a crash nor a reader sees half of one.
- Writers hold the lock of the directory, one at a time over all processes; it ends with its holder.
- The last revision that was given out stands in a file of its own, written before the entry: no revision is ever used
  twice, and whoever looks for changes reads this one file. It reads entries under the lock, so that a write under way
  is either not begun or complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from trunkline.bus.base import Entry
from trunkline.errors import BusCannotStore, BusUnavailable, Changed

LOCK_S: Final = 2.0
"""Longest wait for another process that writes."""

_LOOK_S: Final = 0.005
_SUFFIX: Final = ".entry"
_LAST: Final = "revision"
_FRESH: Final = "fresh"
_LOCK: Final = "lock"


class Directory:
    """The entries in one directory, which is made by the first write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, key: str) -> Entry | None:
        """The entry of a key; raises BusUnavailable, BusCannotStore for a file that is none."""
        data = self._data(key + _SUFFIX)
        if data is None:
            return None
        revision, _, value = data.partition(b"\n")
        if not revision.isdigit():
            raise BusCannotStore(f"{self._path / (key + _SUFFIX)} does not begin with a revision: remove it")
        return Entry(key, value, int(revision))

    def keys(self) -> list[str]:
        """The keys there are, sorted; raises BusUnavailable."""
        try:
            names = os.listdir(self._path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BusUnavailable(f"{self._path} cannot be read: {error.strerror}") from error
        return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))

    def change(self, key: str, value: bytes | None, expect: int | None) -> int:
        """Write a key, or with None remove it, and return the new revision.

        Raises:
            Changed: the key has another revision than `expect`.
            BusUnavailable: another process does not let go of the lock.
            BusCannotStore: the directory cannot be written.
        """
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked(fcntl.LOCK_EX):
                entry = self.read(key)
                found = entry.revision if entry is not None else 0
                if expect is not None and expect != found:
                    raise Changed(key, expect, found)
                revision = self._last() + 1
                self._place(_LAST, b"%d" % revision)
                if value is not None:
                    self._place(key + _SUFFIX, b"%d\n%b" % (revision, value))
                else:
                    (self._path / (key + _SUFFIX)).unlink(missing_ok=True)
                    self._sync()
                return revision
        except OSError as error:
            raise BusCannotStore(f"{self._path} cannot be written: {error.strerror}") from error

    def mark(self) -> tuple[int, int]:
        """Changes with each write; raises BusUnavailable."""
        try:
            stat = os.stat(self._path / _LAST)
        except FileNotFoundError:
            return 0, 0
        except OSError as error:
            raise BusUnavailable(f"{self._path} cannot be read: {error.strerror}") from error
        return stat.st_ino, stat.st_mtime_ns

    def snapshot(self, wanted: Callable[[str], bool]) -> tuple[tuple[int, int], list[Entry]]:
        """The mark and all wanted entries of one moment between two writes; raises BusUnavailable."""
        try:
            with self._locked(fcntl.LOCK_SH):
                entries = (self.read(key) for key in self.keys() if wanted(key))
                return self.mark(), [entry for entry in entries if entry is not None]
        except FileNotFoundError:
            return (0, 0), []
        except OSError as error:
            raise BusUnavailable(f"{self._path} cannot be read: {error.strerror}") from error

    def _data(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BusUnavailable(f"{self._path / name} cannot be read: {error.strerror}") from error

    def _last(self) -> int:
        data = self._data(_LAST)
        if data is not None and data.isdigit():
            return int(data)
        # Somebody removed the file: no revision below those in use.
        entries = (self.read(key) for key in self.keys())
        return max((entry.revision for entry in entries if entry is not None), default=0)

    def _place(self, name: str, data: bytes) -> None:
        fresh = self._path / _FRESH  # one name, so that a crash leaves one file at most
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path / name)
        self._sync()

    def _sync(self) -> None:
        """Have names on the disk."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        lock = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            ends = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(lock, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > ends:
                        raise BusUnavailable(
                            f"another process has held {self._path / _LOCK} for {LOCK_S:g} s"
                        ) from None
                    time.sleep(_LOOK_S)
            yield
        finally:
            os.close(lock)
