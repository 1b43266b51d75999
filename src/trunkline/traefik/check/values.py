"""What Traefik takes as a value: numbers, switches, durations, networks, addresses, status codes, expressions. Pure.

Rules:

- What is read is what Traefik's decoder sees: numbers as Go writes them (`documents.py`), and nothing is trimmed.
- A value that another program fills in (`${NAME}`, `{{ … }}`) may become anything and is never wrong here.
- Expressions are Go's (RE2). What Python cannot tell about them is taken for right.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Literal, get_args

from trunkline.settings.quantities import go_seconds
from trunkline.traefik.check.documents import Node

Kind = Literal["bool", "int", "number", "duration"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_SWITCHES: Final = ("1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False")
_INT: Final = re.compile(r"[-+]?[0-9]+")
_NUMBER: Final = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_INSTEAD: Final[dict[Kind, str]] = {
    "bool": "write true or false",
    "int": "write a whole number without a unit",
    "number": "write a number such as 0.5",
    "duration": "write a duration such as 500ms, 10s or 1m30s; a bare whole number is seconds",
}
_NAMES: Final[dict[Kind, str]] = {"bool": "switch", "int": "whole number", "number": "number", "duration": "duration"}
_64_BIT: Final = 2**63


def is_filled_in(text: str) -> bool:
    """Whether another program replaces a part of it before Traefik reads it."""
    return "${" in text or "{{" in text


def why_no(kind: Kind, node: Node) -> tuple[str, str] | None:
    """Why a value is none of this kind, and what to write; None when it is one."""
    if isinstance(node.value, list):
        return f"a list is no {_NAMES[kind]}", _INSTEAD[kind]
    text = node.text
    if text is None or is_filled_in(text) or _is(kind, text):
        return None
    return f"{text!r} is no {_NAMES[kind]}", _INSTEAD[kind]


def _is(kind: Kind, text: str) -> bool:
    if kind == "bool":
        return text in _SWITCHES
    if kind == "duration":
        return go_seconds(text) is not None
    if kind == "number":
        return _NUMBER.fullmatch(text) is not None
    return _INT.fullmatch(text) is not None and -_64_BIT <= int(text) < _64_BIT


def is_network(text: str) -> bool:
    """Whether it is an address or a network as Go reads them: with a prefix length, without a mask or a zone."""
    address, slash, length = text.partition("/")
    if "%" in address or (slash and not re.fullmatch(r"[0-9]{1,3}", length)):
        return False
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def why_no_address(text: str, protocols: tuple[str, ...] = ("tcp", "udp")) -> str | None:
    """Why nothing can listen on an address such as `:80`, `[::1]:80` or `:53/udp`; None when something can."""
    where, slash, protocol = text.partition("/")
    if slash and protocol.lower() not in protocols:
        return f"{protocol!r} is no protocol ({' and '.join(protocols)} are)"
    host, colon, port = where.rpartition(":")
    if not colon:
        return "it has no port" if where else None
    if (":" in host or "[" in host or "]" in host) and not re.fullmatch(r"\[[^\[\]]*\]", host):
        return "an IPv6 address stands in brackets"
    if port.isdecimal() and int(port) > 65535:
        return f"port {port} is above 65535"
    if port and not re.fullmatch(r"[0-9]+|[A-Za-z][A-Za-z0-9-]*", port):
        return f"{port!r} is no port"
    return None


def is_status_range(text: str) -> bool:
    """Whether it is a status code or a range of them, such as `404` or `500-599`."""
    return re.fullmatch(r"[0-9]+(-[0-9]+)?", text) is not None


_ESCAPES: Final = re.compile(r"\\([A-Za-z0-9])")
_KNOWN_ESCAPES: Final = frozenset("AbBdDsSwWzafnrtvpPxQEC01234567")
_NOT_GO: Final = (
    (re.compile(r"\(\?(?:[=!>#(]|<[=!])"), "Go has no {}"),
    (re.compile(r"[*+?}]\+"), "Go has no {}"),
)
_COUNT: Final = re.compile(r"\{(\d+)(?:,(\d*))?\}")


def why_no_expression(text: str) -> str | None:
    """Why Go cannot compile a regular expression; None when it can, as far as Python tells."""
    if r"\Q" in text:
        return None
    plain = text.replace("\\\\", "__")
    for escape in _ESCAPES.finditer(plain):
        if escape.group(1) not in _KNOWN_ESCAPES:
            return f"Go has no {escape.group()}"
    if found := re.search(r"\\[1-9]", plain):
        return f"Go has no back reference {found.group()}"
    # Operators are looked for where neither an escape nor a class can hide a sign that is none.
    bare = re.sub(r"\[\^?\]?(?:\[:\^?\w+:\]|[^\]])*\]", "x", re.sub(r"\\.", "x", plain, flags=re.DOTALL))
    for expression, why in _NOT_GO:
        if found := expression.search(bare):
            return why.format(found.group())
    if any(int(number) > 1000 for count in _COUNT.findall(bare) for number in count if number):
        return "Go repeats at most 1000 times"
    # Python knows other names of classes, and flags only at the start.
    as_python = re.sub(r"\\[pP](?:\{\^?\w+\}|\w)|\[:\^?\w+:\]|\\z|\\C", "x", plain)
    as_python = re.sub(r"\(\?<(?=\w)", "(?P<", as_python)
    as_python = re.sub(r"\(\?(?:[imsU]+(?:-[imsU]+)?|-[imsU]+)\)", "", as_python)
    as_python = re.sub(r"\(\?[imsU]*-?[imsU]*:", "(?:", as_python)
    try:
        re.compile(as_python)
    except (re.error, OverflowError) as error:
        return f"it does not compile: {error}"
    return None
