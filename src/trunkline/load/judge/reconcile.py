"""Sent = received + accounted for, or it names what is missing: this side's counts beside the servers'. Pure.

What a node counts:

- `messages_received`: text and binary messages that it read while the connection was open. Neither control frames, nor
  what lay unread when the connection ended, nor what came behind its own close frame.
- `messages_sent`: every message it handed to a socket or to the outbox of a slow client: answers, publications,
  heartbeats, greetings and goodbyes; no control frames. What an outbox still held when its connection ended is in it.
- `publications_dropped`: deliveries that slow clients did not get, and holes of whole channels. A gap is announced when
  the client has caught up, so one whose connection ends before never hears of it.

So both directions meet exactly for connections that ended in order with everything read. Others leave a difference,
which is accounted for only up to what can lie between two ends: messages whose answer this side still awaited, and what
socket buffers hold of messages to a client. Other users of the servers show as more at their side than at this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Final, NamedTuple

from msgspec.structs import replace

from trunkline.load.judge.scrape import Counters, Snapshot, minus, plus
from trunkline.load.model.report import Balance
from trunkline.load.model.tally import Totals
from trunkline.load.output.formatting import counted, most_frequent, plain

UNREAD_BYTES: Final = 256 << 10
"""What a client that keeps up may leave unread when its connection is cut: more than a socket's first buffer holds."""

UNREAD_BYTES_SLOW: Final = 16 << 20
"""The same for one that reads slowly: a node's outbox, and both kernels' buffers grown to their greatest."""

REQUESTS_UNREAD: Final = 1
"""Messages without an answer of their own (a heartbeat, a first subscribe) that may be under way at a cut."""

SIZE_UNKNOWN: Final = 64  # mean size of messages when none has come
MOST_REASONS: Final = 6
_FRAME_HEAD: Final = 2
NOTHING: Final = "nothing is missing"


class _Facts(NamedTuple):
    """What the lines are made from."""

    ours: Totals
    theirs: Counters
    unheard: int  # messages to the servers that may lie unread on connections that ended early, at most
    unread: int  # messages from the servers, the same
    ended_early: int  # connections that did not end in order with everything read
    unasked: str  # why the servers' counts are not whole; empty when they are
    others: int  # connections of others, as far as they show


def reconcile(
    ours: Totals, before: Snapshot, after: Snapshot, *, slow: int = 0, answered: bool = True
) -> list[Balance]:
    """A line for each thing that both sides count; none when the servers' counts are of no use.

    `slow` sessions are cut off with more unread than others. `answered`: every message of the scenario awaits an answer
    (echo, feed), so that `ours.abandoned` knows what was under way when a connection ended.
    """
    known = [url for url in after.servers if url in before.servers]
    if not known or after.mixed:
        return []
    theirs = reduce(plus, [minus(after.servers[url], before.servers[url]) for url in known], Counters())
    # A client that gives up too early leaves a connection that the server opened all the same.
    late = min(ours.failed, max(0, theirs.connections - ours.opened))
    ended_early = ours.cut + ours.closed + late
    slow_ends = min(slow, ours.opened) + theirs.slow_clients_disconnected
    unread = _fitting(ended_early * UNREAD_BYTES + slow_ends * UNREAD_BYTES_SLOW, ours.bytes_received, ours.received)
    unheard = ended_early * REQUESTS_UNREAD
    if not answered:
        unheard += _fitting(ended_early * UNREAD_BYTES, ours.bytes_sent, ours.sent)
    facts = _Facts(
        ours=ours, theirs=theirs, unheard=unheard + ours.abandoned, unread=unread + ours.abandoned + ours.unanswered,
        ended_early=ended_early + slow_ends, unasked=_unasked(before, after),
        others=sum(before.servers[url].active for url in known) + max(0, theirs.connections - ours.opened - late),
    )  # fmt: skip
    return [line(facts) for line in (_connections, _to_servers, _from_servers, _dropped, _disconnects)]


def _fitting(room: int, all_bytes: int, messages: int) -> int:
    """How many messages of the run's mean size fit into so many bytes."""
    mean = all_bytes / messages + _FRAME_HEAD if messages else SIZE_UNKNOWN
    return int(room / mean)


def _unasked(before: Snapshot, after: Snapshot) -> str:
    """Why counts of servers are not whole."""
    reasons = []
    silent = [
        url
        for url in dict.fromkeys((*before.silent, *after.silent))
        if url in after.silent or url not in before.servers
    ]
    if silent:
        shown = ", ".join(silent[:3]) + (f" and {len(silent) - 3} more" if len(silent) > 3 else "")
        reasons.append(f"{shown} did not answer")
    restarted = list(after.restarted)
    for name in before.restarted:
        restarted.remove(name)
    if restarted:
        names = ", ".join(dict.fromkeys(restarted))
        reasons.append(f"{names} ended, and what it counted after it was last asked is unknown")
    return "; ".join(reasons)


def _connections(facts: _Facts) -> Balance:
    ours, theirs = facts.ours.opened, facts.theirs.connections
    return _line("connections opened", ours, theirs, facts, more=_late(facts, theirs - ours))


def _to_servers(facts: _Facts) -> Balance:
    ours, theirs = facts.ours.sent, facts.theirs.messages_received
    less = min(max(0, ours - theirs), facts.unheard)
    explained = (less, f"{less:,} unread by the servers when {_ends(facts)} ended")
    return _line("messages to the servers", ours, theirs, facts, less=explained)


def _from_servers(facts: _Facts) -> Balance:
    ours, theirs = facts.ours.received, facts.theirs.messages_sent
    more = min(max(0, theirs - ours), facts.unread)
    explained = (more, f"{more:,} unread at the cut of {_ends(facts)}")
    return _line("messages from the servers", ours, theirs, facts, more=explained, surplus_is_missing=True)


def _dropped(facts: _Facts) -> Balance:
    ours, theirs = facts.ours.dropped, sum(facts.theirs.publications_dropped.values())
    # A connection that was cut off before it had caught up gets no gap.
    more = max(0, theirs - ours) if facts.ended_early else 0
    explained = (more, f"{more:,} of connections that ended before the gap was announced")
    # A gap names a range of offsets, and what recovery could not get is announced to the client but counted nowhere.
    line = _line(
        "publications dropped", ours, theirs, facts, more=explained, surplus_is_missing=True, may_exceed=True
    )  # fmt: skip
    return _noted(line, "reasons of the servers", facts.theirs.publications_dropped)


def _disconnects(facts: _Facts) -> Balance:
    ours, theirs = facts.ours.opened, sum(facts.theirs.disconnects.values())
    less_means = "the servers have not seen them end"
    late = _late(facts, theirs - ours)
    line = _line("connections ended", ours, theirs, facts, more=late, less_means=less_means)
    by_servers = {reason: times for (reason, by), times in facts.theirs.disconnects.items() if by == "server"}
    return _noted(line, "ended by the servers", by_servers)


def _late(facts: _Facts, more: int) -> tuple[int, str]:
    """How many of the servers' connections failed at this side only."""
    late = min(facts.ours.failed, max(0, more))
    return late, f"{counted(late, 'connection')} opened there after this side had given up"


def _line(
    what: str, ours: int, theirs: int, facts: _Facts, *, more: tuple[int, str] = (0, ""),
    less: tuple[int, str] = (0, ""), surplus_is_missing: bool = False, may_exceed: bool = False,
    less_means: str = "the servers do not count them (is every server watched?)",
) -> Balance:  # fmt: skip
    """One line; `more` and `less` are how much of the servers' surplus or deficit is explained, and how.

    `surplus_is_missing`: their surplus did not reach this side; `may_exceed`: this side may rightly have more.
    """
    difference = theirs - ours
    amount, explanation = more if difference > 0 else less
    notes = [explanation] if amount else []
    left = abs(difference) - amount
    missing = 0
    if left and difference > 0:
        if facts.others:
            notes.append(f"{left:,} of others' traffic ({counted(facts.others, 'connection')} of theirs seen)")
        elif surplus_is_missing:
            missing = left
            notes.append(f"{left:,} missing: the servers count them and they did not come")
        else:
            notes.append(f"{left:,} more at the servers, of clients whose connections do not show")
    elif left and may_exceed:
        notes.append(f"{left:,} more named here than counted there, as gaps name whole ranges")
    elif left and facts.unasked:
        notes.append(f"{left:,} not seen: {facts.unasked}")
    elif left:
        missing = left
        notes.append(f"{left:,} missing: {less_means}")
    if not missing and not (left and facts.unasked):
        notes.insert(0, NOTHING)
        if facts.others and difference <= 0:
            notes.append("as far as traffic of others lets it be seen")
    return Balance(
        what, ours, theirs, explained=abs(difference) - missing, holds=missing == 0, note="; ".join(notes)
    )  # fmt: skip


def _noted(line: Balance, label: str, reasons: Mapping[str, int]) -> Balance:
    """The line with the most frequent reasons, which are a server's texts."""
    if not reasons:
        return line
    most = ", ".join(f"{plain(reason)[:40]} {times:,}" for reason, times in most_frequent(reasons)[:MOST_REASONS])
    return replace(line, note=f"{line.note}; {label}: {most}")


def _ends(facts: _Facts) -> str:
    return counted(facts.ended_early, "connection")
