"""The tables of the monitoring, `monitor/data/`: read, completed with values of the settings, decoded.

Rules:

- `${name}` in a file stands for a variable. Names are in lower case, so that `${FILEBEAT_PASSWORD}`, which the program
  itself replaces, stays as it is.
- What is wrong with a file is reported with file and line. The line is looked up only then.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

DATA: Final = Path(__file__).parent.parent / "data"

Key = str | int
Variables = Mapping[str, str]
"""What `${name}` stands for, by name."""

_VARIABLE: Final = re.compile(r"\$\{([a-z_]+)\}")
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
# The one in C is ten times as fast; PyYAML has it on every platform with a wheel.
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

T = TypeVar("T")


class DataError(ValueError):
    """A file of `monitor/data/` cannot be used; the text begins with its path and line."""


class DataFile:
    """A YAML file.

    Args:
        path: where it is.

    Raises:
        DataError: it is no YAML.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        try:
            self.document: Any = yaml.load(self.text, Loader=_Loader)  # noqa: S506 - one of the two safe loaders
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise DataError(f"{path}:{line}: {error.problem}") from None

    @property
    def head(self) -> tuple[str, ...]:
        """The comment at the very top, without `#`, up to the first line that is none."""
        lines = self.text.splitlines()
        end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
        return tuple(line.removeprefix("#").removeprefix(" ") for line in lines[:end])

    def completed(self, variables: Variables) -> Any:
        """The document with variables replaced.

        Raises:
            DataError: it names a variable that does not exist.
        """
        return _completed(self.document, lambda found: self._value(found[1], variables))

    def decode(self, value: object, type_: type[T], *keys: Key, strict: bool = True) -> T:
        """A part of the document as a struct.

        Args:
            value: the part, completed.
            type_: the struct.
            keys: where the part stands.
            strict: whether a text is no number; False where a variable stands for one.

        Raises:
            DataError: the part is none.
        """
        try:
            return msgspec.convert(value, type_, strict=strict)
        except msgspec.ValidationError as error:
            why, _, path = str(error).partition(" - at `$")
            steps = (int(step[2]) if step[2] else step[1] for step in _STEP.finditer(path))
            raise self.error(why, *keys, *steps) from None

    def error(self, why: str, *keys: Key, word: str = "") -> DataError:
        """What is wrong, with the place.

        Args:
            why: one sentence.
            keys: where the part stands.
            word: what to look for from there on.
        """
        node: Any = yaml.compose(self.text, Loader=_Loader)
        for key in keys:
            children: dict[Key, Any] = {}
            if isinstance(node, yaml.MappingNode):
                children = {name.value: value for name, value in node.value}
            elif isinstance(node, yaml.SequenceNode):
                children = dict(enumerate(node.value))
            if key not in children:
                break
            node = children[key]
        line: int = node.start_mark.line if node else 0
        below = (number for number, text in enumerate(self.text.splitlines()) if number >= line and word in text)
        return DataError(f"{self.path}:{next(below, line) + 1}: {why}")

    def _value(self, name: str, variables: Variables) -> str:
        if name not in variables:
            raise self.error(f"there is no variable ${{{name}}}", word=f"${{{name}}}")
        return variables[name]


@functools.cache
def data_file(name: str) -> DataFile:
    """The YAML file of this name below `monitor/data/`, read once."""
    return DataFile(DATA / name)


def filled(name: str, variables: Variables) -> str:
    """The text of a file that is no YAML, with variables replaced.

    Args:
        name: below `monitor/data/`.
        variables: all that it names.
    """
    return _VARIABLE.sub(lambda found: variables[found[1]], (DATA / name).read_text(encoding="utf-8"))


def _completed(part: Any, value: Callable[[re.Match[str]], str]) -> Any:
    if isinstance(part, str):
        return _VARIABLE.sub(value, part)
    if isinstance(part, list):
        return [_completed(each, value) for each in part]
    if isinstance(part, dict):
        return {name: _completed(each, value) for name, each in part.items()}
    return part
