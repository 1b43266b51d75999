"""What a child prints: all of it into its log file, warnings and errors also to the fleet's own output.

Rules:

- Output is handled by the chunk; only a chunk that may hold something serious is taken apart line by line.
- The file of the run before is kept once as `<name>.log.1`; a file that grows beyond its size takes that place too.
- Files of parts that a fleet does not have any more stay for their days.
- A flood of warnings is cut: the file holds all of them, the terminal a few and the count of the rest.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import msgspec

from trunkline.errors import StartError

KEPT_LINES: Final = 8
SHOWN_LENGTH: Final = 300
QUOTA_LINES: Final = 20
QUOTA_S: Final = 10.0
DAY_S: Final = 86_400.0
_LONGEST_LINE: Final = 65_536

_SERIOUS: Final = re.compile(rb"warning|error|critical|exception|traceback", re.IGNORECASE)
_TEXT_LEVEL: Final = re.compile(r"(?:\[|\b)(warning|error|critical)\s*(?:\]|:)", re.IGNORECASE)
_LEVELS: Final = ("warning", "error", "critical", "exception")
_OWN_NAME: Final = "trunkline: "


class _Line(msgspec.Struct):
    """The fields of a JSON log line that say whether it matters."""

    level: str
    event: str
    logger: str = ""
    exception: str = ""
    text: str = ""
    error: str = ""


class _EcsLine(msgspec.Struct):
    """The same fields of a line in the Elastic Common Schema."""

    level: str = msgspec.field(name="log.level")
    event: str = msgspec.field(name="message")
    exception: str = msgspec.field(name="error.stack_trace", default="")
    text: str = msgspec.field(name="labels.text", default="")
    error: str = msgspec.field(name="error.message", default="")


_decoder: msgspec.json.Decoder[_Line | _EcsLine] = msgspec.json.Decoder(_Line)
_ecs_decoder: msgspec.json.Decoder[_Line | _EcsLine] = msgspec.json.Decoder(_EcsLine)


def serious(line: str, is_error: bool) -> str | None:
    """What the fleet's own output shows of a child's line, None for nothing.

    On standard error (`is_error`) a child writes only what it can no longer log.
    """
    try:
        entry = (_ecs_decoder if line.startswith('{"@timestamp"') else _decoder).decode(line)
    except (msgspec.DecodeError, ValueError):
        # Of a trace only its last line, which is not indented, names the error.
        shown = is_error and not line.startswith((" ", "\t", "Traceback ("))
        return _cut(line) if line.strip() and (shown or _TEXT_LEVEL.search(line[:120])) else None
    if entry.level.lower() not in _LEVELS:
        return None
    last = entry.exception.strip().rpartition("\n")[2]
    # In the Elastic Common Schema a trace ends in the text that `error.message` has too.
    error = "" if entry.error and last.endswith(entry.error) else entry.error
    details = ", ".join(part for part in (entry.text, error, last) if part)
    return _cut(f"{entry.level} {entry.event}" + (f": {details}" if details else ""))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 1] + "…"


class Quota:
    """How many lines of a child are shown: so many in a span of time, then only the count of the rest."""

    def __init__(self, lines: int = QUOTA_LINES, span_s: float = QUOTA_S) -> None:
        self._lines = lines
        self._span_s = span_s
        self._since = float("-inf")
        self._shown = 0
        self._left_out = 0

    def take(self, now: float) -> bool:
        """Whether a line may be shown at `now`."""
        if now - self._since >= self._span_s:
            self._since, self._shown = now, 0
        if self._shown < self._lines:
            self._shown += 1
            return True
        self._left_out += 1
        return False

    def left_out(self, now: float) -> int:
        """Once a span is over, how many of its lines were not shown; then 0 again."""
        if not self._left_out or now - self._since < self._span_s:
            return 0
        count, self._left_out = self._left_out, 0
        return count


def delete_old(directory: Path, keep_days: float, now: float) -> None:
    """Delete log files that nothing was written to for `keep_days` before `now`, in seconds since 1970."""
    with contextlib.suppress(OSError):
        for path in [*directory.glob("*.log"), *directory.glob("*.log.1")]:
            if path.stat().st_mtime < now - keep_days * DAY_S:
                path.unlink()


class ChildLog:
    """The output of one child; its file is rotated at `rotate_bytes`, and `show` gets what the fleet should show."""

    def __init__(self, path: Path, rotate_bytes: int, show: Callable[[str], None]) -> None:
        self.path = path
        self._rotate_bytes = rotate_bytes
        self._show = show
        self._file: IO[bytes] | None = None
        self._size = 0
        self._rests = [b"", b""]
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.refusal = ""
        self.taken_bytes = 0

    def open(self) -> None:
        """Begin a file of this run; raises StartError when the directory cannot be written."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._rotate()
        except OSError as error:
            raise StartError(
                f"the log file {self.path} cannot be written: {error.strerror or error}",
                "Make the directory writable, or choose another with --data-dir.",
            ) from None

    def close(self) -> None:
        """Write no more."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def begin(self, text: str) -> None:
        """Start a run of the child: forget the last lines of the run before."""
        self._lines.clear()
        self._rests = [b"", b""]
        self.refusal = ""
        self._write(text.encode() + b"\n")

    def write(self, chunk: bytes, is_error: bool) -> None:
        """Take what the child printed."""
        self.taken_bytes += len(chunk)
        self._write(chunk)
        whole, line_end, rest = (self._rests[is_error] + chunk).rpartition(b"\n")
        self._rests[is_error] = rest[-_LONGEST_LINE:]
        if not line_end:
            return
        if is_error or _SERIOUS.search(whole):
            for line in whole.split(b"\n"):
                self._line(line.decode("utf-8", "replace").rstrip(), is_error)
        else:
            for line in whole.rsplit(b"\n", KEPT_LINES)[-KEPT_LINES:]:
                self._lines.append(_cut(line.decode("utf-8", "replace").rstrip()))

    def last_lines(self) -> list[str]:
        """The last lines of the child."""
        for is_error in (False, True):
            if rest := self._rests[is_error]:
                self._rests[is_error] = b""
                self._line(rest.decode("utf-8", "replace"), bool(is_error))
        return [line for line in self._lines if line]

    def _line(self, line: str, is_error: bool) -> None:
        if is_error and line.startswith(_OWN_NAME):
            # How a node reports that it cannot start; shown once, by the part that waits for it.
            self.refusal = line.removeprefix(_OWN_NAME)
        self._lines.append(_cut(line))
        if (text := serious(line, is_error)) is not None:
            self._show(text)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            return
        try:
            if self._size and self._size + len(data) > self._rotate_bytes:
                self._rotate()
            left = memoryview(data)
            while left:
                # Of a file without a buffer it may be less than what was given, on a disk that fills up.
                left = left[self._file.write(left) :]
            self._size += len(data)
        except OSError as error:
            self.close()
            self._show(f"its log file is given up: {error.strerror or error}")

    def _rotate(self) -> None:
        self.close()
        if self.path.exists():
            self.path.replace(self.path.with_name(self.path.name + ".1"))
        # Unbuffered: whoever follows the file sees a line when it is written.
        self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115 - kept open as long as the fleet runs
        self._size = 0
