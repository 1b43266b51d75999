"""Joining history with live publications, and the window that keeps them, against a model of a channel's log."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trunkline.bus.base import HistoryPage, Publication
from trunkline.server.channels.publications import Outgoing
from trunkline.server.channels.window import Hole, Window, merge


def publication(offset: int, prev: int, ts: int = 0) -> Publication:
    """A publication whose data is its offset."""
    return Publication("a", b"%d" % offset, "e", offset, prev, ts)


@st.composite
def logs(draw: st.DrawFn) -> list[Publication]:
    """A channel's log: offsets grow, not always by one."""
    out: list[Publication] = []
    last = 0
    for step in draw(st.lists(st.integers(1, 3), max_size=25)):
        out.append(publication(last + step, last))
        last += step
    return out


def test_nothing_to_join() -> None:
    """Without history and live publications the run is empty and ends where it began."""
    assert merge(7, [], []) == ([], 7, None)


def test_live_may_repeat_history() -> None:
    """What came both ways stands once."""
    log = [publication(offset, offset - 1) for offset in range(1, 8)]
    assert merge(0, log[:5], log[2:]) == (log, 7, None)


def test_a_hole_is_named() -> None:
    """A lost publication shows, and nothing behind it is included."""
    log = [publication(offset, offset - 1) for offset in range(1, 8)]
    assert merge(1, log[:3], log[4:]) == (log[1:3], 3, Hole(3, 5))


def test_expired_predecessors_are_no_hole() -> None:
    """A `prev` of 0, or below the run's end, hides nothing."""
    assert merge(4, [], [publication(6, 0), publication(7, 6)]).hole is None
    assert merge(4, [], [publication(6, 3)]).hole is None
    assert merge(4, [], [publication(6, 5)]).hole == Hole(4, 6)


@settings(max_examples=400)
@given(logs(), st.data())
def test_merge_against_a_log(log: list[Publication], data: st.DataObject) -> None:
    """History read at any moment, live from any earlier one, with losses and repeats: each once, or a hole."""
    offsets = [item.offset or 0 for item in log]
    top = offsets[-1] if offsets else 0
    after = data.draw(st.integers(0, top), "after")
    read_at = data.draw(st.integers(0, len(log)), "history holds this many")
    live_from = data.draw(st.integers(0, read_at), "live begins here")
    delivered = [item for item in log[live_from:] if data.draw(st.integers(0, 9), "lost below 2") >= 2]
    repeats = (
        data.draw(st.lists(st.integers(0, max(len(delivered) - 1, 0)), max_size=3), "repeats") if delivered else []
    )
    live = list(delivered)
    for at in sorted(repeats, reverse=True):
        # A bus that came back delivers again what it had delivered before.
        live[at + 1 : at + 1] = delivered[max(0, at - 1) : at + 1]
    history = [item for item in log[:read_at] if (item.offset or 0) > after]

    merged = merge(after, history, live)

    have = {item.offset for item in history} | {item.offset for item in delivered}
    wanted = [item for item in log if (item.offset or 0) > after]
    missing = next((at for at, item in enumerate(wanted) if item.offset not in have), len(wanted))
    later = [item for item in wanted[missing:] if item.offset in have]
    assert merged.publications == wanted[:missing]
    assert merged.top == (wanted[missing - 1].offset if missing else after)
    if later:
        assert merged.hole == Hole(merged.top, later[0].offset or 0)
        lost = [item.offset or 0 for item in wanted[missing:] if (item.offset or 0) < (later[0].offset or 0)]
        assert lost
        assert all(merged.hole.after < offset < merged.hole.before for offset in lost)
    else:
        assert merged.hole is None, "what was lost at the very end shows only when the next one comes"


def page(items: list[Publication], floor: int, top: int | None = None) -> HistoryPage:
    """A page of history."""
    newest = items[-1].offset if items else floor
    return HistoryPage("e", floor, (newest or 0) if top is None else top, items)


def test_window_of_an_empty_channel() -> None:
    """Nothing is there, and everything after the floor is covered."""
    window = Window(page([], 5, 9), 10, 0.0)
    assert (window.floor, window.top) == (5, 9)
    assert (window.covers(4), window.covers(5)) == (False, True)
    assert window.since(0) == []


def test_window_links_its_publications() -> None:
    """Each publication is sent with the offset before it in the window, whatever the bus knew."""
    window = Window(page([publication(3, 2), publication(6, 0), publication(7, 6)], 2), 10, 0.0)
    assert [outgoing.prev for outgoing in window.since(0)] == [2, 3, 6]


def test_window_between_has_both_ends() -> None:
    """`between` includes both ends and skips offsets that do not exist."""
    window = Window(page([publication(offset, offset - 2) for offset in range(2, 20, 2)], 0), 50, 0.0)
    assert [outgoing.publication.offset for outgoing in window.between(4, 8)] == [4, 6, 8]
    assert [outgoing.publication.offset for outgoing in window.between(3, 9)] == [4, 6, 8]
    assert window.between(5, 5) == []
    assert window.between(9, 3) == []


class WindowModel(RuleBasedStateMachine):
    """A window beside a plain list of everything it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.capacity = 8
        self.log: list[Publication] = []
        self.last = 10
        self.now = 0
        self.expired = 10
        self.window = Window(page([], 10), self.capacity, 0.0)

    @rule(step=st.integers(1, 3), count=st.integers(1, 6))
    def append(self, step: int, count: int) -> None:
        """Publications arrive."""
        for _ in range(count):
            self.now += 1
            new = publication(self.last + step, self.last, self.now)
            self.window.append(Outgoing(new, self.last))
            self.log.append(new)
            self.last += step

    @rule(age=st.integers(0, 12))
    def expire(self, age: int) -> None:
        """Old ones go, and only those."""
        limit = self.now - age
        self.window.expire(limit)
        self.expired = max([self.expired, *(item.offset or 0 for item in self.log if item.ts < limit)])

    @rule(lead=st.integers(0, 20))
    def reload(self, lead: int) -> None:
        """The window is made anew from history."""
        items = self.log[-lead:] if lead else []
        floor = (items[0].prev or 0) if items else self.last
        self.window = Window(page(items, floor), self.capacity, 0.0)
        self.expired = floor

    @invariant()
    def holds_the_newest(self) -> None:
        """It covers exactly what it holds: the newest, each once, at most a slab more than its capacity."""
        window = self.window
        held = [outgoing.publication for outgoing in window.since(0)]
        assert held == [item for item in self.log if (item.offset or 0) > window.floor]
        assert len(held) <= self.capacity + self.capacity // 4
        assert window.floor >= self.expired
        kept_back = [item for item in self.log if self.expired < (item.offset or 0) <= window.floor]
        assert not kept_back or len(held) >= self.capacity, "it lets go of nothing before it is full"
        assert window.top == self.last

    @invariant()
    def answers_like_a_list(self) -> None:
        """`covers`, `since` and `between` say what a search through the list says."""
        window = self.window
        for after in range(max(0, window.floor - 2), self.last + 2):
            assert window.covers(after) is (after >= window.floor)
            if window.covers(after):
                found = [outgoing.publication for outgoing in window.since(after)]
                assert found == [item for item in self.log if (item.offset or 0) > after]
        low, high = window.floor + 1, self.last - 1
        ranged = [outgoing.publication for outgoing in window.between(low, high)]
        assert ranged == [item for item in self.log if low <= (item.offset or 0) <= high]


TestWindowModel = WindowModel.TestCase
TestWindowModel.settings = settings(max_examples=50, stateful_step_count=30)
