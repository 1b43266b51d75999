"""The pure history: whatever is appended and evicted, a page is honest about its ends."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.bus.base import Retention
from trunkline.bus.history import History

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 40)),  # after this many ms
        st.tuples(st.just("page"), st.integers(0, 40), st.integers(0, 30), st.integers(0, 12)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps=STEPS, count=st.integers(1, 8), age_ms=st.integers(1, 100), start=st.sampled_from([0, 7]))
def test_pages_agree_with_a_list_that_forgets_nothing(
    steps: list[tuple[object, ...]], count: int, age_ms: int, start: int
) -> None:
    """A page holds exactly what is after `after` and above the floor, and the floor is no higher than it must be."""
    history = History("c", "e", Retention(count, age_ms / 1000), start=start)
    now = 1_000_000
    everything: list[tuple[int, int]] = []
    gone = start  # the newest offset that was ever evicted
    for kind, wait, *rest in steps:
        assert isinstance(wait, int)
        now += wait
        if kind == "append":
            publication = history.append(b"x", now)
            assert publication.offset == start + len(everything) + 1
            assert publication.prev == (everything[-1][0] if everything else 0)
            everything.append((publication.offset, now))
        for offset, ts in everything:
            if ts < now - age_ms or offset <= start + len(everything) - count:
                gone = max(gone, offset)
        if kind != "page":
            continue
        after, limit = rest
        assert isinstance(after, int)
        assert isinstance(limit, int)
        page = history.page(after, limit, now)
        readable = [offset for offset, _ in everything if offset > max(after, gone)]
        got = [publication.offset for publication in page.publications]
        assert page.floor == gone
        assert got == readable[:limit]
        assert page.more == (len(readable) > limit)
        newest = everything[-1][0] if everything else 0
        assert page.top == (got[-1] if got else newest)
        assert history.empty(now) == (gone == start + len(everything))


def test_clock_that_steps_back_brings_nothing_back() -> None:
    """What is gone stays gone when the time handed in goes backwards."""
    history = History("c", "e", Retention(10, 1.0))
    history.append(b"1", 1000)
    assert history.page(0, 10, 5000).floor == 1
    page = history.page(0, 10, 1000)
    assert (page.publications, page.floor, page.top) == ([], 1, 1)


def test_history_without_retention_is_refused() -> None:
    """A channel that keeps nothing cannot have a history."""
    with pytest.raises(ValueError, match="keeps nothing"):
        History("c", "e", Retention(0, 1.0))
