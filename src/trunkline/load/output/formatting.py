"""Numbers, and texts that others wrote, formatted for people: the same in every report and message. Pure.

Rules: three significant digits where a number is measured, every digit where it is counted; one unit a number, so that
a column can be read downwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, TypeVar

if TYPE_CHECKING:
    from trunkline.load.model.histogram import Quantiles
    from trunkline.load.model.tally import Latency

NONE = "-"

K = TypeVar("K", int, str)

Quantile = Literal["min", "mean", "p50", "p75", "p90", "p95", "p99", "p999", "max"]

LATENCY_NAMES: Final[dict[Latency, str]] = {
    "dial": "dial", "handshake": "handshake", "connect": "connect", "first_message": "first message",
    "round_trip": "round trip", "delivery": "delivery", "reconnect": "reconnect", "lag": "generator lag",
}  # fmt: skip

_CLOSE_CODES = {
    1000: "normal", 1001: "going away", 1002: "protocol error", 1003: "unsupported data", 1005: "no code",
    1006: "broken off", 1007: "invalid text", 1008: "policy", 1009: "too big", 1011: "server error",
    1012: "restart", 1013: "overloaded", 1014: "bad gateway",
}  # fmt: skip
"""RFC 6455, section 7.4.1, and the IANA registry, shortened."""


def plain(text: str) -> str:
    """An untrusted text with everything unprintable escaped as Python does.

    What is left moves no cursor, reverses no text, begins no line and is allowed in XML.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def fit(text: str, encoding: str) -> str:
    """The text with what `encoding` has no characters for escaped."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def marks(encoding: str) -> tuple[str, str]:
    """What stands before something that holds, and before something that does not."""
    return ("✓", "✗") if fit("✓✗", encoding) == "✓✗" else ("ok  ", "FAIL")


def count(number: int) -> str:
    """1234567 as `1,234,567`."""
    return f"{number:,}"


def counted(number: int, one: str, many: str = "") -> str:
    """`1 process`, `2 processes`; `many` is `one` with an s unless given."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def most_frequent(counts: Mapping[K, int]) -> list[tuple[K, int]]:
    """What was counted and how often, the most frequent first; equal counts in the order of what was counted."""
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def per_second(rate: float) -> str:
    """`12.3/s`."""
    return f"{significant(rate)}/s"


def significant(number: float) -> str:
    """Three significant digits and never an exponent: 0.0123, 1.23, 12.3, 123, 1,234."""
    if not math.isfinite(number):
        return NONE
    if abs(number) >= 99.95:
        return f"{number:,.0f}"
    if number == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(float(f"{number:.2e}")))))
    return f"{number:.{digits}f}"


def milliseconds(ms: float) -> str:
    """A latency in milliseconds, from a second on in seconds: `0.067 ms`, `12.3 ms`, `1.49 s`."""
    if not math.isfinite(ms):
        return NONE
    if ms >= 999.5:
        return f"{significant(ms / 1000)} s"
    # The histogram's unit is the microsecond: further digits would be invented.
    return f"{ms:.3f} ms" if 0 < ms < 0.9995 else f"{significant(ms)} ms"


def quantile(of: Quantiles, name: Quantile) -> str:
    """One value of a latency, or a dash when nothing was measured."""
    return milliseconds(getattr(of, name)) if of.count else NONE


def seconds(s: float) -> str:
    """A length of time: `0.5 s`, `61.2 s`, `10 min`, `2 h 05 min`."""
    if s < 120:
        return f"{s:.1f}".removesuffix(".0") + " s"
    minutes, rest = divmod(round(s), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"


def clock(s: float) -> str:
    """A moment of the run: `00:12`, `1:02:03`."""
    minutes, rest = divmod(int(s), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes:02}:{rest:02}"


def octets(number: float) -> str:
    """A number of bytes: `812 B`, `2.23 MiB`."""
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1023.5 or unit == "TiB":
            break
        number /= 1024
    return f"{significant(number)} {unit}"


def percent(share: float) -> str:
    """A share from 0 to 1 as `99.2 %`; never rounded to all or to nothing when it is not."""
    shown = significant(round(share * 100, 3))
    if shown == "100" and share < 1:
        shown = "99.99" if share < 0.999995 else "99.999"
    elif shown == "0" and share > 0:
        shown = "<0.001"
    return f"{shown} %"


def close_meaning(code: int) -> str:
    """What a close code means; empty for one without a registered meaning."""
    return _CLOSE_CODES.get(code, "")
