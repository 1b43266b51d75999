"""The names in a PromQL expression, and whether each is declared. Pure.

An expression with a misspelt series is not wrong to Prometheus: it is silent for ever. So every expression of a rule or
a panel is checked when its module is loaded.

Rule: this is no parser. It takes words that stand where a series may stand, and leaves out functions, operators, labels
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
    (
        "and",
        "or",
        "unless",
        "bool",
        "offset",
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "group_right",
        "inf",
        "nan",
        "start",
        "end",
    )
)
_SUFFIXES: Final = ("_bucket", "_sum", "_count")


def names_in(expression: str) -> set[str]:
    """The series that an expression names.

    Args:
        expression: PromQL; Grafana's `$variables` may stand in it.
    """
    text = _TEXT.sub('""', expression)
    text = _GROUPING.sub(" ", _LABELS.sub(" ", text))
    return {name for name in _NAME.findall(text) if name.lower() not in _WORDS}


def check(expression: str, is_declared: Callable[[str], bool], where: str) -> None:
    """Refuse an expression that names a series nobody declared.

    Args:
        expression: PromQL.
        is_declared: whether a series of this name exists.
        where: of the rule or panel, for the error.

    Raises:
        ValueError: names the first unknown series.
    """
    for name in sorted(names_in(expression)):
        base = next((name.removesuffix(end) for end in _SUFFIXES if name.endswith(end)), name)
        if not is_declared(name) and not is_declared(base):
            raise ValueError(f"{where} names the series {name}, which is declared nowhere")
