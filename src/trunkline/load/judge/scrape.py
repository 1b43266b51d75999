"""What one server reports at `/metrics`, read and added up. Pure.

Rules:

- Only declared series are read; they are named here and nowhere else, so a renamed one breaks this import.
- A counter that falls belongs to a new process: what the ended one counted, as far as it was read, stays in the sum.
- An answer is untrusted: at most `MAX_SAMPLES` of its lines are read, and a malformed one makes it no answer.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from trunkline.metrics.series import BY_NAME

MAX_SAMPLES: Final = 2_000  # a node has about a hundred, and one more for each value of its labels
GREATEST: Final = float(1 << 53)
"""No real count is greater; beyond it neither the text format nor JSON is exact."""


class Counters(msgspec.Struct, frozen=True):
    """What servers counted since they began, as far as this side counts the same."""

    connections: int = 0
    messages_sent: int = 0  # messages handed to clients' sockets, heartbeats and goodbyes among them, pings not
    messages_received: int = 0
    disconnects: dict[tuple[str, str], int] = {}  # ended connections by (reason, initiated by)
    # By reason; for slow clients each delivery, else each hole in a channel of a node.
    publications_dropped: dict[str, int] = {}
    slow_clients_disconnected: int = 0  # closed because they did not keep up
    active: int = 0  # connections open now; the one that may fall


_SERIES: Final = {
    "connections": BY_NAME["ws_connections_total"],
    "messages_sent": BY_NAME["ws_messages_sent_total"],
    "messages_received": BY_NAME["ws_messages_received_total"],
    "disconnects": BY_NAME["ws_disconnects_total"],
    "publications_dropped": BY_NAME["ws_publications_dropped_total"],
    "slow_clients_disconnected": BY_NAME["ws_slow_clients_disconnected_total"],
    "active": BY_NAME["ws_connections_active"],
    "cpu_percent": BY_NAME["ws_cpu_usage_percent"],
    "memory_bytes": BY_NAME["ws_memory_bytes"],
    "outbox_bytes": BY_NAME["ws_outbox_bytes"],
    "loop_lag_s": BY_NAME["ws_event_loop_lag_seconds"],
    "draining": BY_NAME["ws_draining"],
}
"""Fields of `Counters` and of `Scrape`, and the series that they are read from."""

_BUILD: Final = BY_NAME["ws_build_info"]
_FIELDS: Final = {series.name: (field, series.labels) for field, series in _SERIES.items()}
_WANTED: Final = tuple(f"{name}{mark}" for name in (*_FIELDS, _BUILD.name) for mark in "{ ")


class Scrape(msgspec.Struct, frozen=True):
    """One answer of one server, by its name; CPU is a share of what it may use, `draining` 1 while it drains."""

    node: str
    version: str
    counters: Counters
    cpu_percent: float = 0.0
    memory_bytes: int = 0
    outbox_bytes: int = 0
    loop_lag_s: float = 0.0
    draining: int = 0


def read(text: str) -> Scrape | None:
    """Read a whole answer in Prometheus' text format; None when it is not that of a Trunkline node."""
    lines = [line for line in text.splitlines() if line.startswith(_WANTED)]
    if len(lines) > MAX_SAMPLES:
        return None
    numbers: dict[str, float] = {}
    labelled: dict[str, dict[str | tuple[str, ...], int]] = {}
    node: str | None = None
    version = ""
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                if sample.name == _BUILD.name:
                    node, version = sample.labels.get("node", ""), sample.labels.get("version", "")
                    continue
                field, labels = _FIELDS[sample.name]
                if not math.isfinite(sample.value) or abs(sample.value) > GREATEST:
                    return None
                if not labels:
                    numbers[field] = sample.value
                    continue
                values = tuple(sample.labels.get(label, "") for label in labels)
                if sample.value:  # counters stand at 0 under every label value, and only those that count are of use
                    labelled.setdefault(field, {})[values if len(values) > 1 else values[0]] = int(sample.value)
        if node is None or "connections" not in numbers:
            return None
        counters: dict[str, Any] = {
            name: labelled.get(name, {}) if _SERIES[name].labels else int(numbers.get(name, 0))
            for name in Counters.__struct_fields__
        }
        return Scrape(
            node, version, Counters(**counters),
            cpu_percent=numbers.get("cpu_percent", 0.0), memory_bytes=int(numbers.get("memory_bytes", 0)),
            outbox_bytes=int(numbers.get("outbox_bytes", 0)), loop_lag_s=numbers.get("loop_lag_s", 0.0),
            draining=int(numbers.get("draining", 0)),
        )  # fmt: skip
    except (ValueError, KeyError, OverflowError):
        # A malformed line, or no number where one has to be.
        return None


def plus(one: Counters, other: Counters) -> Counters:
    """Both together."""
    return _merge(one, other, 1)


def minus(later: Counters, earlier: Counters) -> Counters:
    """What came between the two; `active` is the difference as well."""
    return _merge(later, earlier, -1)


def _merge(one: Counters, other: Counters, sign: int) -> Counters:
    merged: dict[str, Any] = {}
    for name in Counters.__struct_fields__:
        left, right = getattr(one, name), getattr(other, name)
        if isinstance(left, dict):
            both: Counter[str | tuple[str, ...]] = Counter(left)
            for label, times in right.items():
                both[label] += sign * times
            merged[name] = {label: times for label, times in both.items() if times}
        else:
            merged[name] = left + sign * right
    return Counters(**merged)


def fell(later: Counters, earlier: Counters) -> bool:
    """Whether any count is lower than before, so that another process must have counted it."""
    difference = minus(later, earlier)
    for name in Counters.__struct_fields__:
        value = getattr(difference, name)
        if name != "active" and (min(value.values(), default=0) if isinstance(value, dict) else value) < 0:
            return True
    return False


class Snapshot(msgspec.Struct, frozen=True):
    """What all watched servers have counted at one moment."""

    # Counts by URL, those of ended processes included; of a server that did not answer now, its last ones.
    servers: dict[str, Counters]
    silent: tuple[str, ...] = ()  # URLs that did not answer now
    # Names of servers whose process ended since the watch began; what an ended one counted after it was last asked is
    # in no sum.
    restarted: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()  # URLs behind which several servers answer in turn; they are not in `servers`


class Course:
    """What one URL has answered, over restarts; `mixed` when several servers answer there in turn."""

    def __init__(self) -> None:
        self.newest: Scrape | None = None
        self.mixed = False
        self.restarted: list[str] = []
        self._ended = Counters()
        self._names: set[str] = set()

    def add(self, scrape: Scrape) -> None:
        """Take the next answer."""
        last = self.newest
        self.newest = scrape
        if last is not None:
            if scrape.node != last.node and scrape.node in self._names:
                # A server that goes away does not come back under its earlier name after another has answered.
                self.mixed = True
            elif scrape.node != last.node or scrape.version != last.version or fell(scrape.counters, last.counters):
                self.restarted.append(last.node)
                self._ended = plus(self._ended, msgspec.structs.replace(last.counters, active=0))
        self._names.add(scrape.node)

    @property
    def counters(self) -> Counters | None:
        """All processes together; None when it never answered, or when several answer."""
        if self.newest is None or self.mixed:
            return None
        return plus(self._ended, self.newest.counters)
