"""Structured logging: one line of JSON an event, or text for people on a terminal; log files if a directory is named.

Rules:

- Everything goes one way: our own events (structlog) and those of libraries (standard logging) pass the same redaction,
  which masks tokens, authorization headers, passwords and whatever stands in for them in URLs.
- Logging never raises into its caller. What cannot be written is dropped, and standard error says so once a minute.
- Files are JSON. They are rotated at midnight UTC and at a size; rotated ones are compressed in a thread of their own,
  as that takes longer than an event loop may pause. Errors also go to a file apart, which is kept longer.
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
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor

from trunkline.config import LogSettings
from trunkline.errors import StartError
from trunkline.settings_source import MASK, mask_url

FILE_NAME = "trunkline"
MAX_PROCESSES = 64
"""Processes of one machine that may write into one directory; each has files of its own."""

_QUIET = {"aiohttp.access": logging.WARNING, "asyncio": logging.WARNING, "nats": logging.WARNING}
"""Libraries that tell at `info` what we tell ourselves."""

_SECRET_KEY = re.compile(
    r"(^|[_.\- ])(token|authorization|password|passwd|secret|cookie|credentials?|api[_\-]?key|private[_\-]?key)$",
    re.IGNORECASE,
)
_SECRETS_IN_TEXT: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"(?i)\b((?:access_|refresh_|id_|admin_)?token|password|passwd|secret|api_?key)=[^&\s\"'#;,]+"),
        rf"\1={MASK}",
    ),
    (re.compile(r"(?i)\b(bearer[ .]+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{MASK}"),
    (re.compile(r"\b(Basic +)(?=\S*[A-Z0-9+/=])[A-Za-z0-9+/=]{8,}"), rf"\1{MASK}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), MASK),
)
_MAX_DEPTH = 4


def configure(
    settings: LogSettings,
    *,
    stream: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
    wall: Callable[[], float] = time.time,
) -> None:
    """Set up logging for this process; a second call replaces the first.

    Args:
        settings: level, format, files.
        stream: where lines go, standard output by default.
        environ: read for NO_COLOR.
        wall: seconds since 1970, for the rotation of files.

    Raises:
        StartError: the directory cannot be written to.
    """
    out = stream if stream is not None else sys.stdout
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    console = settings.format == "console" or (settings.format == "auto" and out.isatty())
    handlers: list[logging.Handler] = [_StreamHandler(out)]
    handlers[0].setFormatter(_formatter(_console(out, environ) if console else structlog.processors.JSONRenderer()))
    if settings.directory is not None:
        handlers += _file_handlers(settings, settings.directory, wall)
    close()
    structlog.configure(
        processors=[*_ORIGIN, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.setLevel(level)
    for handler in handlers:
        root.addHandler(handler)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(level, least))
    logging.captureWarnings(True)


def close() -> None:
    """Take away what `configure` set up, and wait until rotated files are compressed."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _StreamHandler | RotatingFile):
            root.removeHandler(handler)
            handler.close()


def write_lines(name: str, lines: str) -> None:
    """Log events at `info` that are JSON already, joined by line ends.

    For the few events that come by the thousand: rendering them one by one would cost more than what they tell of.

    Args:
        name: the logger.
        lines: objects as `configure` would write them, with `event`, `level`, `logger` and `timestamp`. They are not
            redacted again: `redact_text` is for whatever in them a client chose.
    """
    logger = logging.getLogger(name)
    if not logger.isEnabledFor(logging.INFO):
        return
    record = logging.LogRecord(name, logging.INFO, "", 0, "", None, None)
    record.lines = lines
    logger.handle(record)


# --- what a line holds ------------------------------------------------------------------------------------------------

_ORIGIN: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Mask what must not be in a log, in values of any depth and within text (a structlog processor)."""
    for key, value in event.items():
        event[key] = _redacted(key, value, 0)
    return event


def redact_text(text: str) -> str:
    """`text` with tokens, passwords and the users of URLs masked."""
    for pattern, replacement in _SECRETS_IN_TEXT:
        text = pattern.sub(replacement, text)
    return mask_url(text)


def _redacted(key: object, value: Any, depth: int) -> Any:
    if isinstance(key, str) and value is not None and _SECRET_KEY.search(key):
        return MASK
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bool | int | float) or value is None:
        return value
    if depth >= _MAX_DEPTH:
        return MASK
    if isinstance(value, Mapping):
        return {name: _redacted(name, item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(None, item, depth + 1) for item in value]
    try:
        return redact_text(repr(value))
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Renders events, and passes on lines that `write_lines` was given."""

    def __init__(self, renderer: Processor, **options: Any) -> None:
        super().__init__(**options)
        self._console = renderer if isinstance(renderer, structlog.dev.ConsoleRenderer) else None

    def format(self, record: logging.LogRecord) -> str:
        lines = getattr(record, "lines", None)
        if lines is None:
            return super().format(record)
        if self._console is None:
            return str(lines)
        return "\n".join(str(self._console(None, "info", msgspec.json.decode(line))) for line in lines.split("\n"))


def _formatter(renderer: Processor) -> logging.Formatter:
    return _Formatter(
        renderer,
        foreign_pre_chain=[*_ORIGIN, structlog.stdlib.ExtraAdder(), _no_color_message],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            # Before redaction: the text of an exception may hold a URL or a header.
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
    )


def _no_color_message(_logger: object, _method: str, event: EventDict) -> EventDict:
    # Some libraries repeat their message with terminal colours in an extra field.
    event.pop("color_message", None)
    return event


def _console(out: TextIO, environ: Mapping[str, str]) -> Processor:
    # https://no-color.org: present and not empty, whatever its value.
    colors = out.isatty() and not environ.get("NO_COLOR")
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


# --- where lines go ---------------------------------------------------------------------------------------------------


class _Complaint:
    """Says on standard error that lines are being lost, at most once a minute."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def make(self, where: str, error: BaseException | None) -> None:
        now = time.monotonic()
        if now - self._last < 60.0:
            return
        self._last = now
        with contextlib.suppress(OSError, ValueError):
            print(f"trunkline: log lines are lost, {where} cannot be written: {error!r}", file=sys.stderr)


class _StreamHandler(logging.StreamHandler[TextIO]):
    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._complaint = _Complaint()

    def handleError(self, record: logging.LogRecord) -> None:
        self._complaint.make("the output", sys.exc_info()[1])

    def close(self) -> None:
        # The stream is not ours to close; flushing it may fail when its reader has gone.
        with contextlib.suppress(OSError, ValueError):
            self.flush()
        super().close()


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
        self._complaint = _Complaint()
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


def _file_handlers(settings: LogSettings, directory: Path, wall: Callable[[], float]) -> list[logging.Handler]:
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
        handler.setFormatter(_formatter(structlog.processors.JSONRenderer()))
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
