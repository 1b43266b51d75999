from __future__ import annotations

import pytest

from trunkline.placement.counting.evidence import CLOSES_KEPT, LATE_S
from trunkline.placement.counting.ledger import SEEN_KEPT, SETTLE_S, Ledger
from trunkline.protocol.control import LoadReport

URL = "http://10.0.0.1:3001"


def ledger(*, relaying: bool = True, reported: int | None = None, node: bool = False) -> Ledger:
    """A ledger of a backend that has reported once, at 0 s, or never."""
    made = Ledger(URL, relaying, 15.0, 75.0)
    if reported is not None:
        made.report(node_report(reported, 0) if node else LoadReport(reported), 0.0, 0.0)
    return made


def node_report(count: int, opened: int, *keys: str, run: str = "one") -> LoadReport:
    return LoadReport(count, run=run, opened=opened, keys=keys)


def test_a_pick_counts_until_it_fails_or_ends() -> None:
    """One more at the pick, one less at its failure or at the end of its connection."""
    count = ledger(reported=10)
    first, second = count.reserve(1, "a", 1.0), count.reserve(2, "b", 1.0)
    assert count.estimate == 12
    count.end(first, 2.0)
    count.open(second, 2.0)
    assert (count.estimate, count.relayed) == (11, 1)
    count.end(second, 3.0)
    count.end(second, 3.0)
    assert (count.estimate, count.relayed, len(count.pending)) == (10, 0, 0)


@pytest.mark.parametrize("relaying", [True, False])
def test_a_key_in_a_report_settles_its_pick_exactly(relaying: bool) -> None:
    """What the report contains is counted once, what it lacks stays counted however late the report is."""
    count = ledger(relaying=relaying, reported=10, node=True)
    count.reserve(1, "a", 1.0)
    count.reserve(2, "b", 1.0)
    count.report(node_report(11, 1, "a"), 14.0, 14.0)
    assert (count.estimate, list(count.pending)) == (12, [2])
    count.report(node_report(12, 2, "b"), 15.0, 15.0)
    assert (count.estimate, list(count.pending)) == (12, [])


def test_of_two_reports_of_a_run_the_one_with_fewer_opened_is_stale() -> None:
    """A polled answer that was overtaken by a pushed one changes nothing."""
    count = ledger(reported=0, node=True)
    count.reserve(1, "a", 1.0)
    count.reserve(2, "b", 1.0)
    assert count.report(node_report(2, 2, "a", "b"), 2.0, 2.0)
    assert not count.report(node_report(1, 1, "a"), 1.5, 2.5)
    assert count.estimate == 2
    assert count.opened == 2


def test_keys_that_a_push_brought_already_are_not_taken_again() -> None:
    """An answer to an older `after` repeats keys; only those behind what is known are new."""
    count = ledger(relaying=False, reported=0, node=True)
    count.reserve(1, "same", 1.0)
    count.report(node_report(1, 1, "same"), 1.1, 1.1)
    count.reserve(2, "same", 1.2)
    count.report(node_report(2, 2, "same", "other"), 1.15, 1.3)
    assert count.estimate == 3


def test_a_gap_in_the_keys_falls_back_to_time() -> None:
    """As many old picks as keys are missing are taken as contained; young ones stay."""
    count = ledger(relaying=False, reported=0, node=True)
    for number in range(5):
        count.reserve(number, f"k{number}", 1.0)
    count.reserve(9, "young", 9.9)
    count.report(node_report(5, 5), 10.0, 10.0)
    assert (count.estimate, list(count.pending)) == (6, [9])


def test_a_key_that_is_changed_on_the_way_does_not_count_twice_for_ever() -> None:
    """An opened connection whose key never shows up is taken as contained after the time of a reservation."""
    count = ledger(reported=0, node=True)
    count.open(count.reserve(1, "mine", 1.0), 1.1)
    count.report(node_report(1, 1, "another"), 2.0, 2.0)
    assert count.estimate == 2
    count.report(node_report(1, 1), 17.0, 17.0)
    assert count.estimate == 1


def test_a_new_run_has_none_of_the_old_connections() -> None:
    """After a restart the report is the truth, and the closes of what died with the old process count for nothing."""
    count = ledger(reported=100, node=True)
    mine = [count.reserve(number, f"k{number}", 1.0) for number in range(20)]
    for made in mine:
        count.open(made, 1.1)
    assert count.estimate == 120
    on_its_way = count.reserve(99, "late", 5.0)
    assert count.report(node_report(3, 3, "x", "y", "z", run="two"), 5.1, 5.2)
    assert count.estimate == 4
    for made in mine:
        count.end(made, 5.3)
    for number in range(50):
        count.remote_close(f"other{number}", 5.4)
    assert count.estimate == 4
    count.open(on_its_way, 5.5)
    count.report(node_report(4, 4, "late", run="two"), 6.0, 6.0)
    assert count.estimate == 4
    assert not count.report(node_report(150, 150, run="one"), 6.1, 6.1)
    assert count.estimate == 4


def test_a_foreign_report_contains_what_was_opened_before_it_was_asked_for() -> None:
    """Opened before: contained. Opened after, or not yet: still counted, unless the report has them already."""
    count = ledger(reported=10)
    before, after, waiting = (count.reserve(number, "k", 1.0) for number in (1, 2, 3))
    count.open(before, 1.1)
    count.open(after, 2.05)
    count.report(LoadReport(11), 2.0, 2.1)
    assert count.estimate == 13
    count.report(LoadReport(13), 2.2, 2.3)
    assert count.estimate == 13
    count.open(waiting, 2.4)
    count.report(LoadReport(13), 3.0, 3.1)
    assert (count.estimate, len(count.pending)) == (13, 0)


def test_steered_picks_are_settled_by_time_at_a_foreign_backend() -> None:
    """Older than the settle time: contained or failed. Younger: still counted."""
    count = ledger(relaying=False, reported=10)
    for number in range(4):
        count.reserve(number, "k", 1.0)
    count.reserve(9, "k", 5.0)
    count.report(LoadReport(12), 5.0 + SETTLE_S / 2, 5.0 + SETTLE_S / 2)
    assert count.estimate == 13


def test_a_close_after_the_question_comes_off_until_the_next_report() -> None:
    """The report may or may not contain it; the count that knows is left alone."""
    count = ledger(reported=10)
    made = count.reserve(1, "k", 1.0)
    count.open(made, 1.1)
    count.report(LoadReport(11), 2.0, 2.1)
    count.end(made, 3.1)
    assert count.estimate == 10
    count.report(LoadReport(11), 3.0, 3.2)
    assert count.estimate == 10
    count.report(LoadReport(10), 5.0, 5.1)
    assert count.estimate == 10


def test_a_close_that_the_report_knew_first_is_not_taken_off_twice() -> None:
    """The backend notices the end before its relay, or before the other balancer's notice is here."""
    count = ledger(reported=10)
    made = count.reserve(1, "k", 1.0)
    count.open(made, 1.1)
    count.report(LoadReport(11), 2.0, 2.0)
    count.report(LoadReport(9), 3.0, 3.0)
    count.end(made, 3.0 + LATE_S / 2)
    count.remote_close("other", 3.0 + LATE_S / 2)
    assert count.estimate == 9


def test_what_we_relay_is_the_least_it_can_be() -> None:
    """A report of 0 does not hide our own connections."""
    count = ledger(reported=0)
    for number in range(7):
        count.open(count.reserve(number, "k", 1.0), 1.1)
    count.reserve(8, "k", 9.0)
    count.report(LoadReport(0), 10.0, 10.1)
    assert count.estimate == 8


def test_without_any_report_our_own_count_is_the_truth() -> None:
    """A foreign backend with no report at all."""
    count = ledger()
    made = [count.reserve(number, "k", 1.0) for number in range(5)]
    for each in made[:4]:
        count.open(each, 1.1)
    assert count.estimate == 5
    count.expire(made[4])
    count.end(made[0], 100.0)
    count.remote_close("never heard of", 100.0)
    assert count.estimate == 3


def test_an_opening_that_comes_after_the_expiry_counts_again() -> None:
    """A dial that took longer than a pick is kept is no connection less."""
    count = ledger(reported=4)
    made = count.reserve(1, "k", 1.0)
    count.expire(made)
    assert count.estimate == 4
    count.open(made, 18.0)
    assert (count.estimate, count.relayed) == (5, 1)
    count.end(made, 19.0)
    assert (count.estimate, count.relayed) == (4, 0)


def test_another_balancers_pick_is_counted_once_whatever_comes_first() -> None:
    """The report with the key before the notice, or after it."""
    count = ledger(reported=0, node=True)
    count.remote_pick(1, "a", 1.0)
    count.report(node_report(2, 2, "a", "b"), 2.0, 2.0)
    count.remote_pick(2, "b", 2.1)
    assert (count.estimate, len(count.pending)) == (2, 0)
    count.remote_pick(3, "c", 3.0)
    count.remote_failure("c", 3.1)
    count.remote_close("a", 3.2)
    assert count.estimate == 1


def test_a_foreign_report_that_rose_before_the_notice_explains_it() -> None:
    """A late notice of a pick that the report contains adds nothing; a later one does."""
    count = ledger(relaying=False, reported=5)
    count.report(LoadReport(6), 2.0, 2.0)
    count.remote_pick(1, "a", 2.0 + LATE_S / 2)
    assert count.estimate == 6
    count.remote_pick(2, "b", 2.0 + LATE_S / 2)
    assert count.estimate == 7


def test_a_key_repeated_a_hundred_thousand_times_costs_no_more() -> None:
    """Clients choose keys; one key for all of them is counted as well as any other."""
    count = ledger(relaying=False, reported=0, node=True)
    many = 100_000
    made = [count.reserve(number, "same", 1.0) for number in range(many)]
    count.end(made[-1], 1.5)
    count.report(node_report(many - 1, many - 1, *["same"] * (many - 1)), 2.0, 2.0)
    assert (count.estimate, len(count.pending)) == (many - 1, 0)


def test_what_is_remembered_is_bounded() -> None:
    """Keys of connections that nobody placed, and closes without end, are forgotten in time."""
    count = ledger(reported=0, node=True)
    for number in range(SEEN_KEPT + 500):
        count.report(node_report(5, number + 1, f"direct{number}"), 1.0, 1.0)
    for _ in range(CLOSES_KEPT + 500):
        count.remote_close("x" * 5000, 2.0)
    assert len(count._seen) <= SEEN_KEPT
    assert count._closes.since(0.0) <= CLOSES_KEPT
    assert count.estimate == 0


def test_a_backend_that_reports_the_same_for_ever_is_doubted_when_steering() -> None:
    """Three reports of the same number and ten picks that went there; a change ends the doubt."""
    count = ledger(relaying=False, reported=0)
    for step in range(3):
        for number in range(4):
            count.reserve(step * 10 + number, "k", 10.0 * step)
        assert not count.doubted
        count.report(LoadReport(0), 10.0 * step + 5, 10.0 * step + 5)
    assert count.doubted
    count.report(LoadReport(3), 50.0, 50.0)
    assert not count.doubted


@pytest.mark.parametrize("keys", [("a",) * 3, ("",), ("\ud800",), ("x" * 10_000,)])
def test_strange_keys_do_no_harm(keys: tuple[str, ...]) -> None:
    """More keys than were opened, empty ones, lone surrogates, huge ones."""
    count = ledger(reported=0, node=True)
    count.reserve(1, keys[0], 1.0)
    count.report(node_report(1, 1, *keys), 2.0, 2.0)
    assert count.estimate == 1
    count.report(node_report(1, 10**30, *keys), 3.0, 3.0)
    assert count.estimate == 1


def test_a_repeated_key_of_an_ended_connection_does_not_settle_the_next() -> None:
    """Opened and ended between two reports: its key belongs to it, not to the pick of the same key that came later."""
    count = ledger(reported=0, node=True)
    gone = count.reserve(1, "same", 1.0)
    count.open(gone, 1.1)
    count.end(gone, 1.2)
    count.reserve(2, "same", 2.0)
    count.report(node_report(0, 1, "same"), 2.0, 2.1)
    assert (count.estimate, list(count.pending)) == (1, [2])


def test_a_foreign_report_that_overlaps_the_one_before_is_left_out() -> None:
    """Asked for before the other had come, it may be the older one of the two."""
    count = ledger(reported=10)
    made = count.reserve(1, "k", 1.0)
    assert count.report(LoadReport(11), 1.0, 1.5)
    count.open(made, 1.6)
    assert not count.report(LoadReport(10), 1.2, 1.7)
    assert count.estimate == 11


def test_a_young_pick_that_a_foreign_report_shows_does_not_expire() -> None:
    """The report rose by it; forgetting it later would take off what is there."""
    count = ledger(relaying=False, reported=10)
    made = count.reserve(1, "k", 1.0)
    count.report(LoadReport(11), 1.1, 1.2)
    count.expire(made)
    assert count.estimate == 11
    missing = count.reserve(2, "k", 2.0)
    count.report(LoadReport(11), 2.1, 2.2)
    assert count.estimate == 12
    count.expire(missing)
    assert count.estimate == 11
