"""Log files: rotated at midnight UTC and at a size, compressed, kept for some days; errors apart and for longer.

Rules: rotated files are compressed in a thread of their own, as that takes longer than an event loop may pause. Each
process writes files of its own, held by a lock. Nothing here raises into the caller of a log method.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from trunkline.errors import StartError
from trunkline.settings.sections import LogSettings

FILE_NAME = "trunkline"
MAX_PROCESSES = 64
"""Processes of one machine that may write into one directory; each has files of its own."""


class Complaint:
    """Says on standard error that lines are being lost, at most once a minute."""

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


class RotatingFile(logging.Handler):
    """A log file that starts anew each day (UTC) and at a size.

    The file is `<stem>.log`; rotated ones are `<stem>.<date>.<number>.log.gz` and are deleted once the date is more
    than `keep_days` ago.

    Args:
        directory: where, must exist.
        stem: the name without its ending.
        rotate_bytes: size that a file does not grow beyond.
        keep_days: days that rotated files stay.
        wall: seconds since 1970.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(
        self, directory: Path, stem: str, *, rotate_bytes: int, keep_days: int, wall: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self._directory = directory
        self._stem = stem
        self._rotate_bytes = rotate_bytes
        self._keep_days = keep_days
        self._wall = wall
        self._rotated = re.compile(rf"{re.escape(stem)}\.(\d{{4}}-\d\d-\d\d)\.(\d+)\.log(\.gz)?")
        self._complaint = Complaint()
        self._tidying: threading.Thread | None = None
        self._file: IO[bytes] | None = None
        self._size = 0
        self._day = ""
        self._open()
        self._tidy()

    @property
    def path(self) -> Path:
        """The file being written."""
        return self._directory / f"{self._stem}.log"

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; never raises."""
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            today = self._date(self._wall())
            if self._file is None:
                self._open()
            if self._size > 0 and (today != self._day or self._size + len(line) > self._rotate_bytes):
                self._rotate()
            self._day = today
            if self._file is not None:
                # Unbuffered: a crash loses nothing that was logged before it.
                self._file.write(line)
                self._size += len(line)
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: D102
        self._complaint.make(str(self.path), sys.exc_info()[1])

    def close(self) -> None:
        """Close the file and wait until rotated ones are compressed."""
        with self.lock or contextlib.nullcontext():
            if self._file is not None:
                self._file.close()
                self._file = None
        if self._tidying is not None:
            self._tidying.join()
        super().close()

    @staticmethod
    def _date(seconds: float) -> str:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")

    def _open(self) -> None:
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - kept open as long as the handler lives
        status = os.fstat(self._file.fileno())
        self._size = status.st_size
        # What an earlier process wrote belongs to the day of its last line.
        self._day = self._date(status.st_mtime if status.st_size else self._wall())

    def _rotate(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        taken = [int(match[2]) for match in self._rotated_files() if match[1] == self._day]
        self.path.rename(self._directory / f"{self._stem}.{self._day}.{max(taken, default=0) + 1}.log")
        self._open()
        self._tidy()

    def _rotated_files(self) -> list[re.Match[str]]:
        return [match for path in self._directory.iterdir() if (match := self._rotated.fullmatch(path.name))]

    def _tidy(self) -> None:
        oldest = self._date(self._wall() - timedelta(days=self._keep_days).total_seconds())
        before = self._tidying
        self._tidying = threading.Thread(
            target=self._compress_and_delete, args=(oldest, before), name=f"log-{self._stem}", daemon=True
        )
        self._tidying.start()

    def _compress_and_delete(self, oldest: str, before: threading.Thread | None) -> None:
        # One after the other, so that no two threads compress the same file.
        if before is not None:
            before.join()
        try:
            for match in self._rotated_files():
                path = self._directory / match[0]
                if match[1] < oldest:
                    path.unlink()
                elif match[3] is None:
                    _compress(path)
        except OSError as error:
            self._complaint.make(str(self._directory), error)


def _compress(path: Path) -> None:
    part = path.with_name(path.name + ".part")
    with open(path, "rb") as source, gzip.open(part, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    # The whole file appears at once: a crash leaves the plain one, which the next start compresses.
    part.rename(path.with_name(path.name + ".gz"))
    path.unlink()


class _OwnedFile(RotatingFile):
    """The main file; holds the claim on the stem for as long as the process writes."""

    claim: IO[bytes]

    def close(self) -> None:
        super().close()
        self.claim.close()


def file_handlers(
    settings: LogSettings, directory: Path, formatter: logging.Formatter, wall: Callable[[], float]
) -> list[logging.Handler]:
    """Handlers that write into `directory`: one for everything, one for errors.

    Raises:
        StartError: the directory cannot be written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stem, claim = _claim_stem(directory)
        plain = _OwnedFile(directory, stem, rotate_bytes=settings.rotate_bytes, keep_days=settings.keep_days, wall=wall)
        plain.claim = claim
        errors = RotatingFile(
            directory,
            f"{stem}.error",
            rotate_bytes=settings.rotate_bytes,
            keep_days=settings.error_keep_days,
            wall=wall,
        )
    except OSError as error:
        raise StartError(
            f"cannot write log files into {directory}: {error.strerror or error}",
            "Make the directory writable, or choose another with log.directory (TRUNKLINE_LOG_DIRECTORY).",
        ) from None
    errors.setLevel(logging.ERROR)
    for handler in (plain, errors):
        handler.setFormatter(formatter)
    return [plain, errors]


def _claim_stem(directory: Path) -> tuple[str, IO[bytes]]:
    """The first file name that no living process writes to, and the open lock that keeps it ours."""
    for number in range(1, MAX_PROCESSES + 1):
        stem = FILE_NAME if number == 1 else f"{FILE_NAME}-{number}"
        claim = open(directory / f".{stem}.lock", "ab")  # noqa: SIM115 - kept open as long as the process logs
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            claim.close()
        else:
            return stem, claim
    raise OSError(f"more than {MAX_PROCESSES} processes write there")
