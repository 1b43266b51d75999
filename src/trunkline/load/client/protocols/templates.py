"""The text of a step with its places: compiled once, filled in for each message. Pure.

Rule: `{n}`, `{connection}`, `{run}` and `{stamp}` are the places; every other brace stands for itself, so that JSON is
written as it is. To send `{n}` as such, double its braces.
"""

from __future__ import annotations

import re
from typing import Final, Literal, cast

Place = Literal["n", "stamp"]
"""What differs from message to message; `{connection}` and `{run}` are put in when the text is compiled."""

_TOKEN: Final = re.compile(r"\{(\{(?:n|connection|run|stamp)\})\}|\{(n|connection|run|stamp)\}")


class Template:
    """A text to send, as written in the scenario, for the connection of this number in this run."""

    __slots__ = ("_places", "_rest")

    def __init__(self, text: str, connection: int, run: str) -> None:
        fixed = {"connection": str(connection), "run": run}
        places: list[tuple[bytes, Place]] = []
        before = ""
        end = 0
        for found in _TOKEN.finditer(text):
            literal, place = found.groups()
            before += text[end : found.start()]
            end = found.end()
            if literal is not None:
                before += literal
            elif place in fixed:
                before += fixed[place]
            else:
                places.append((before.encode(), cast(Place, place)))
                before = ""
        self._places = tuple(places)
        self._rest = (before + text[end:]).encode()

    def fill(self, number: int, intended: float) -> bytes:
        """The message of a round; `{stamp}` is the intended moment, on the coordinator's clock, in microseconds."""
        if not self._places:
            return self._rest
        values: dict[Place, bytes] = {"n": b"%d" % number, "stamp": b"%d" % int(intended * 1e6)}
        return b"".join([before + values[place] for before, place in self._places]) + self._rest
