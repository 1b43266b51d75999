"""Durations and sizes with their units, as people and other programs write them: read and written here alone. Pure.

Rules:

- In settings and scenarios a duration may have several parts (`1m30s`) and spaces, and case does not matter.
- Traefik reads durations as Go does: no days, no spaces, perhaps a sign, and a bare whole number is seconds.
- Text that is no quantity gives None: the reader of a setting then names the setting and what it takes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final, NamedTuple

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_GO_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES: Final = {
    "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1024.0, "mib": 1024.0**2, "gib": 1024.0**3,
}  # fmt: skip

_NUMBER: Final = r"(\d+(?:\.\d+)?)"
_PART: Final = re.compile(rf"{_NUMBER}\s*(ms|s|min|m|h|d)\s*")
_GO_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SIZE: Final = re.compile(rf"{_NUMBER}\s*([a-z]+)")


def seconds(text: str) -> float | None:
    """A duration such as `500ms`, `30s`, `1m30s` or `1h` in seconds; None when it is none."""
    return _sum(text.strip().lower(), _PART, _SECONDS)


def milliseconds(text: str) -> float | None:
    """As `seconds`, in milliseconds."""
    found = seconds(text)
    return None if found is None else found * 1000


def go_seconds(text: str) -> float | None:
    """A duration as Traefik reads it, `1m30s` or whole seconds without a unit, in seconds; None when it is neither."""
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return float(text)
    found = _sum(text.lstrip("+-") if text[1:2] not in ("+", "-") else "", _GO_PART, _GO_SECONDS)
    return -found if found is not None and text.startswith("-") else found


def size(text: str) -> float | None:
    """A size such as `16KiB` or `2 MB` in bytes; None when it is none."""
    return _sum(text.strip().lower(), _SIZE, _BYTES)


def duration(milliseconds: int) -> str:
    """Milliseconds as Prometheus and its neighbours write a duration, in the largest unit that divides it."""
    if milliseconds:
        for unit, length in (("h", 3_600_000), ("m", 60_000)):
            if milliseconds % length == 0:
                return f"{milliseconds // length}{unit}"
    return go_duration(milliseconds)


def go_duration(milliseconds: int) -> str:
    """Milliseconds as Traefik's configuration has a duration, in seconds or milliseconds."""
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"


class Unit(NamedTuple):
    """What a setting is measured in: how a text with a unit is read (None when it is none), and an example."""

    read: Callable[[str], float | None]
    example: str


_OF_ENDINGS: Final[dict[str, Unit | None]] = {
    "_bytes_per_s": Unit(size, 'bytes, or text such as "64KiB"'),
    "_per_s": None,
    "_ms": Unit(milliseconds, 'milliseconds, or text such as "30s"'),
    "_s": Unit(seconds, 'seconds, or text such as "5m"'),
    "_bytes": Unit(size, 'bytes, or text such as "64KiB"'),
}


def unit_of(setting: str) -> Unit | None:
    """The unit that a setting's name ends with; None for a plain number or anything else."""
    return next((unit for ending, unit in _OF_ENDINGS.items() if setting.endswith(ending)), None)


def _sum(text: str, part: re.Pattern[str], units: dict[str, float]) -> float | None:
    if not text or part.sub("", text):
        return None
    found = part.findall(text)
    if any(unit not in units for _, unit in found):
        return None
    total = math.fsum(float(number) * units[unit] for number, unit in found)
    return total if math.isfinite(total) else None
