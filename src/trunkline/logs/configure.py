"""Structured logging: one line of JSON an event, or text for people on a terminal; log files if a directory is named.

Rules:

- Everything goes one way: our own events (structlog) and those of libraries (standard logging) pass the same redaction,
  which masks tokens, authorization headers, passwords and whatever stands in for them in URLs.
- Logging never raises into its caller. What cannot be written is dropped, and reported on standard error once a minute.
- Files (`files.py`) are JSON, with the names of the Elastic Common Schema if the format is `ecs` (`ecs.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor

from trunkline.logs import ecs
from trunkline.logs.files import Complaint, RotatingFile, file_handlers
from trunkline.protocol.timestamps import utc
from trunkline.settings.reload import Prepare, TakeOver
from trunkline.settings.secret import MASK, mask_url
from trunkline.settings.sections import LogSettings, Settings
from trunkline.version import __version__

_QUIET = {"aiohttp.access": logging.WARNING, "asyncio": logging.WARNING, "nats": logging.WARNING}
"""Libraries that log at `info` what we log ourselves."""

_SECRET_KEY = re.compile(
    r"(^|[_.\- ])(token|authorization|password|passwd|secret|cookie|credentials?|api[_\-]?key|private[_\-]?key)$",
    re.IGNORECASE,
)
_SECRETS_IN_TEXT: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?i)\b((?:access_|refresh_|id_|admin_)?token|password|passwd|secret|api_?key)=[^&\s\"'#;,]+"),
     rf"\1={MASK}"),
    (re.compile(r"(?i)\b(bearer[ .]+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{MASK}"),
    (re.compile(r"\b(Basic +)(?=\S*[A-Z0-9+/=])[A-Za-z0-9+/=]{8,}"), rf"\1{MASK}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), MASK),
)  # fmt: skip
_MAX_DEPTH = 4

_Levelled: Any = type("Levelled", (structlog.make_filtering_bound_logger(logging.INFO),), {})
"""The class of all our loggers; its base lets through what the level does, and costs nothing for the rest."""


def configure(
    settings: LogSettings,
    *,
    service: str = "trunkline",
    node: str = "",
    stream: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
    wall: Callable[[], float] = time.time,
) -> None:
    """Set up logging for this process; a second call replaces the first.

    Args:
        settings: level, format, files.
        service: what this process is, for the format `ecs`.
        node: name of this instance of it; empty: made of host name and process id.
        stream: where lines go, standard output by default.
        environ: read for NO_COLOR.
        wall: seconds since 1970, for the rotation of files.

    Raises:
        StartError: the directory cannot be written to.
    """
    out = stream if stream is not None else sys.stdout
    lines = _Formatter(None, structlog.processors.JSONRenderer())
    if settings.format == "ecs":
        pid = os.getpid()
        origin = ecs.Origin(service, node or f"{socket.gethostname()}-{pid}", __version__, pid)
        lines = _Formatter(ecs.renderer(origin), ecs.renderer(origin), ecs.name_error)
    handlers: list[logging.Handler] = [_StreamHandler(out)]
    handlers[0].setFormatter(lines)
    if settings.format == "console" or (settings.format == "auto" and out.isatty()):
        # https://no-color.org: present and not empty, whatever its value.
        colors = out.isatty() and not environ.get("NO_COLOR")
        console = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
        handlers[0].setFormatter(_Formatter(console, console))
    if settings.directory is not None:
        handlers += file_handlers(settings, settings.directory, lines, wall)
    close()
    structlog.configure(
        processors=[*_ORIGIN, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=_Levelled,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    for handler in handlers:
        logging.getLogger().addHandler(handler)
    set_level(settings)
    logging.captureWarnings(True)


def set_level(settings: LogSettings) -> None:
    """Log from the level of `settings` on, at once and everywhere, whatever was set up before."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    # Loggers stay as they were first used, so their class must be what changes.
    _Levelled.__bases__ = (structlog.make_filtering_bound_logger(level),)
    logging.getLogger().setLevel(level)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(level, least))


def with_level(prepare: Prepare) -> Prepare:
    """`prepare` of a process's parts, and the level of its log with them."""

    async def prepared(settings: Settings) -> TakeOver:
        take_over = await prepare(settings)

        def take_over_all() -> None:
            take_over()
            set_level(settings.log)

        return take_over_all

    return prepared


def close() -> None:
    """Take away what `configure` set up, and wait until rotated files are compressed."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _StreamHandler | RotatingFile):
            root.removeHandler(handler)
            handler.close()


def write_lines(name: str, lines: str) -> None:
    """Log events at `info` that are JSON already, joined by line ends; `name` is the logger.

    For the few events that come by the thousand: rendering them one by one would cost more than the work they report.
    They are as `configure` would write them, with `event`, `level`, `logger` and `timestamp`, and are not redacted
    again: `redact_text` is for whatever in them a client chose.
    """
    logger = logging.getLogger(name)
    if not logger.isEnabledFor(logging.INFO):
        return
    record = logging.LogRecord(name, logging.INFO, "", 0, "", None, None)
    record.lines = lines
    logger.handle(record)


def _stamp(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Add the time."""
    event["timestamp"] = utc(time.time())
    return event


_ORIGIN: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    _stamp,
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
    """Renders events, and what `write_lines` was given line by line; as they are if no `again` is named."""

    def __init__(self, again: Processor | None, renderer: Processor, *before: Processor) -> None:
        super().__init__(foreign_pre_chain=_FOREIGN, processors=[*before, *_SHOWN, renderer])
        self._again = again

    def format(self, record: logging.LogRecord) -> str:
        lines = getattr(record, "lines", None)
        if lines is None:
            return super().format(record)
        if self._again is None:
            return str(lines)
        return "\n".join(str(self._again(None, "info", msgspec.json.decode(line))) for line in lines.split("\n"))


def _no_color_message(_logger: object, _method: str, event: EventDict) -> EventDict:
    # Some libraries repeat their message with terminal colours in an extra field.
    event.pop("color_message", None)
    return event


_FOREIGN: tuple[Processor, ...] = (*_ORIGIN, structlog.stdlib.ExtraAdder(), _no_color_message)
"""How an event of standard logging gets the fields that ours have."""

_SHOWN: tuple[Processor, ...] = (
    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
    structlog.processors.StackInfoRenderer(),
    # Before redaction: the text of an exception may hold a URL or a header.
    structlog.processors.format_exc_info,
    redact,
)
"""What every event passes before it is rendered."""


class _StreamHandler(logging.StreamHandler[TextIO]):
    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._complaint = Complaint()

    def handleError(self, record: logging.LogRecord) -> None:
        self._complaint.make("the output", sys.exc_info()[1])

    def close(self) -> None:
        # The stream is not ours to close; flushing it may fail when its reader has gone.
        with contextlib.suppress(OSError, ValueError):
            self.flush()
        super().close()
