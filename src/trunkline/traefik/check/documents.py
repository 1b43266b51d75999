"""Files and snippets as trees whose every value knows its line: YAML, TOML, JSON, labels, flags, environment, Markdown.

Rules:

- What is read is small: 4 MiB a file, and a bounded number of values, for YAML aliases can multiply.
- A Markdown or text file is read fence by fence; lines are those of the file.
- What a document is, its keys show, not its name: published snippets have no names.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from trunkline.settings.reading.toml_places import Place, toml_places

MAX_BYTES = 4 * 1024 * 1024
MAX_VALUES = 200_000
_MAX_DEPTH = 64

Language = Literal["yaml", "toml", "json", "shell", "text"]


class UnreadableError(Exception):
    """A file or snippet cannot be read."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line
        self.why = why


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its line; `value` is text, parts by name, a list, or None for nothing.

    Of a part by name the line is that of its name.
    """

    line: int
    value: str | dict[str, Node] | list[Node] | None

    @property
    def text(self) -> str | None:
        """The value when it is text."""
        return self.value if isinstance(self.value, str) else None

    @property
    def parts(self) -> dict[str, Node]:
        """The parts by name; none when it has none."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """The entries of a list; none when it is none."""
        return self.value if isinstance(self.value, list) else []

    def at(self, *path: str) -> Node | None:
        """What stands below it under these names."""
        found: Node | None = self
        for name in path:
            found = found.parts.get(name) if found is not None else None
        return found

    def below(self, *path: str) -> dict[str, Node]:
        """The parts by name of what stands below it under these names."""
        found = self.at(*path)
        return found.parts if found is not None else {}

    def entries(self, *path: str) -> list[Node]:
        """The entries of the list that stands below it under these names."""
        found = self.at(*path)
        return found.items if found is not None else []

    def word(self, *path: str) -> str:
        """The text below it under these names; empty when there is none."""
        found = self.at(*path)
        return (found.text or "") if found is not None else ""

    def is_true(self, *path: str) -> bool:
        """Whether a switch below it is on."""
        return self.word(*path).lower() == "true"


class Snippet(msgspec.Struct, frozen=True):
    """A piece of text in one language.

    Attributes:
        first_line: the line of the file on which it begins.
        fenced: whether it is a fence of a longer text, so that it may be a part of something only.
    """

    language: Language
    text: str
    first_line: int = 1
    fenced: bool = False


_SUFFIXES: dict[str, Language] = {
    ".yml": "yaml", ".yaml": "yaml", ".toml": "toml", ".json": "json", ".sh": "shell", ".bash": "shell",
}  # fmt: skip
_FENCES: dict[str, Language] = {
    "yaml": "yaml", "yml": "yaml", "toml": "toml", "json": "json", "bash": "shell", "sh": "shell", "shell": "shell",
    "console": "shell", "promql": "text",
}  # fmt: skip
_FENCE = re.compile(r"^(?P<indent> {0,12})(?P<sign>`{3,}|~{3,})\s*(?P<language>[\w+-]*)")


def read(path: Path) -> str:
    """The text of a file; raises UnreadableError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(0, f"cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise UnreadableError(0, f"is longer than {MAX_BYTES} bytes; give the files that configure Traefik")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(raw[: error.start].count(b"\n") + 1, "is not UTF-8 text") from None


def snippets(path: Path, text: str) -> list[Snippet]:
    """The pieces of a file that can be checked."""
    language = _SUFFIXES.get(path.suffix.lower())
    if language is not None:
        return [Snippet(language, text)]
    if path.suffix.lower() in (".md", ".markdown", ".txt", ".rst", ".mdx"):
        return list(_fences(text))
    return [Snippet("text", text)]


def _fences(text: str) -> Iterator[Snippet]:
    sign, language, indent, start = "", "", "", 0
    body: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        found = _FENCE.match(line)
        if not sign:
            if found:
                sign, indent, language = found["sign"], found["indent"], found["language"].lower()
                start, body = number + 1, []
        elif found and found["sign"].startswith(sign) and not found["language"]:
            if language in _FENCES:
                yield Snippet(_FENCES[language], "\n".join(body), start, fenced=True)
            sign = ""
        else:
            body.append(line.removeprefix(indent))


def trees(snippet: Snippet) -> list[Node]:
    """The documents of a snippet; raises UnreadableError."""
    offset = snippet.first_line - 1
    if snippet.language in ("yaml", "json"):
        return _yaml(snippet, offset)
    if snippet.language == "toml":
        return [_toml(snippet.text, offset)]
    return []


_SURROGATE = re.compile(r"(?<!\\)((?:\\\\)*)\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def _as_yaml(text: str) -> str:
    """JSON as YAML: they differ in tabs between words, and in signs that JSON escapes as two surrogates."""
    return _SURROGATE.sub(r"\1?", text.replace("\t", "  "))


@dataclass(slots=True)
class _Reading:
    """What is being read: the lines before it, the values that it may still have, whether a name may stand twice."""

    offset: int
    left: int
    repeats: bool


def _yaml(snippet: Snippet, offset: int) -> list[Node]:
    json = snippet.language == "json"
    what = "JSON" if json else "YAML"
    text = _as_yaml(snippet.text) if json else snippet.text
    # A guide may show two ways in one fence.
    reading = _Reading(offset, MAX_VALUES, json or snippet.fenced)
    try:
        loader = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
        _bounded(text, loader, offset)
        return [_composed(node, reading, 0) for node in yaml.compose_all(text, Loader=loader) if node is not None]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        if "{{" in text and not json:
            why = "is a template, and what it becomes is not known here; check its output"
            raise UnreadableError(line + offset, why) from None
        raise UnreadableError(line + offset, f"is no {what}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UnreadableError(1 + offset, f"is no {what}: {error}") from None
    except RecursionError:
        raise UnreadableError(1 + offset, "nests too deep") from None


def _bounded(text: str, loader: Any, offset: int) -> None:
    """Raises UnreadableError for what nests deeper than the composer in C has stack for: it ends the whole process."""
    if _count_of(text, "[{") <= _MAX_DEPTH and _count_of(text, "-?:") <= _MAX_DEPTH:
        return
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise UnreadableError((event.start_mark.line if event.start_mark else 0) + 1 + offset, "nests too deep")


def _count_of(text: str, signs: str) -> int:
    return sum(text.count(sign) for sign in signs)


def _composed(node: yaml.Node, reading: _Reading, depth: int, line: int | None = None) -> Node:
    reading.left -= 1
    first = node.start_mark.line + 1 + reading.offset
    if reading.left < 0 or depth > _MAX_DEPTH:
        raise UnreadableError(first, "has too many values, or nests too deep")
    at = first if line is None else line
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Node] = {}
        own: dict[str, int] = {}
        for key, value in node.value:
            key_line = key.start_mark.line + 1 + reading.offset
            if key.tag == "tag:yaml.org,2002:merge":
                merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for source in merged:
                    found = {**_composed(source, reading, depth + 1).parts, **found}
            elif isinstance(key, yaml.ScalarNode):
                earlier = own.setdefault(key.value, key_line)
                if earlier != key_line and not reading.repeats:
                    raise UnreadableError(key_line, f"has {key.value!r} already on line {earlier}: Traefik refuses it")
                found[key.value] = _composed(value, reading, depth + 1, key_line)
        return Node(at, found)
    if isinstance(node, yaml.SequenceNode):
        return Node(at, [_composed(item, reading, depth + 1) for item in node.value])
    if node.tag == "tag:yaml.org,2002:null":
        return Node(at, None)
    plain = isinstance(node, yaml.ScalarNode) and not node.style
    return Node(at, _as_go_writes(str(node.value)) if plain else str(node.value))


_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def _as_go_writes(text: str) -> str:
    """A number without quotes as Traefik sees it: `1_000`, `0x10` and `5.0` are 1000, 16 and 5; other text as it is."""
    if text[:1] not in _NUMBER_STARTS:
        return text
    digits = text.replace("_", "")
    try:
        # A leading 0 is octal, as in Go.
        return str(int(digits, 8 if re.fullmatch(r"[-+]?0[0-7]+", digits) else 0))
    except ValueError:
        pass
    if not _FLOAT.fullmatch(digits):
        return text
    number = float(digits)
    return str(int(number)) if number.is_integer() else repr(number)


_NUMBER_STARTS = frozenset("+-.0123456789")


def _toml(text: str, offset: int) -> Node:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        at = int(found.group(1)) if found else 1
        raise UnreadableError(at + offset, f"is no TOML: {error}") from None
    except RecursionError:
        raise UnreadableError(1 + offset, "nests too deep") from None
    lines = {place: line + offset for place, line in toml_places(text).items()}
    return _from_plain(data, (), lines, 1 + offset)


def _from_plain(value: Any, path: Place, lines: dict[Place, int], line: int) -> Node:
    line = lines.get(path, line)
    if isinstance(value, dict):
        return Node(line, {name: _from_plain(part, (*path, name), lines, line) for name, part in value.items()})
    if isinstance(value, list):
        return Node(line, [_from_plain(item, (*path, index), lines, line) for index, item in enumerate(value)])
    if isinstance(value, bool):
        return Node(line, str(value).lower())
    return Node(line, value if isinstance(value, str) else _as_go_writes(str(value)))


_INDEX = re.compile(r"\[\d+\]")


class Assignments:
    """A tree grown from single settings such as labels, flags and variables."""

    def __init__(self) -> None:
        self._root: dict[str, Any] = {}
        self._lines: dict[int, int] = {}

    def set(self, path: list[str], value: str, line: int) -> None:
        """Set one value; `list[0]` stands for an entry of a list."""
        parts: list[str] = []
        for part in path:
            name = _INDEX.sub("", part)
            parts += [name, *_INDEX.findall(part)]
        # Names differ by case between labels of one router; Traefik takes them for one.
        place = self._root
        for part in parts:
            same = next((known for known in place if known.lower() == part.lower()), part)
            place = place.setdefault(same, {})
            self._lines.setdefault(id(place), line)
        place[""] = Node(line, value)

    def tree(self) -> Node:
        """Everything that was set."""
        return self._node(self._root, 0)

    def _node(self, place: dict[str, Any], line: int) -> Node:
        line = self._lines.get(id(place), line)
        below = {name: part for name, part in place.items() if name}
        if not below:
            own = place.get("")
            return own if isinstance(own, Node) else Node(line, {})
        # `cookie=true` beside `cookie.name=x` only says once more that there is a cookie.
        return Node(line, {name: self._node(part, line) for name, part in below.items()})


def pairs(node: Node) -> list[tuple[int, str, str]]:
    """Line, name and value of labels or variables, in the list and in the map form."""
    if isinstance(node.value, dict):
        return [(child.line, name, child.text or "") for name, child in node.value.items()]
    found = []
    for item in node.items:
        if item.text is not None:
            name, _, value = item.text.partition("=")
            found.append((item.line, name.strip(), value))
    return found
