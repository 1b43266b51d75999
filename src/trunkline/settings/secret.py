"""Values that must not be seen: secrets that do not print, and passwords within URLs. Pure."""

from __future__ import annotations

import re

MASK = "***"

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*://)[^/?#@\s,]*@")


class Secret:
    """A value whose `repr` is `***`; `str()` raises, because a key that is silently `***` would let everybody in."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one place that needs it."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        raise TypeError("a Secret has no text; call reveal() where the value is needed")

    def __format__(self, spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)


def mask_url(text: str) -> str:
    """`text` with the user, password or token of every URL in it replaced by `***`."""
    return _USERINFO.sub(rf"\g<scheme>{MASK}@", text)
