"""Pages of history out of what was read of a channel."""

from __future__ import annotations

import msgspec

from trunkline.bus.nats.jetstream import Stored
from trunkline.bus.nats.reading import Reading, Wanted, publications

STORED = [Stored(seq, 1000 + seq, b"%d" % seq) for seq in (3, 5, 8)]
WANTED = Wanted("c", after=3, limit=2, oldest_ts=0, delivered=8)


def test_what_is_served() -> None:
    """What comes after the position and the floor, is young enough, and fits; the rest is announced as more."""
    reading = Reading.of(STORED, 0, 0)
    assert reading.served(WANTED, 0) == (STORED[1:], False)
    assert reading.served(msgspec.structs.replace(WANTED, limit=1), 0) == (STORED[1:2], True)
    assert reading.served(WANTED, 5) == (STORED[2:], False)
    assert reading.served(msgspec.structs.replace(WANTED, oldest_ts=1006), 0) == (STORED[2:], False)
    assert Reading.of(STORED, 4, 0).served(WANTED, 0) == (STORED[1:], True)


def test_what_a_page_links_to() -> None:
    """The message before the page when it is still held, else the position, unless something is gone between."""
    reading = Reading.of(STORED, 0, 0)
    oldest = Stored(3, 0, b"")
    assert reading.before(STORED[1:], oldest, 3, 0) == 3
    assert reading.before(STORED[2:], oldest, 3, 0) == 5
    assert reading.before(STORED, oldest, 2, 2) == 2
    assert reading.before(STORED, oldest, 1, 2) == 0
    assert reading.before([], oldest, 3, 0) == reading.before(STORED, None, 3, 0) == 0


def test_a_reading_that_was_cut_before_what_is_served() -> None:
    """A second reading takes the place of the first one's messages, and everything before it is too old."""
    cut = Reading.of(STORED, 9, 1006)
    assert (cut.cut_before_served, cut.too_old, cut.newest, cut.held) == (True, 5, None, 12)
    assert not Reading.of(STORED, 0, 1006).cut_before_served
    again = cut.again([Stored(20, 2000, b"")], 2)
    assert (again.too_old, again.pending, again.first, again.held) == (19, 2, 3, 12)
    nothing = cut.nothing_served(Stored(17, 1005, b""))
    assert (nothing.stored, nothing.newest, nothing.too_old) == ([], 17, 17)
    assert cut.nothing_served(None).newest == 5


def test_publications_are_linked() -> None:
    """Each carries the offset of the one before it."""
    assert [(each.offset, each.prev) for each in publications("c", "e", 2, STORED)] == [(3, 2), (5, 3), (8, 5)]
