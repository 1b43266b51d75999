"""What one worker counts, and the beats in which its counts travel to the coordinator. Pure.

Rules: the hot path adds to plain attributes; a `Beat` is what came since the one before it, so beats of all workers add
up to the run, in any order. Nothing here waits or reads a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import msgspec

from trunkline.load.model.histogram import Counts, Recorder, add

Latency = Literal["dial", "handshake", "connect", "first_message", "round_trip", "delivery", "reconnect", "lag"]
LATENCIES: tuple[Latency, ...] = (
    "dial", "handshake", "connect", "first_message", "round_trip", "delivery", "reconnect", "lag",
)  # fmt: skip
"""dial: TCP connect. handshake: TLS and the upgrade, until the 101. connect: from the intended moment to the 101.
first_message: from the 101 to the server's first message. round_trip: from the intended sending of a message to its
answer (the echo, the publish_ack, the expected message). delivery: from the intended sending of a publication to a
subscriber's having it. reconnect: from the loss of a connection that should not have ended, or whose time away is over,
to being ready again (feed: subscribed and recovered). lag: how late the generator itself did what was due."""


class Totals(msgspec.Struct):
    """Counts of a beat, of a second or of a run."""

    attempts: int = 0  # connections tried
    opened: int = 0  # of those, with a 101
    failed: int = 0  # of those, refused, timed out or broken off before it
    cut: int = 0  # connections ended by this side because the scenario says so
    closed: int = 0  # connections ended by the other side, or broken, that should have stayed
    goodbyes: int = 0  # of those, planned: a `goodbye` that requests a reconnect (a drain, a move), or 1001 or 1012
    shed: int = 0  # of those, slow readers without a goodbye: a server is right to end them
    sent: int = 0  # messages sent (data messages: text and binary frames)
    received: int = 0  # messages received
    bytes_sent: int = 0  # payload bytes of those
    bytes_received: int = 0  # payload bytes of those
    published: int = 0  # publications sent
    acknowledged: int = 0  # publications whose position came back
    refused: int = 0  # publications that the server answered with an error
    unanswered: int = 0  # of the lost ones, those without an answer after the last wait, on connections that stayed
    abandoned: int = 0  # messages whose answer was awaited when their connection ended
    deliveries: int = 0  # publications received, each once: double ones are not in it
    recovered: int = 0  # of those, in answer to a recover
    unrecovered: int = 0  # subscriptions that requested recovery in vain
    refreshed: int = 0  # fresh tokens that the server took on open connections
    dropped: int = 0  # publications that a `gap` of the server announced as not delivered
    lost: int = 0  # messages or publications that never came
    duplicates: int = 0  # that came again
    reordered: int = 0  # that came late, behind later ones
    corrupt: int = 0  # that came back altered
    crossed: int = 0  # that came over another connection than the one they were for
    errors: int = 0  # whatever else went wrong, each also in `reasons`
    expected_errors: int = 0  # errors of the server that the scenario wants
    late: int = 0  # things done more than 10 ms after they were due, by the generator's own fault

    def add(self, other: Totals) -> None:
        """Add another's counts."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def success(self) -> float:
        """Share (0 to 1) of the tried connections that opened; 1 when none was tried."""
        return self.opened / self.attempts if self.attempts else 1.0

    @property
    def error_rate(self) -> float:
        """Share (0 to 1) of what was done that went wrong.

        Done: connections tried and messages sent. Wrong: failed connections, connections that ended unplanned
        and with no goodbye (slow readers aside), refused and unanswered messages, and everything in `errors`.
        """
        done = self.attempts + self.sent
        return self.wrong / done if done else 0.0

    @property
    def unplanned(self) -> int:
        """Connections that the other side ended, or that broke, without a plan."""
        return self.closed - self.goodbyes - self.shed

    @property
    def misdelivered(self) -> int:
        """Messages that were lost, came twice, out of order, altered or to somebody else."""
        return self.lost + self.duplicates + self.reordered + self.corrupt + self.crossed

    @property
    def wrong(self) -> int:
        """What went wrong, in number; see `error_rate`."""
        return self.failed + self.unplanned + self.refused + self.unanswered + self.errors


FindingKind = Literal["lost", "duplicate", "reordered", "corrupt", "crossed", "epoch"]


class Finding(msgspec.Struct, frozen=True):
    """One message that did not come as it should."""

    kind: FindingKind  # what is wrong; epoch: the channel started again, older offsets are void
    channel: str
    connection: int
    # The offset of the publication, or the number of the echoed message; for lost ones the last one missing.
    offset: int
    # For lost ones: the last offset seen before the hole, so that all of after < x <= offset are missing.
    after: int | None = None
    epoch: str = ""
    at_s: float = 0.0  # when it was noticed, from the start of the run
    owner: int | None = None  # for crossed ones: the connection that sent it, which did not get it


class Beat(msgspec.Struct, tag="beat"):
    """What one worker counted since its last beat."""

    worker: int
    second: int  # the whole second of the run in which it ended, from 0
    totals: Totals
    latencies: dict[Latency, Counts]  # sparse counts by name
    reasons: dict[str, int]
    closes: dict[int, int]
    open: int  # connections open now (a level, not a difference)
    cpu_s: float  # CPU time of the worker since the beat before
    findings: tuple[Finding, ...] = ()  # the first ones only; `totals` counts all


MAX_FINDINGS = 1000  # findings that one worker sends in all; it counts the rest
MAX_REASONS = 200  # different reasons that one worker counts apart; the rest is counted as `other`
MAX_REASON = 200  # how much of a reason is kept: parts of it may be the server's text
LATE_S = 0.010
RESTARTED = "a channel started again (its epoch changed) without notice"
"""Reason of what is found of the kind `epoch`."""


class Tally:
    """The live counts of one worker."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.dial, self.handshake, self.connect, self.first_message = Recorder(), Recorder(), Recorder(), Recorder()
        self.round_trip, self.delivery, self.reconnect, self.lag = Recorder(), Recorder(), Recorder(), Recorder()
        self.reasons: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.open = 0
        self._findings: list[Finding] = []
        self._found = 0
        self._known: set[str] = set()
        self._received_before = 0

    @property
    def received(self) -> int:
        """Messages received since the start."""
        return self._received_before + self.totals.received

    def error(self, reason: str) -> None:
        """Count something that went wrong and has no count of its own."""
        self.totals.errors += 1
        self.because(reason)

    def because(self, reason: str, times: int = 1) -> None:
        """Count the reason for something that was counted elsewhere."""
        # Half a surrogate pair, which a user's flow may hand over, could be neither sent nor shown.
        reason = reason.encode("utf-8", "backslashreplace").decode()[:MAX_REASON]
        if reason not in self._known:
            if len(self._known) >= MAX_REASONS:
                reason = "other"
            self._known.add(reason)
        self.reasons[reason] += times

    def behind(self, seconds: float, times: int = 1) -> None:
        """Something was done so much later than it was due; `times` things that were done together."""
        self.lag.record(seconds, times)
        if seconds > LATE_S:
            self.totals.late += times

    def find(self, findings: Iterable[Finding]) -> None:
        """Name messages that did not come as they should and count them; what is lost, the caller counts."""
        for finding in findings:
            if finding.kind == "duplicate":
                self.totals.duplicates += 1
            elif finding.kind == "reordered":
                self.totals.reordered += 1
            elif finding.kind == "corrupt":
                self.totals.corrupt += 1
            elif finding.kind == "crossed":
                self.totals.crossed += 1
            elif finding.kind == "epoch":
                self.error(RESTARTED)
            if self._found < MAX_FINDINGS:
                self._found += 1
                self._findings.append(finding)

    def beat(self, worker: int, second: int, cpu_s: float) -> Beat:
        """What was counted since the last call."""
        totals, self.totals = self.totals, Totals()
        self._received_before += totals.received
        reasons, self.reasons = self.reasons, Counter()
        closes, self.closes = self.closes, Counter()
        findings, self._findings = self._findings, []
        recorders: dict[Latency, Recorder] = {name: getattr(self, name) for name in LATENCIES}
        return Beat(
            worker=worker, second=second, totals=totals, open=self.open, cpu_s=cpu_s, findings=tuple(findings),
            latencies={name: counts for name, each in recorders.items() if (counts := each.take())},
            reasons=dict(reasons), closes=dict(closes),
        )  # fmt: skip


class Sum:
    """Beats added up: the whole run so far, or one second of it."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.latencies: dict[Latency, Counts] = {name: {} for name in LATENCIES}
        self.reasons: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.findings: list[Finding] = []

    def add(self, beat: Beat) -> None:
        """Add one beat."""
        self.totals.add(beat.totals)
        for name, counts in beat.latencies.items():
            add(self.latencies[name], counts)
        self.reasons.update(beat.reasons)
        self.closes.update(beat.closes)
        self.findings.extend(beat.findings)

    @property
    def message(self) -> Counts:
        """Round trips and deliveries together."""
        both: Counts = dict(self.latencies["round_trip"])
        add(both, self.latencies["delivery"])
        return both
