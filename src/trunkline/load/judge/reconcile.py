"""Sent = received + accounted for, or it says what is missing: this side's counts beside those of the servers. Pure.

What a node counts, which is what the lines rest on:

- `messages_received`: text and binary messages that it read while the connection was open. Neither control frames, nor
  what lay unread when the connection ended, nor what came behind its own close frame.
- `messages_sent`: every message it handed to a socket or to the outbox of a slow client: answers, publications,
  heartbeats, greetings and goodbyes; no control frames. What an outbox still held when its connection ended is in it.
- `publications_dropped`: deliveries that slow clients did not get, and holes of whole channels. A gap is told when the
  client has caught up, so one whose connection ends before never hears of it.

So both directions meet exactly for connections that ended in order with everything read. Others leave a rest, which is
accounted for only up to what can lie between two ends: what this side still awaited an answer to, and what socket
buffers hold of messages to a client. Who else used the servers shows as more at their side than at ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Final, NamedTuple

from trunkline.load.judge.scrape import Counters, Snapshot, minus, plus
from trunkline.load.model.report import Balance
from trunkline.load.model.tally import Totals
from trunkline.load.output.formatting import counted, plain

UNREAD_BYTES: Final = 256 << 10
"""What a client that keeps up may leave unread when its connection is cut: more than a socket's first buffer holds."""

UNREAD_BYTES_SLOW: Final = 16 << 20
"""The same for one that reads slowly: a node's outbox, and both kernels' buffers grown to their greatest."""

REQUESTS_UNREAD: Final = 1
"""Messages without an answer of their own (a heartbeat, a first subscribe) that may be under way at a cut."""

SIZE_UNKNOWN: Final = 64
"""Mean size of messages when none has come."""

MOST_WORDS: Final = 6
_FRAME_HEAD: Final = 2
NOTHING: Final = "nothing is missing"


class _Facts(NamedTuple):
    """What the lines are made from.

    Attributes:
        ours: counts of this side.
        theirs: what all servers counted in the run.
        open_at_end: connections of this side that were still open.
        unheard: messages to the servers that may lie unread on connections that ended early, at most.
        unread: messages from the servers, the same.
        ended_early: connections that did not end in order with everything read.
        unasked: why the servers' counts are not whole; empty when they are.
        others: connections of others, as far as they show.
    """

    ours: Totals
    theirs: Counters
    open_at_end: int
    unheard: int
    unread: int
    ended_early: int
    unasked: str
    others: int


def reconcile(
    ours: Totals, before: Snapshot, after: Snapshot, *, open_at_end: int = 0, slow: int = 0, answered: bool = True
) -> list[Balance]:
    """Compare.

    Args:
        ours: counts of the whole run, of all workers.
        before: what the servers had counted before the first connection.
        after: the same after the last one has ended.
        open_at_end: connections of this side that were still open at `after`.
        slow: sessions that read slowly; they are cut off with more unread than others.
        answered: every message of the scenario awaits an answer (echo, feed), so that `ours.abandoned` knows what was
            under way when a connection ended.

    Returns:
        A line for each thing that both sides count; none when the servers say nothing of use.
    """
    known = [url for url in after.servers if url in before.servers]
    if not known or after.mixed:
        return []
    theirs = _sum([minus(after.servers[url], before.servers[url]) for url in known])
    # A client that gives up too early leaves a connection that the server opened all the same.
    late = min(ours.failed, max(0, theirs.connections - ours.opened))
    others = sum(before.servers[url].active for url in known) + max(0, theirs.connections - ours.opened - late)
    ended_early = ours.cut + ours.closed + open_at_end + late
    slow_ends = min(slow, ours.opened) + theirs.slow_clients_disconnected
    unread = _fitting(ended_early * UNREAD_BYTES + slow_ends * UNREAD_BYTES_SLOW, ours.bytes_received, ours.received)
    unheard = ended_early * REQUESTS_UNREAD
    if not answered:
        unheard += _fitting(ended_early * UNREAD_BYTES, ours.bytes_sent, ours.sent)
    facts = _Facts(
        ours, theirs, open_at_end, unheard + ours.abandoned, unread + ours.abandoned + ours.unanswered,
        ended_early + slow_ends, _unasked(before, after), others,
    )  # fmt: skip
    lines: tuple[Callable[[_Facts], Balance], ...] = (_connections, _to_servers, _from_servers, _dropped, _disconnects)
    return [line(facts) for line in lines]


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
    late = min(facts.ours.failed, max(0, theirs - ours))
    return _line(
        "connections opened", ours, theirs, facts,
        # `late` ones failed at this side only.
        more=[(late, f"{counted(late, 'connection')} opened there after this side had given up")],
    )  # fmt: skip


def _to_servers(facts: _Facts) -> Balance:
    ours, theirs = facts.ours.sent, facts.theirs.messages_received
    less = min(max(0, ours - theirs), facts.unheard)
    return _line(
        "messages to the servers", ours, theirs, facts,
        less=[(less, f"{less:,} unread by the servers when {_ends(facts)} ended")],
    )  # fmt: skip


def _from_servers(facts: _Facts) -> Balance:
    ours, theirs = facts.ours.received, facts.theirs.messages_sent
    more = min(max(0, theirs - ours), facts.unread)
    return _line(
        "messages from the servers", ours, theirs, facts,
        more=[(more, f"{more:,} unread at the cut of {_ends(facts)}")],
        surplus_is_missing=True,
    )  # fmt: skip


def _dropped(facts: _Facts) -> Balance:
    ours, theirs = facts.ours.dropped, sum(facts.theirs.publications_dropped.values())
    untold = max(0, theirs - ours)
    # One that was cut off before it had caught up is told of no gap.
    explained = untold if facts.ended_early else 0
    reasons = _words(facts.theirs.publications_dropped)
    line = _line(
        "publications dropped", ours, theirs, facts,
        more=[(explained, f"{explained:,} of connections that ended before they were told")],
        surplus_is_missing=True,
        # A gap names a range of offsets, and what recovery could not get is told to the client but counted nowhere.
        may_exceed=True,
    )  # fmt: skip
    return _noted(line, f"the servers say: {reasons}" if reasons else "")


def _disconnects(facts: _Facts) -> Balance:
    ours, theirs = facts.ours.opened - facts.open_at_end, sum(facts.theirs.disconnects.values())
    reasons = _words({words[0]: times for words, times in facts.theirs.disconnects.items() if words[1] == "server"})
    late = min(facts.ours.failed, max(0, theirs - ours))
    line = _line(
        "connections ended", ours, theirs, facts,
        more=[(late, f"{counted(late, 'connection')} opened there after this side had given up")],
        less_means="the servers have not seen them end",
    )  # fmt: skip
    return _noted(line, f"ended by the servers: {reasons}" if reasons else "")


def _line(
    what: str,
    ours: int,
    theirs: int,
    facts: _Facts,
    *,
    more: list[tuple[int, str]] | None = None,
    less: list[tuple[int, str]] | None = None,
    surplus_is_missing: bool = False,
    may_exceed: bool = False,
    less_means: str = "the servers do not count them (is every server watched?)",
) -> Balance:
    """One line.

    Args:
        what: its name.
        ours: counted here.
        theirs: counted there.
        facts: of the run.
        more: explanations of what the servers have more, with how much each explains.
        less: explanations of what they have less.
        surplus_is_missing: what they have more did not reach this side.
        may_exceed: this side may rightly have more.
        less_means: in words, what it means that they have less.
    """
    difference = theirs - ours
    left = abs(difference)
    notes = []
    for amount, text in (more if difference > 0 else less) or ():
        if amount:
            notes.append(text)
            left -= amount
    missing = 0
    if left and difference > 0:
        if facts.others:
            notes.append(f"{left:,} of others' traffic ({counted(facts.others, 'connection')} of theirs seen)")
        elif surplus_is_missing:
            missing = left
            notes.append(f"{left:,} missing: the servers count them and they did not come")
        else:
            notes.append(f"{left:,} more at the servers, of somebody whose connections do not show")
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
    return Balance(what, ours, theirs, abs(difference) - missing, missing == 0, "; ".join(notes))


def _noted(line: Balance, note: str) -> Balance:
    if not note:
        return line
    return Balance(line.what, line.ours, line.theirs, line.explained, line.holds, f"{line.note}; {note}")


def _words(times_by_word: dict[str, int]) -> str:
    """The most frequent ones; the words are a server's."""
    most = sorted(times_by_word.items(), key=lambda each: (-each[1], each[0]))[:MOST_WORDS]
    return ", ".join(f"{plain(word)[:40]} {times:,}" for word, times in most)


def _ends(facts: _Facts) -> str:
    return counted(facts.ended_early, "connection")


def _sum(all_counters: list[Counters]) -> Counters:
    return reduce(plus, all_counters, Counters())
