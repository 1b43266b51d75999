"""Log files: rotated at midnight UTC and at a size, compressed, kept for some days; errors apart and for longer.

Rules:

- Each process writes files of its own, held by a lock. What processes left that have ended is kept for its days, no
  longer: whoever rotates looks after it.
- A record begins on a line of its own, also after one that was written in part, by whatever process.
- Somebody else may rotate the file too, by moving it away or by emptying it: it is then begun again.
- Rotated files are compressed in a thread of their own, as that takes longer than an event loop may pause.
- Nothing here raises into the caller of a log method.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from logging.handlers import BaseRotatingHandler
from pathlib import Path

from trunkline.errors import StartError
from trunkline.process.locks import take_lock
from trunkline.settings.sections import LogSettings

FILE_NAME = "trunkline"
DAY_S = 86_400.0
LINE_END = 10
MAX_PROCESSES = 64
"""Processes of one machine that may write into one directory; each has files of its own."""


class Complaint:
    """Reports on standard error that lines are being lost, at most once a minute."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def make(self, where: str, error: BaseException | None) -> None:
        """Complain that `where` cannot be written."""
        now = time.monotonic()
        if now - self._last < 60.0:
            return
        self._last = now
        with contextlib.suppress(OSError, ValueError):
            print(f"trunkline: log lines are lost, {where} cannot be written: {error!r}", file=sys.stderr)


class LineFile:
    """A file to which whole lines are appended, without a buffer.

    A write that fails after a part of the line (a full disk) leaves that part, and the next line begins below it.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.status = os.fstat(self._file)
        size = self.status.st_size
        self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def write(self, line: bytes) -> None:
        """Append a line; raises OSError when it was not written as a whole."""
        data = memoryview(b"\n" + line + b"\n" if self._torn else line + b"\n")
        while data:
            written = os.write(self._file, data)
            self._torn = data[written - 1] != LINE_END
            data = data[written:]

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Close it."""
        os.close(self._file)


class RotatingFile(BaseRotatingHandler):
    """A log file that is rotated each day (UTC) and before it grows beyond a size.

    The file is `<stem>.log`; rotated ones are `<stem>.<date>.<number>.log.gz` and are deleted once the date is more
    than `keep_days` ago. The standard library's handlers rotate by size or by time, not by both, and compress in the
    caller's thread.

    Args:
        directory: must exist.
        stem: the name without its ending.
        rotate_bytes: the size.
        keep_days: days that rotated files stay.
        lock: descriptor that keeps the stem for this process; closed with the file.
        look_after: days that files of processes that have ended are kept, by what follows their stem (empty, or
            `.error`); None leaves them alone.
        wall: seconds since 1970.
    """

    stream: LineFile | None  # type: ignore[assignment] # None between two files, as in the library

    def __init__(
        self,
        directory: Path,
        stem: str,
        *,
        rotate_bytes: int,
        keep_days: int,
        lock: int | None = None,
        look_after: Mapping[str, int] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._stem = stem
        self._rotate_bytes = rotate_bytes
        self._keep_days = keep_days
        self._lock_file = lock
        self._look_after = look_after
        self._wall = wall
        self._rotated = re.compile(rf"{re.escape(stem)}\.(\d{{4}}-\d\d-\d\d)\.(\d+)\.log(\.gz)?")
        self._complaint = Complaint()
        self._tidying: threading.Thread | None = None
        self._day = ""
        self._formatted: tuple[logging.LogRecord | None, str] = (None, "")
        super().__init__(directory / f"{stem}.log", "a", encoding="utf-8", errors="backslashreplace")
        self.namer = self._next_name
        self._tidy()

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, made once for the check of the size and for the writing."""
        if self._formatted[0] is not record:
            self._formatted = (record, super().format(record))
        return self._formatted[1]

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        """Whether the record belongs to another day than the file, or does not fit any more."""
        size = self._size()
        line = len(self.format(record).encode("utf-8", "backslashreplace")) + 1
        today = self._date(self._wall())
        if size > 0 and (today != self._day or size + line > self._rotate_bytes):
            return True
        self._day = today
        return False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, after a rotation when one is due."""
        try:
            if self.shouldRollover(record):
                self.doRollover()
            if self.stream is None:
                self.stream = self._open()
            self.stream.write(self.format(record).encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)

    def _size(self) -> int:
        """The size of the file, which is opened when it is not, or when another stands under its name."""
        if self.stream is not None:
            with contextlib.suppress(FileNotFoundError):
                found, ours = os.stat(self.baseFilename), self.stream.status
                if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
                    return found.st_size
            moved, self.stream = self.stream, None
            moved.close()
        self.stream = self._open()
        return self.stream.status.st_size

    def doRollover(self) -> None:
        """Set the file aside under its day, and begin the next."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        self.rotate(self.baseFilename, self.rotation_filename(self.baseFilename))
        self.stream = self._open()
        self._tidy()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: D102
        self._complaint.make(self.baseFilename, sys.exc_info()[1])

    def close(self) -> None:
        """Close the file and wait until rotated ones are compressed."""
        super().close()
        if self._tidying is not None:
            self._tidying.join()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    @staticmethod
    def _date(seconds: float) -> str:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")

    def _open(self) -> LineFile:  # type: ignore[override]
        stream = LineFile(self.baseFilename)
        status = stream.status
        # What an earlier process wrote belongs to the day of its last line.
        self._day = self._date(status.st_mtime if status.st_size else self._wall())
        return stream

    def _next_name(self, _default: str) -> str:
        taken = [int(match[2]) for match in self._rotated_files() if match[1] == self._day]
        return str(self._directory / f"{self._stem}.{self._day}.{max(taken, default=0) + 1}.log")

    def _rotated_files(self) -> list[re.Match[str]]:
        return [match for path in self._directory.iterdir() if (match := self._rotated.fullmatch(path.name))]

    def _tidy(self) -> None:
        before, now = self._tidying, self._wall()
        self._tidying = threading.Thread(
            target=self._compress_and_delete, args=(now, before), name=f"log-{self._stem}", daemon=True
        )
        self._tidying.start()

    def _compress_and_delete(self, now: float, before: threading.Thread | None) -> None:
        # One after the other, so that no two threads compress the same file.
        if before is not None:
            before.join()
        try:
            for match in self._rotated_files():
                _compress_or_delete(self._directory / match[0], match[1], self._date(now - self._keep_days * DAY_S))
            if self._look_after is not None:
                _tidy_after_the_ended(self._directory, self._stem, self._look_after, now)
        except OSError as error:
            self._complaint.make(str(self._directory), error)


_LEFT = re.compile(rf"({FILE_NAME}(?:-\d+)?)(\.error)?(?:\.(\d{{4}}-\d\d-\d\d)\.\d+)?\.log(?:\.gz)?(\.part)?")
"""A file of any process: its stem, which kind it is, the day of a rotated one, and whether it is half compressed."""


def _tidy_after_the_ended(directory: Path, own: str, keep_days: Mapping[str, int], now: float) -> None:
    """Compress and delete what processes left that have ended; their locks show that."""
    left: dict[str, list[re.Match[str]]] = {}
    for path in directory.iterdir():
        if (match := _LEFT.fullmatch(path.name)) and match[1] != own:
            left.setdefault(match[1], []).append(match)
    for stem, matches in left.items():
        with contextlib.suppress(BlockingIOError):
            lock = take_lock(directory / f".{stem}.lock")
            try:
                for match in matches:
                    _tidy_one(directory / match[0], match, now - keep_days[match[2] or ""] * DAY_S)
            finally:
                os.close(lock)


def _tidy_one(path: Path, match: re.Match[str], oldest: float) -> None:
    if match[4] is not None:
        # What it was made from is still there, or was made into it just now.
        path.unlink(missing_ok=True)
    elif match[3] is not None:
        _compress_or_delete(path, match[3], RotatingFile._date(oldest))
    elif path.stat().st_mtime < oldest:
        path.unlink()


def _compress_or_delete(path: Path, day: str, oldest: str) -> None:
    if day < oldest:
        path.unlink()
    elif path.suffix != ".gz":
        _compress(path)


def _compress(path: Path) -> None:
    part = path.with_name(path.name + ".part")
    with open(path, "rb") as source, gzip.open(part, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    # The whole file appears at once: a crash leaves the plain one, which the next start compresses.
    part.rename(path.with_name(path.name + ".gz"))
    path.unlink()


def file_handlers(
    settings: LogSettings, directory: Path, formatter: logging.Formatter, wall: Callable[[], float]
) -> list[logging.Handler]:
    """Handlers that write into `directory`, one for everything, one for errors; raises StartError if they cannot."""
    size, days, error_days = settings.rotate_bytes, settings.keep_days, settings.error_keep_days
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stem, lock = _take_stem(directory)
        after = {"": days, ".error": error_days}
        plain = RotatingFile(directory, stem, rotate_bytes=size, keep_days=days, lock=lock, look_after=after, wall=wall)
        errors = RotatingFile(directory, f"{stem}.error", rotate_bytes=size, keep_days=error_days, wall=wall)
    except OSError as error:
        raise StartError(
            f"cannot write log files into {directory}: {error.strerror or error}",
            "Make the directory writable, or choose another with log.directory (TRUNKLINE_LOG_DIRECTORY).",
        ) from None
    errors.setLevel(logging.ERROR)
    for handler in (plain, errors):
        handler.setFormatter(formatter)
    return [plain, errors]


def _take_stem(directory: Path) -> tuple[str, int]:
    """The first file name that no living process writes to, and the lock that keeps it ours."""
    for number in range(1, MAX_PROCESSES + 1):
        stem = FILE_NAME if number == 1 else f"{FILE_NAME}-{number}"
        with contextlib.suppress(BlockingIOError):
            return stem, take_lock(directory / f".{stem}.lock")
    raise OSError(f"more than {MAX_PROCESSES} processes write there")
