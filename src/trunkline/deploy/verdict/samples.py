"""Seconds of a deploy put together, so that a long one fits where it is kept. Pure.

Rules: what stands for several seconds keeps their peaks: the greatest rate, lag and time away, the fewest witnesses. Of
levels that are no peaks, such as clients by colour, it has the last.
"""

from __future__ import annotations

from collections.abc import Sequence

from trunkline.deploy.verdict.facts import Sample


def thinned(samples: Sequence[Sample], most: int) -> tuple[Sample, ...]:
    """At most `most` samples, in order; as many seconds in each."""
    each = -(-len(samples) // most) if samples else 1
    if each == 1:
        return tuple(samples)
    return tuple(_together(samples[first : first + each]) for first in range(0, len(samples), each))


def _together(samples: Sequence[Sample]) -> Sample:
    last = samples[-1]
    return Sample(
        at_s=last.at_s, state=last.state, clients=last.clients,
        opened_per_s=max(sample.opened_per_s for sample in samples),
        limit_per_s=last.limit_per_s,
        refused_per_s=max(sample.refused_per_s for sample in samples),
        witnesses=min(sample.witnesses for sample in samples),
        away_p50_s=last.away_p50_s,
        away_p99_s=max(sample.away_p99_s for sample in samples),
        lag_ms=max(sample.lag_ms for sample in samples),
    )  # fmt: skip
