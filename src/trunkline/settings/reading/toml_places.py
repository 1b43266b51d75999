"""On which line each table, key and item of a TOML text stands; for messages only. Pure.

Rules: the text is valid TOML, since `tomllib` has read it, and so nothing is judged here. A place is a path as it leads
through what `tomllib` made of the text: `("stages", 1, "duration")`.
"""

from __future__ import annotations

import contextlib
import re
import tomllib

Place = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"[^,\]}\n#]*")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\[\s\S]|"(?!""))*"{3,5}'  # up to two quotes may stand before the three that end it
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
)


def toml_places(text: str) -> dict[Place, int]:
    """The line, counted from 1, of each place; that of a key is the line on which its name is first written."""
    scan = _Scan(text)
    # When it is lost, or in arrays as deep as the reader just bears, what was found until there will do.
    with contextlib.suppress(_Lost, RecursionError):
        scan.document()
    return scan.places


def dotted(place: Place) -> str:
    """A place as messages name it: `stages[1].duration`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def toml_lines(text: str) -> dict[str, int]:
    """As `toml_places`, each place as messages name it."""
    return {dotted(place): line for place, line in toml_places(text).items()}


class _Lost(Exception):
    pass


class _Scan:
    def __init__(self, text: str) -> None:
        self.places: dict[Place, int] = {}
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0
        self._items: dict[Place, int] = {}

    def document(self) -> None:
        table: Place = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> Place:
        repeated = self._text.startswith("[[", self._at)
        self._at += 2 if repeated else 1
        place: Place = ()
        keys = self._keys()
        for position, key in enumerate(keys, 1):
            place = (*place, key)
            self._note(place)
            if repeated and position == len(keys):
                self._items[place] = self._items.get(place, -1) + 1
            if place in self._items:
                # A header below a list of tables belongs to the last of them.
                place = (*place, self._items[place])
                self._note(place)
        self._at += 2 if repeated else 1
        return place

    def _pair(self, table: Place) -> None:
        place = table
        for key in self._keys():
            place = (*place, key)
            self._note(place)
        self._at += 1  # the =
        self._value(place)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            quoted = _STRING.match(self._text, self._at)
            found = quoted or _BARE_KEY.match(self._text, self._at)
            if found is None:
                raise _Lost
            self._at = found.end()
            keys.append(tomllib.loads(f"key = {found[0]}")["key"] if quoted else found[0])
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _value(self, place: Place) -> None:
        self._skip(_BLANK)
        first = self._text[self._at : self._at + 1]
        if first == "[":
            self._at += 1
            index = 0
            while self._more("]"):
                self._note((*place, index))
                self._value((*place, index))
                index += 1
        elif first == "{":
            self._at += 1
            while self._more("}"):
                self._pair(place)
        else:
            found = _STRING.match(self._text, self._at) or _BARE_VALUE.match(self._text, self._at)
            self._at = found.end() if found else len(self._text)

    def _more(self, end: str) -> bool:
        self._skip(_BLANK)
        if self._text.startswith(",", self._at):
            self._at += 1
            self._skip(_BLANK)
        if self._at < len(self._text) and not self._text.startswith(end, self._at):
            return True
        self._at += 1
        return False

    def _skip(self, what: re.Pattern[str]) -> None:
        found = what.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _note(self, place: Place) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        self.places.setdefault(place, self._line)
