"""Latencies in mergeable HDR histograms: three significant digits from 1 us to an hour. Pure.

Rules: the hot path adds to a dict whose keys are the lowest values of an HDR histogram's buckets, in microseconds;
these sparse counts travel between processes and are added up. The standard encoding comes from the library, to
which a count is handed once a bucket and not once a message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from hdrh.histogram import HdrHistogram

LOWEST_US = 1
HIGHEST_US = 3_600_000_000
DIGITS = 3
_BITS = 11  # 2 ** 11 = 2048 sub-buckets hold three significant digits, as in the library
Counts = dict[int, int]  # microseconds (the lowest value of a bucket) to how often


class Recorder:
    """Counts latencies; one dict access each."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: Counts = {}

    def record(self, seconds: float, times: int = 1) -> None:
        """Count a latency `times` times; below a microsecond is one, above an hour is an hour."""
        us = int(seconds * 1e6)
        shift = us.bit_length() - _BITS
        if us < 1:  # also below zero, where clocks of two machines differ
            us = 1
        elif shift > 0:
            us = min((us >> shift) << shift, HIGHEST_US)
        counts = self.counts
        counts[us] = counts.get(us, 0) + times

    def take(self) -> Counts:
        """What was counted since the last call."""
        counts, self.counts = self.counts, {}
        return counts


class Quantiles(msgspec.Struct, frozen=True):
    """A latency in milliseconds."""

    count: int = 0
    mean: float = 0.0
    min: float = 0.0
    p50: float = 0.0
    p75: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0


_PERCENTS: Final = {"p50": 50.0, "p75": 75.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9, "max": 100.0}


def add(into: Counts, counts: Mapping[int, int]) -> None:
    """Add sparse counts to others."""
    for us, times in counts.items():
        into[us] = into.get(us, 0) + times


def to_hdr(counts: Mapping[int, int]) -> HdrHistogram:
    """The library's histogram of sparse counts."""
    histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
    for us, times in counts.items():
        histogram.record_value(us, times)
    return histogram


def encode(counts: Mapping[int, int]) -> str:
    """Sparse counts in the standard compressed encoding (HdrHistogram V2, base64), which other tools read."""
    encoded: bytes = to_hdr(counts).encode()
    return encoded.decode()


def quantile(counts: Mapping[int, int], percent: float) -> float:
    """The value in milliseconds that `percent` (0 to 100) of the latencies do not exceed; nan when there are none."""
    return at_percents(counts, (percent,))[0] if counts else math.nan


def at_percents(counts: Mapping[int, int], percents: Sequence[float]) -> list[float]:
    """The values in milliseconds at several percentages, which grow; `counts` is not empty.

    As in the library a value is the highest of its bucket. It is not used here because it walks all of its some 23,000
    buckets, which costs a busy second of a run 50 ms.
    """
    total = sum(counts.values())
    found: list[float] = []
    seen = 0
    values = iter(sorted(counts))
    us = 0
    for percent in percents:
        wanted = max(1, int(percent / 100 * total + 0.5))  # rounded as the library rounds
        while seen < wanted:
            us = next(values)
            seen += counts[us]
        found.append(_highest(us) / 1000)
    return found


def _highest(us: int) -> int:
    """The highest value that shares a bucket with its lowest."""
    return us + (1 << max(0, us.bit_length() - _BITS)) - 1


def quantiles(counts: Mapping[int, int]) -> Quantiles:
    """Everything that a report has of a latency."""
    if not counts:
        return Quantiles()
    total = sum(counts.values())
    mean = sum((us + _highest(us)) / 2 * times for us, times in counts.items()) / total / 1000
    values = dict(zip(_PERCENTS, at_percents(counts, tuple(_PERCENTS.values())), strict=True))
    return Quantiles(count=total, mean=round(mean, 4), min=min(counts) / 1000, **values)


def decode(encoded: str) -> HdrHistogram:
    """The histogram of an encoding; raises ValueError when it is none."""
    try:
        return HdrHistogram.decode(encoded.encode())
    except Exception as error:  # the library raises whatever its parts raise
        raise ValueError(f"not an HDR histogram: {error}") from None
