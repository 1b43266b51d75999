"""Loss, duplicates and order of one subscriber, and of one echoing connection."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.load.client.order import MAX_PAST, ChannelOrder, EchoOrder, Taken
from trunkline.load.client.ranges import MAX_RANGES
from trunkline.load.judge import missing
from trunkline.load.model.messages import Hole, Position
from trunkline.load.model.tally import Finding


def started(last: int = 0) -> ChannelOrder:
    order = ChannelOrder("room", 7)
    order.start("e", last)
    return order


def kinds(taken: Taken) -> list[str]:
    return [finding.kind for finding in taken.findings]


def ranges(holes: list[Hole]) -> list[tuple[int, int]]:
    return [(hole.after, hole.upto) for hole in holes]


def test_a_publication_that_is_jumped_over_leaves_a_hole() -> None:
    """The hole is told with channel, epoch and connection; the publication behind it counts."""
    order = started(10)
    assert order.odd("e", 30, 20, 1.0) == Taken(True)
    assert order.last == 30
    assert order.finish(None) == [Hole("room", "e", 10, 20, 7)]


def test_a_swap_is_one_reordered_publication_and_no_loss() -> None:
    """Two that change places: the earlier one is late, counts as a delivery, and leaves nothing open."""
    order = started(10)
    order.odd("e", 30, 20, 1.0)
    late = order.odd("e", 20, 10, 1.5)
    assert late == Taken(True, (Finding("reordered", "room", 7, 20, epoch="e", at_s=1.5),))
    assert order.finish(Position("e", 30)) == []


def test_a_late_publication_splits_a_hole_by_its_own_prev() -> None:
    """What is between it and its prev never was; what is around them is still missing."""
    order = started(10)
    order.odd("e", 60, 50, 0.0)
    assert kinds(order.odd("e", 40, 20, 0.0)) == ["reordered"]
    assert ranges(order.finish(None)) == [(10, 20), (40, 50)]
    assert kinds(order.odd("e", 40, 20, 0.0)) == ["duplicate"]


def test_what_came_already_is_a_duplicate_and_no_delivery() -> None:
    """A second copy is named with its offset, whether its first came in time or late."""
    order = started(10)
    order.odd("e", 20, 10, 0.0)
    assert order.odd("e", 20, 10, 2.0) == Taken(False, (Finding("duplicate", "room", 7, 20, epoch="e", at_s=2.0),))


def test_what_is_missing_at_the_end_is_a_hole_too() -> None:
    """The tail up to the channel's last publication is missing, in the same epoch only."""
    order = started(10)
    assert order.finish(Position("e", 30)) == [Hole("room", "e", 10, 30, 7)]
    assert order.finish(Position("other", 30)) == []
    assert order.finish(Position("e", 10)) == []


def test_a_gap_excuses_what_does_not_come() -> None:
    """After a gap the next publication follows without a hole."""
    order = started(10)
    assert order.gap("e", 10, 41) == 1
    assert order.odd("e", 50, 40, 0.0) == Taken(True)
    assert order.finish(Position("e", 50)) == []


def test_a_gap_that_comes_late_closes_the_hole() -> None:
    """A hole that is already open is excused as far as the gap reaches; outside it remains."""
    order = started(10)
    order.odd("e", 100, 90, 0.0)
    assert order.gap("e", 20, 51) == 1
    assert ranges(order.finish(None)) == [(10, 20), (50, 90)]
    assert order.gap("e", None, None) == 2
    assert order.finish(None) == []


def test_what_is_missing_before_a_gap_is_a_hole() -> None:
    """A gap does not excuse what is before it."""
    order = started(10)
    assert order.gap("e", 30, 41) == 1
    assert ranges(order.finish(None)) == [(10, 30)]


def test_a_gap_about_what_has_come_changes_nothing() -> None:
    """Nothing is dropped then."""
    order = started(50)
    assert order.gap("e", 10, 41) == 0
    assert order.gap("e", 60, 61) == 0
    assert ranges(order.finish(None)) == [(50, 60)]


def test_what_a_gap_announced_and_yet_comes_is_late_and_not_double() -> None:
    """The server's word is broken, but nothing came twice."""
    order = started(10)
    order.gap("e", 10, 41)
    assert kinds(order.odd("e", 20, 10, 0.0)) == ["reordered"]
    assert kinds(order.odd("e", 20, 10, 0.0)) == ["duplicate"]


def test_a_gap_into_another_epoch_begins_anew_without_a_finding() -> None:
    """The server said that the history started again; holes of the old epoch stay."""
    order = started(10)
    order.odd("e", 30, 20, 0.0)
    assert order.gap("f", None, 6) == 1
    assert (order.epoch, order.last) == ("f", 5)
    assert order.odd("f", 7, 5, 0.0) == Taken(True)
    assert kinds(order.odd("f", 4, 2, 0.0)) == ["reordered"]
    assert order.finish(Position("f", 9)) == [Hole("room", "e", 10, 20, 7), Hole("room", "f", 7, 9, 7)]


def test_an_epoch_that_changes_without_a_word_is_found() -> None:
    """The publication counts, the order begins with it, and what still comes of the old epoch is judged there."""
    order = started(10)
    order.odd("e", 30, 20, 0.0)
    changed = order.odd("f", 3, 2, 4.0)
    assert changed == Taken(True, (Finding("epoch", "room", 7, 3, epoch="f", at_s=4.0),))
    assert (order.epoch, order.last) == ("f", 3)
    assert kinds(order.odd("e", 20, 10, 0.0)) == ["reordered"]
    assert kinds(order.odd("e", 20, 10, 0.0)) == ["duplicate"]
    assert kinds(order.odd("e", 50, 40, 0.0)) == ["reordered"]
    assert kinds(order.odd("e", 50, 40, 0.0)) == ["duplicate"]
    assert order.finish(None) == [Hole("room", "e", 30, 40, 7)]


def test_without_a_start_the_first_publication_is_it() -> None:
    """In a room that the server joins for the client nothing before the first publication is owed."""
    order = ChannelOrder("lobby", 1)
    assert order.odd("e", 30, 20, 0.0) == Taken(True)
    assert (order.epoch, order.last) == ("e", 30)
    assert kinds(order.odd("e", 20, 10, 0.0)) == ["reordered"]
    assert kinds(order.odd("e", 20, 10, 0.0)) == ["duplicate"]
    assert order.finish(Position("e", 30)) == []


def test_without_history_publications_are_only_counted() -> None:
    """Null offsets have no order: no finding, no hole, always reached."""
    order = ChannelOrder("lobby", 1)
    order.start(None, None)
    for _ in range(3):
        assert order.odd(None, None, None, 0.0) == Taken(True)
    assert order.gap(None, None, None) == 1
    assert order.reached(Position("e", 9))
    assert order.finish(Position("e", 9)) == []


def test_a_start_forward_owes_nothing_between() -> None:
    """Not recovered: what is between the positions is no hole; what was missing before stays one."""
    order = started(10)
    order.odd("e", 30, 20, 0.0)
    order.start("e", 90)
    assert order.odd("e", 100, 90, 0.0) == Taken(True)
    assert ranges(order.finish(Position("e", 100))) == [(10, 20)]


def test_a_start_backward_lets_publications_come_again() -> None:
    """On a server that is not as far yet the chain begins at its position; later holes are open again by the chain."""
    order = started(10)
    order.odd("e", 60, 50, 0.0)
    order.start("e", 30)
    assert order.odd("e", 40, 30, 0.0) == Taken(True)
    assert ranges(order.finish(Position("e", 40))) == [(10, 30)]


def test_a_start_in_another_epoch_keeps_the_holes() -> None:
    """The ack tells it, so it is no finding."""
    order = started(10)
    order.odd("e", 30, 20, 0.0)
    order.start("f", 2)
    assert order.finish(Position("f", 2)) == [Hole("room", "e", 10, 20, 7)]


def test_reached_waits_for_the_end_and_for_what_is_missing() -> None:
    """Settled means: the last publication has come and no hole is open."""
    order = started(10)
    assert not order.reached(Position("e", 30))
    order.odd("e", 30, 20, 0.0)
    assert not order.reached(Position("e", 30))
    order.odd("e", 20, 10, 0.0)
    assert order.reached(Position("e", 30))
    assert not order.reached(Position("f", 1))
    order.start("f", 1)
    assert order.reached(Position("f", 1))
    assert order.reached(Position("e", 90))


def test_memory_is_bounded_and_what_is_forgotten_is_counted() -> None:
    """A server that loses every second publication, or changes its epoch all the time, does not fill the memory."""
    order = started(0)
    for offset in range(2, 2 * (MAX_RANGES + 5) + 1, 2):
        order.odd("e", offset, offset - 1, 0.0)
    assert (len(order.finish(None)), order.forgotten) == (MAX_RANGES, 5)
    for number in range(MAX_PAST + 1):
        order.odd(f"epoch-{number}", 1, 0, 0.0)
    assert (len(order.finish(None)), order.forgotten) == (0, MAX_RANGES + 5)


# --- against a plain model --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """A publication (before is 0), or a gap that ends before `before`."""

    offset: int
    prev: int
    before: int = 0


@dataclass
class Model:
    """What a subscriber got, as plain sets."""

    seen: set[int] = field(default_factory=set)
    excused: set[int] = field(default_factory=set)
    highest: int = 0
    duplicates: int = 0
    reordered: int = 0

    def take(self, sent: Sent, offsets: list[int]) -> None:
        if sent.before:
            self.excused |= {each for each in offsets if sent.prev < each < sent.before}
            self.highest = max(self.highest, sent.before - 1)
        elif sent.offset in self.seen:
            self.duplicates += 1
        else:
            self.reordered += sent.offset <= self.highest
            self.seen.add(sent.offset)
            self.highest = max(self.highest, sent.offset)


@st.composite
def histories(draw: st.DrawFn) -> list[Sent]:
    steps = draw(st.lists(st.integers(1, 5), min_size=1, max_size=40))
    history, prev = [], 0
    for step in steps:
        history.append(Sent(prev + step, prev))
        prev += step
    return history


@st.composite
def faulted(draw: st.DrawFn, history: list[Sent]) -> list[Sent]:
    """The history as a server with faults sends it: dropped, with gaps, doubled and swapped."""
    stream: list[Sent] = []
    at = 0
    while at < len(history):
        fault = draw(st.sampled_from(["none"] * 6 + ["drop", "double", "gap", "gap and yet sent"]))
        if fault.startswith("gap"):
            run = history[at : at + draw(st.integers(1, 4))]
            stream.append(Sent(0, run[0].prev, before=run[-1].offset + 1))
            if fault == "gap and yet sent":
                stream.append(run[0])
            at += len(run)
            continue
        stream += [history[at]] * {"none": 1, "drop": 0, "double": 2}[fault]
        at += 1
    for place in draw(st.lists(st.integers(0, max(0, len(stream) - 2)), max_size=8)):
        stream[place : place + 2] = reversed(stream[place : place + 2])
    for place in draw(st.lists(st.integers(0, max(0, len(stream) - 1)), max_size=3)):
        # Far out of place: at the very end.
        stream[len(stream) :] = stream[place : place + 1]
        del stream[place : place + 1]
    return stream


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_counts_are_those_of_a_plain_model(data: st.DataObject) -> None:
    """Over random faults and any number of lost and recovered connections, all counts are exact."""
    history = data.draw(histories())
    offsets = [sent.offset for sent in history]
    order, model = started(), Model()
    deliveries = duplicates = reordered = 0
    lives = data.draw(st.integers(0, 3))
    for life in range(lives + 1):
        # A recover sends what is after the client's position, and the first one's `prev` is that position.
        rest = [sent for sent in history if sent.offset > order.last]
        if rest:
            rest[0] = Sent(rest[0].offset, order.last)
        stream = data.draw(faulted(rest))
        if life < lives:
            stream = stream[: data.draw(st.integers(0, len(stream)))]
        for sent in stream:
            model.take(sent, offsets)
            if sent.before:
                order.gap("e", sent.prev, sent.before)
                continue
            if sent.prev == order.last:
                order.last = sent.offset
                deliveries += 1
                continue
            taken = order.odd("e", sent.offset, sent.prev, 0.0)
            deliveries += taken.delivery
            duplicates += kinds(taken) == ["duplicate"]
            reordered += kinds(taken) == ["reordered"]
    lost = set(offsets) - model.seen - model.excused
    holes = order.finish(Position("e", offsets[-1]))
    assert (deliveries, duplicates, reordered) == (len(model.seen), model.duplicates, model.reordered)
    assert missing.count(holes, {("room", "e"): offsets}) == len(lost)
    assert {finding.offset for finding in missing.findings(holes, {("room", "e"): offsets}, 0.0)} == lost
    assert order.reached(Position("e", offsets[-1])) == (not lost)


# --- echoes -----------------------------------------------------------------------------------------------------------


def echoing(count: int) -> EchoOrder:
    order = EchoOrder(3)
    assert [order.sent() for _ in range(count)] == list(range(count))
    return order


def test_echoes_overtaken_are_lost_and_the_rest_is_outstanding() -> None:
    """Numbers that later ones overtook are lost, the first ones too; those after the last echo may still come."""
    order = echoing(6)
    assert order.odd(2, 0.0) == Taken(True)
    assert order.odd(3, 0.0) == Taken(True)
    missing_now = order.finish(9.0)
    assert (missing_now.lost, missing_now.outstanding) == (2, 2)
    assert missing_now.findings == (Finding("lost", "", 3, 1, after=-1, at_s=9.0),)


def test_a_lost_connection_gives_up_what_is_outstanding() -> None:
    """The next connection counts from 0 again, and what was overtaken stays lost."""
    order = echoing(4)
    order.odd(1, 0.0)
    given_up = order.restart(1.0)
    assert (given_up.lost, given_up.outstanding) == (1, 2)
    assert (order.expected, order.sent(), order.finish(2.0).lost) == (0, 0, 0)


def test_a_number_that_was_never_sent_is_no_echo() -> None:
    """It is neither delivery nor finding, and moves nothing."""
    order = echoing(2)
    assert order.odd(2, 0.0) == Taken(False)
    assert order.odd(-1, 0.0) == Taken(False)
    assert order.expected == 0


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30), st.data())
def test_echo_counts_are_those_of_a_plain_model(count: int, data: st.DataObject) -> None:
    """Over echoes in any order, missing and double, all counts are exact."""
    order = echoing(count)
    stream = data.draw(st.lists(st.integers(0, count - 1), max_size=60) | st.permutations(range(count)))
    seen: set[int] = set()
    for number in stream:
        expected = "duplicate" if number in seen else "reordered" if seen and number < max(seen) else ""
        seen.add(number)
        if number == order.expected:
            order.expected += 1
            assert not expected
            continue
        taken = order.odd(number, 0.0)
        assert taken.delivery == (expected != "duplicate")
        assert "".join(kinds(taken)) == expected
    last = max(seen, default=-1)
    unechoed = order.finish(0.0)
    assert (unechoed.lost, unechoed.outstanding) == (last + 1 - len(seen), count - 1 - last)
    assert order.settled == (len(seen) == count)
