"""Holes against the offsets that were published."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trunkline.load.judge import missing
from trunkline.load.model.messages import Hole
from trunkline.load.model.tally import MAX_FINDINGS, Finding

A = ("a", "e")


def test_only_published_offsets_are_counted() -> None:
    """Offsets are not dense: of a hole of ten numbers three were publications; bounds are after < offset <= upto."""
    hole = Hole("a", "e", 10, 20, 3)
    assert missing.count([hole], {A: [5, 10, 12, 17, 20, 25]}) == 3
    assert missing.count([hole, hole], {A: [12, 20], ("b", "e"): [11, 13]}) == 4


def test_the_end_of_a_hole_exists_even_if_nobody_was_told() -> None:
    """Its acknowledgement was lost, or somebody else published it: it counts beside those that are known."""
    hole = Hole("a", "e", 10, 20, 3)
    assert missing.count([hole], {}) == 1
    assert missing.count([hole], {A: [5, 12, 25]}) == 2


def test_each_epoch_has_offsets_of_its_own() -> None:
    """A channel that started again in the run: holes before and after it, at the same numbers, are counted apart."""
    old, new = Hole("a", "old", 2, 6, 3), Hole("a", "new", 2, 6, 3)
    offsets = {old.of: [3, 4, 5, 6, 7], new.of: [1, 2, 6, 9]}
    assert (missing.count([old], offsets), missing.count([new], offsets)) == (4, 1)
    found = [(each.epoch, each.offset) for each in missing.findings([old, new], offsets, 0.0)]
    assert found == [("old", 3), ("old", 4), ("old", 5), ("old", 6), ("new", 6)]


def test_each_lost_publication_is_named() -> None:
    """Channel, connection, epoch, its own offset and the one before it."""
    told = missing.findings([Hole("a", "e", 10, 20, 3)], {A: [10, 12, 20]}, 9.5)
    assert told == [
        Finding("lost", "a", 3, 12, after=10, epoch="e", at_s=9.5),
        Finding("lost", "a", 3, 20, after=12, epoch="e", at_s=9.5),
    ]


def test_a_great_hole_does_not_push_out_the_others() -> None:
    """After the first hundred of a hole the rest is one finding, and there is an end to all of them."""
    offsets = {A: range(1, 5001)}
    told = missing.findings([Hole("a", "e", 0, 4999, 3), Hole("a", "e", 0, 7, 4)], offsets, 0.0)
    assert [(each.connection, each.after, each.offset) for each in told[99:102]] == [
        (3, 99, 100), (3, 100, 4999), (4, 0, 1),
    ]  # fmt: skip
    assert len(missing.findings([Hole("a", "e", n, n + 1, 3) for n in range(3000)], offsets, 0.0)) == MAX_FINDINGS


@given(
    st.sets(st.integers(1, 60)),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 10)), max_size=6),
)
def test_counts_are_those_of_plain_sets(published: set[int], bounds: list[tuple[int, int]]) -> None:
    """Any offsets and holes: what lies within, and the end of each."""
    holes = [Hole("a", "e", after, after + width, 0) for after, width in bounds]
    expected = sum(len({n for n in published if h.after < n <= h.upto} | {h.upto}) for h in holes)
    offsets = {A: sorted(published)}
    assert missing.count(holes, offsets) == expected
    assert len(missing.findings(holes, offsets, 0.0)) == expected
