"""What several workers say of one channel, put together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trunkline.load.model.messages import Done, Hole, Offsets, Position, Sent
from trunkline.load.model.positions import (
    CHANNELS_AT_ONCE,
    ENDS_AT_ONCE,
    Holes,
    in_pieces,
    merge_ends,
    ranges_of,
    within,
)
from trunkline.load.workers.pipe import pack


def test_greatest_offset_of_one_epoch() -> None:
    """In one epoch the greatest offset is the end, whenever it was acknowledged."""
    ends = merge_ends([{"a": Position("e", 5, 1.0), "b": Position("e", 1)}, {"a": Position("e", 7, 0.5)}])
    assert {name: position.offset for name, position in ends.items()} == {"a": 7, "b": 1}


def test_newest_of_two_epochs() -> None:
    """A channel that started again ends where it was acknowledged last, though the offset is smaller."""
    old, new = {"a": Position("e", 900, 1.0)}, {"a": Position("f", 3, 2.0)}
    assert merge_ends([old, new]) == merge_ends([new, old]) == new


@given(st.lists(st.tuples(st.sampled_from("ef"), st.integers(0, 9)), min_size=1), st.randoms())
def test_order_of_workers_does_not_matter(said: list[tuple[str, int]], rng: object) -> None:
    """The same positions give the same end in every order, as long as the newer epoch was acknowledged later."""
    told = [{"a": Position(epoch, offset, 1.0 if epoch == "e" else 2.0)} for epoch, offset in said]
    first = merge_ends(told)
    rng.shuffle(told)  # type: ignore[attr-defined]
    assert merge_ends(told) == first


@given(st.integers(0, 3 * ENDS_AT_ONCE))
def test_pieces_are_the_whole(count: int) -> None:
    """Pieces put together are the map, and only the last says that none follows."""
    ends = {f"c{n}": Position("e", n) for n in range(count)}
    pieces = list(in_pieces(ends))
    assert {name: at for piece, _ in pieces for name, at in piece.items()} == ends
    assert [more for _, more in pieces] == [True] * (len(pieces) - 1) + [False]


def test_longest_piece_can_be_sent() -> None:
    """A piece of the longest names fits into one message."""
    ends = {f"{n:0>400}": Position("f" * 16, 2**63 - 1, 1e9) for n in range(ENDS_AT_ONCE)}
    assert pack(Sent(0, ends, True))


holes = st.builds(
    lambda channel, after, size: Hole(channel, "e", after, after + size, 0),
    st.sampled_from("ab"),
    st.integers(0, 50),
    st.integers(1, 9),
)


@given(st.lists(holes), st.sets(st.integers(0, 70)))
def test_offsets_within_holes(some: list[Hole], offsets: set[int]) -> None:
    """Exactly the offsets that lie in some hole are kept, in order and once."""
    ranges = ranges_of(some)
    for channel in "ab":
        wanted = [o for o in sorted(offsets) if any(h.channel == channel and h.after < o <= h.upto for h in some)]
        assert within(sorted(offsets), ranges.get((channel, "e"), ())) == wanted


def test_holes_are_asked_for_and_answered() -> None:
    """Questions name each channel once, in pieces; of the answers only what lies in a hole is kept, in order."""
    holes = Holes()
    assert holes.requests() == []
    holes.add(Done(0, (Hole("a", "e", 2, 5, 1), Hole("a", "e", 4, 6, 2), Hole("a", "f", 4, 5, 2)), more_holes=3))
    holes.add(Done(1, tuple(Hole(f"c{n}", "e", 0, 1, 1) for n in range(CHANNELS_AT_ONCE)), more_holes=4))
    first, last = holes.requests()
    assert (first.more, last.more, len(first.channels), len(last.channels)) == (True, False, CHANNELS_AT_ONCE, 1)
    holes.answered(Offsets(0, "a", "e", (1, 2, 6, 9)))
    holes.answered(Offsets(1, "a", "e", (3, 6)))
    holes.answered(Offsets(1, "a", "f", (4, 5, 6)))
    holes.answered(Offsets(1, "unasked", "e", (1,)))
    assert holes.published() == {("a", "e"): [3, 6], ("a", "f"): [5]}
    assert (len(holes.holes), holes.more) == (CHANNELS_AT_ONCE + 3, 7)
