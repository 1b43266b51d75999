"""Reports for tests of what is made from them: one of a run that went well, one of a run that went badly.

The numbers are those of a small real run in size, but drawn from seeded random numbers: the same in each test.
"""

from __future__ import annotations

import functools
import math
import random

import msgspec

from trunkline.load.model.histogram import Counts, Quantiles, Recorder, encode, quantiles
from trunkline.load.model.report import FORMAT, Balance, Judged, Machine, Measured, Report, Second, ServerSample
from trunkline.load.model.tally import Finding, Latency, Totals

PEAK = 1_000
LASTS_S = 60
SEED = 7

_MEDIANS_MS: dict[Latency, tuple[float, float, int]] = {
    "dial": (0.21, 0.5, 1_000),
    "handshake": (1.4, 0.4, 1_000),
    "connect": (1.9, 0.5, 1_000),
    "first_message": (0.8, 0.5, 1_000),
    "round_trip": (1.6, 0.45, 12_500),
    "delivery": (2.3, 0.5, 100_000),
    "lag": (0.09, 0.6, 13_500),
}
"""Median in ms, spread (sigma of a log-normal distribution) and how many."""


def counts_of(median_ms: float, sigma: float, times: int, seed: int = SEED) -> Counts:
    """Sparse counts of `times` latencies, log-normal; no more than 5,000 are drawn, each counted several times."""
    rng = random.Random(seed)
    recorder = Recorder()
    drawn = min(times, 5_000)
    for _ in range(drawn):
        recorder.record(rng.lognormvariate(math.log(median_ms / 1000), sigma))
    each, rest = divmod(times, drawn)
    counts = {us: count * each for us, count in recorder.counts.items()}
    if rest:
        first = min(counts)
        counts[first] += rest
    return counts


def measured(median_ms: float, sigma: float = 0.5, times: int = 10_000, seed: int = SEED) -> Measured:
    """A latency of a report."""
    counts = counts_of(median_ms, sigma, times, seed)
    return Measured(quantiles(counts), encode(counts))


def second_of(at_s: int, *, server: bool = True, slower: float = 1.0) -> Second:
    """One second of the run: 20 s up to the peak, 30 s held, 10 s down."""
    if at_s <= 20:
        stage, target, opened = "up", PEAK * at_s // 20, PEAK // 20
    elif at_s <= 50:
        stage, target, opened = "hold", PEAK, 0
    else:
        stage, target, opened = "down", PEAK * (LASTS_S - at_s) // 10, 0
    closing = PEAK // 10 if stage == "down" else 0
    sent = 250 if at_s <= 50 else 0
    wave = slower * (1 + 0.2 * math.sin(at_s / 3))
    received = sent * (1 + 10 * target // PEAK)
    sample = None
    if server:
        sample = ServerSample(
            at_s=at_s, servers=2, connections=target, cpu_percent=round(12 + 40 * target / PEAK * wave, 1),
            memory_bytes=(150 << 20) + target * 14_000, outbox_bytes=target * 40, loop_lag_s=0.0012 * wave,
        )  # fmt: skip
    return Second(
        at_s=float(at_s),
        stage=stage,
        target=target,
        open=target,
        totals=Totals(
            attempts=opened, opened=opened, cut=closing, sent=sent + opened, received=received + opened,
            bytes_sent=sent * 180 + opened * 90, bytes_received=received * 210 + opened * 140, published=sent,
            acknowledged=sent, deliveries=received - sent,
        ),
        connect=_around(1.9 * wave, opened),
        message=_around(2.2 * wave, received),
        lag_max=round(0.6 * wave, 3),
        generator_cpu=round(0.08 + 0.3 * target / PEAK, 3),
        server=sample,
    )  # fmt: skip


def _around(median_ms: float, count: int) -> Quantiles:
    if not count:
        return Quantiles()
    mean, low, p75, p90, p95, p99, p999, high = (
        round(median_ms * by, 3) for by in (1.13, 0.25, 1.4, 1.9, 2.3, 3.2, 4.7, 6.0)
    )
    return Quantiles(count, mean, low, round(median_ms, 3), p75, p90, p95, p99, p999, high)


def example_report(**changes: object) -> Report:
    """A run that went well; `changes` replaces fields of the report."""
    return msgspec.structs.replace(msgspec.json.decode(_good(), type=Report), **changes)


def faulty_report(**changes: object) -> Report:
    """The same run against a server that loses, repeats and reorders, cuts connections and gets slow."""
    report = example_report()
    totals = msgspec.structs.replace(
        report.totals, attempts=1_012, opened=1_004, failed=8, closed=16, goodbyes=12, unanswered=5, abandoned=3,
        refused=2, unrecovered=1, dropped=40, lost=3, duplicates=2, reordered=1, errors=4, late=27,
        acknowledged=12_490, deliveries=99_957, received=113_459, recovered=120,
    )  # fmt: skip
    findings = [
        Finding("lost", "public.load.q7x2m4ka.12", 17, 1041, after=1040, epoch="k3", at_s=12.34),
        Finding("duplicate", "public.load.q7x2m4ka.3", 230, 77, epoch="k3", at_s=20.5),
        Finding("lost", "public.load.q7x2m4ka.12", 18, 1062, after=1060, epoch="k3", at_s=31.0),
        Finding("reordered", "public.load.q7x2m4ka.40", 512, 300, epoch="k3", at_s=33.2),
        Finding("duplicate", "public.load.q7x2m4ka.3", 231, 91, epoch="k3", at_s=40.75),
    ]
    reasons = {
        "connect timed out after 10 s": 6, "HTTP 503": 2, "publish refused: rate_limited": 2,
        "no answer": 5, "closed with 1011 by the server": 4, "not JSON": 4, "gap: outbox_full": 40,
    }  # fmt: skip
    latencies = dict(report.latencies)
    latencies["delivery"] = measured(30.0, 1.1, 99_957)
    latencies["reconnect"] = measured(1_400.0, 0.3, 12)
    thresholds = [
        Judged("connect_p95<2s", 4.2, "4.2 ms", passed=True, default=True),
        Judged("message_p95<1s", 180.4, "180.4 ms", passed=True, default=True),
        Judged("success>95%", 99.2, "99.2 %", passed=True, default=True),
        Judged("errors<1%", 0.164, "0.164 %", passed=True, default=True),
        Judged("lost==0", 3, "3", passed=False, default=True),
        Judged("delivery_p99<50ms", 383.2, "383.2 ms", passed=False),
        Judged("reconnect_p99<5s", None, "not measured", passed=False),
    ]
    balances = [
        Balance("connections opened", 1_004, 1_004, 0, holds=True, note="the same"),
        Balance("messages to the servers", 13_500, 13_500, 0, holds=True, note="the same"),
        Balance("messages from the servers", 113_459, 113_502, 40, holds=False, note="3 are missing"),
        Balance("bytes from the servers", 23_756_000, None, 0, holds=True, note="the servers do not say"),
    ]
    warnings = [
        "The generator was the limit: 27 actions were more than 10 ms late, the busiest worker used 98 % of its core.",
        "2 of 2 servers restarted during the run; their counts start anew.",
    ]
    bad = msgspec.structs.replace(
        report, verdict="failed", totals=totals, success=totals.success, error_rate=totals.error_rate,
        latencies=latencies, message=measured(18.0, 1.3, 112_457).quantiles, reasons=reasons,
        closes={1001: 12, 1011: 3, 1006: 1}, findings=findings, thresholds=thresholds, balances=balances,
        warnings=warnings, seconds=[second_of(at_s, slower=1 + at_s / 6) for at_s in range(1, LASTS_S + 1)],
    )  # fmt: skip
    return msgspec.structs.replace(bad, **changes)


@functools.cache
def _good() -> bytes:
    seconds = [second_of(at_s) for at_s in range(1, LASTS_S + 1)]
    totals = Totals()
    for second in seconds:
        totals.add(second.totals)
    latencies = {name: measured(*shape) for name, shape in _MEDIANS_MS.items()}
    report = Report(
        format=FORMAT,
        version="0.4.0",
        scenario="ramp",
        description="Up to the peak in a third of the time, held, and down.",
        protocol="feed",
        url="ws://127.0.0.1:8080/ws",
        run="q7x2m4ka",
        started="2026-03-01T09:30:00Z",
        planned_s=float(LASTS_S),
        lasted_s=61.2,
        peak=PEAK,
        workers=2,
        agents=(),
        machine=Machine(cpus=2, python="3.13.1", system="Linux 6.8 x86_64"),
        verdict="passed",
        totals=totals,
        success=totals.success,
        error_rate=totals.error_rate,
        latencies=latencies,
        message=measured(2.2, 0.5, 112_500).quantiles,
        seconds=seconds,
        reasons={},
        closes={},
        findings=[],
        thresholds=[
            Judged("connect_p95<2s", 4.2, "4.2 ms", passed=True, default=True),
            Judged("message_p95<1s", 5.0, "5.0 ms", passed=True, default=True),
            Judged("success>95%", 100.0, "100 %", passed=True, default=True),
            Judged("errors<1%", 0.0, "0 %", passed=True, default=True),
            Judged("delivery_p99<50ms", 7.4, "7.4 ms", passed=True),
        ],
        balances=[
            Balance("connections opened", 1_000, 1_000, 0, holds=True, note="the same"),
            Balance("messages to the servers", 13_500, 13_500, 0, holds=True, note="the same"),
            Balance("messages from the servers", totals.received, totals.received, 0, holds=True, note="the same"),
        ],
        warnings=[],
    )  # fmt: skip
    return msgspec.json.encode(report)
