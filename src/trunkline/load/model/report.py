"""The report of a run: one JSON struct, from which summary, JUnit, page and `compare` are made. Pure.

Rules: latencies in milliseconds, shares from 0 to 1, times in seconds from the start of the run. Nothing secret is in
it: the URL is without user, password and query values.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trunkline.load.model.histogram import Quantiles
from trunkline.load.model.tally import Finding, Latency, Totals

FORMAT = 1

Verdict = Literal["passed", "failed", "interrupted"]


class Measured(msgspec.Struct, frozen=True):
    """A latency over the whole run, with its histogram in the standard encoding."""

    quantiles: Quantiles
    hdr: str


class ServerSample(msgspec.Struct, frozen=True):
    """What the servers reported at one moment, added up over them; CPU is the highest."""

    at_s: float
    servers: int  # how many answered
    connections: int = 0
    cpu_percent: float = 0.0
    memory_bytes: int = 0
    outbox_bytes: int = 0
    loop_lag_s: float = 0.0
    draining: int = 0  # how many are draining


class Second(msgspec.Struct):
    """One second of the run."""

    at_s: float  # its end
    stage: str
    target: int  # connections that the stage wants then
    open: int
    totals: Totals
    connect: Quantiles
    message: Quantiles
    lag_max: float = 0.0  # the generator's own greatest lag, in ms
    generator_cpu: float = 0.0  # CPU of the busiest worker, as a share of one core
    server: ServerSample | None = None  # what the servers reported, if anything


class Judged(msgspec.Struct, frozen=True):
    """A threshold and what came out, in its unit (None: nothing was measured) and as text; `default`: built in."""

    threshold: str
    value: float | None
    shown: str
    passed: bool
    default: bool = False


class Balance(msgspec.Struct, frozen=True):
    """What this side counted beside the servers (None: they do not), and how much of the difference is explained."""

    what: str
    ours: int
    theirs: int | None
    explained: int
    holds: bool
    note: str


class Machine(msgspec.Struct, frozen=True):
    """Where the generator ran."""

    cpus: int
    python: str
    system: str


class Report(msgspec.Struct):
    """A run, from beginning to end."""

    format: Annotated[int, msgspec.Meta(ge=1, le=FORMAT)]
    version: str
    scenario: str
    description: str
    protocol: str
    url: str
    run: str
    started: str
    planned_s: float
    lasted_s: float
    peak: int  # the most connections open at once, as far as the seconds show it
    workers: int
    agents: tuple[str, ...]
    machine: Machine
    verdict: Verdict
    totals: Totals
    success: float
    error_rate: float
    latencies: dict[Latency, Measured]
    message: Quantiles
    seconds: list[Second]
    reasons: dict[str, int]
    closes: dict[int, int]
    findings: list[Finding]
    thresholds: list[Judged]
    balances: list[Balance]
    warnings: list[str]

    @property
    def wanted(self) -> int:
        """The most connections that a stage wanted, as far as the run went."""
        return max((second.target for second in self.seconds), default=0)

    def per_second(self, count: Literal["sent", "received"]) -> float:
        """The mean over the whole seconds of the stages; what comes in while a run settles is no rate of it."""
        whole = [getattr(second.totals, count) for second in self.seconds if second.at_s <= self.lasted_s]
        if whole:
            return float(sum(whole) / len(whole))
        number: int = getattr(self.totals, count)
        return number / self.lasted_s if self.lasted_s > 0 else 0.0


def encode(report: Report) -> bytes:
    """The report as JSON text, indented."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1)


class _Head(msgspec.Struct):
    format: int


def decode(text: bytes) -> Report:
    """A report from JSON text; raises msgspec.ValidationError or DecodeError when it is none."""
    # The number first: in a newer report any other field may differ, and the error would name that field.
    number = msgspec.json.decode(text, type=_Head).format
    if number > FORMAT:
        raise msgspec.ValidationError(
            f"it has format {number}, and this version reads {FORMAT} at most: use the version that wrote it"
        )
    return msgspec.json.decode(text, type=Report)
