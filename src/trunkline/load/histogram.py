"""Latencies in mergeable HDR histograms: three significant digits from 1 us to an hour.

Rules: the hot path adds to a dict whose keys are the lowest values of an HDR histogram's buckets, in microseconds;
these sparse counts travel between processes and are added up. Quantiles and the standard encoding come from the
library, to which a count is handed once a bucket and not once a message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from hdrh.histogram import HdrHistogram

LOWEST_US = 1
HIGHEST_US = 3_600_000_000
DIGITS = 3
_BITS = 11
"""2 ** 11 = 2048 sub-buckets hold three significant digits, as in the library."""

Counts = dict[int, int]
"""Microseconds (the lowest value of a bucket) to how often."""


class Recorder:
    """Counts latencies; one dict access each."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: Counts = {}

    def record(self, seconds: float) -> None:
        """Count one latency; below a microsecond is one, above an hour is an hour."""
        us = int(seconds * 1e6)
        shift = us.bit_length() - _BITS
        if shift > 0:
            us = (us >> shift) << shift
            if us > HIGHEST_US:
                us = HIGHEST_US
        elif us < 1:
            us = 1
        counts = self.counts
        counts[us] = counts.get(us, 0) + 1

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
    if not counts:
        return math.nan
    value: int = to_hdr(counts).get_value_at_percentile(percent)
    return value / 1000


def quantiles(counts: Mapping[int, int]) -> Quantiles:
    """Everything that a report says of a latency."""
    if not counts:
        return Quantiles()
    histogram = to_hdr(counts)
    values: dict[float, int] = histogram.get_percentile_to_value_dict([50, 75, 90, 95, 99, 99.9])
    p50, p75, p90, p95, p99, p999 = (value / 1000 for value in values.values())
    return Quantiles(
        count=histogram.get_total_count(), mean=round(histogram.get_mean_value() / 1000, 4),
        min=histogram.get_min_value() / 1000, p50=p50, p75=p75, p90=p90, p95=p95, p99=p99, p999=p999,
        max=histogram.get_max_value() / 1000,
    )  # fmt: skip


def decode(encoded: str) -> HdrHistogram:
    """The histogram of an encoding; raises ValueError when it is none."""
    try:
        return HdrHistogram.decode(encoded.encode())
    except Exception as error:  # the library raises whatever its parts raise
        raise ValueError(f"not an HDR histogram: {error}") from None
