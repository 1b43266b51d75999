"""The series that a PromQL expression names, and whether each is declared. Pure.

Rule: this is no parser. It takes names that stand where a series may stand, and leaves out functions, operators, labels
in braces and after by/without/on/ignoring/group_left/group_right, and quoted text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_TEXT: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`')
_LABELS: Final = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]")
_GROUPING: Final = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)")
_NAME: Final = re.compile(r"(?<![\w:.$])([a-zA-Z_:][\w:]*)(?!\w*\s*\()")
_WORDS: Final = frozenset(
    ("and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right", "inf",
     "nan", "start", "end")
)  # fmt: skip
_SUFFIXES: Final = ("_bucket", "_sum", "_count")


def names_in(expression: str) -> set[str]:
    """The series that an expression names.

    Args:
        expression: PromQL; Grafana's `$variables` may stand in it.
    """
    text = _TEXT.sub('""', expression)
    text = _GROUPING.sub(" ", _LABELS.sub(" ", text))
    return {name for name in _NAME.findall(text) if name.lower() not in _WORDS}


def undeclared(expression: str, is_declared: Callable[[str], bool]) -> str | None:
    """The first series of an expression, by name, that is not declared; None when all are.

    Args:
        expression: PromQL.
        is_declared: whether a series of this name exists.
    """
    for name in sorted(names_in(expression)):
        base = next((name.removesuffix(end) for end in _SUFFIXES if name.endswith(end)), name)
        if not is_declared(name) and not is_declared(base):
            return name
    return None
