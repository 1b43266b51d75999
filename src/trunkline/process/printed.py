"""What a process prints, line by line; its last lines often name why it ended. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

_LONGEST: Final = 65_536


class Printed:
    """The last `keep` lines of a process's two streams; `on_line` gets each whole one that is not empty, stripped."""

    def __init__(self, keep: int, on_line: Callable[[str], None] | None = None) -> None:
        self._lines: deque[str] = deque(maxlen=keep)
        self._rests = {False: b"", True: b""}
        self._on_line = on_line
        self.taken_bytes = 0

    def take(self, chunk: bytes, is_error: bool) -> None:
        """Take a chunk of output, which need not end at a line."""
        self.taken_bytes += len(chunk)
        *lines, rest = (self._rests[is_error] + chunk).split(b"\n")
        if len(rest) > _LONGEST:
            lines.append(rest)
            rest = b""
        self._rests[is_error] = rest
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self._lines.append(text)
                if self._on_line is not None:
                    self._on_line(text)

    def last(self) -> list[str]:
        """The last lines, those that are not finished among them."""
        rests = [rest.decode("utf-8", "replace").rstrip() for rest in self._rests.values()]
        return [*self._lines, *(rest for rest in rests if rest)]
