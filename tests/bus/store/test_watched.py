"""What a watcher is given next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trunkline.bus.base import Entry
from trunkline.bus.store.watched import Watched

KEYS = ["a", "v.a", "v.b", "v", "vv"]


def entry(key: str, revision: int) -> Entry:
    return Entry(key, b"", revision)


def test_each_revision_is_given_once() -> None:
    """What was given is no news; another revision is, also a lower one, as after a store lost its content."""
    watched = Watched("a")
    assert watched.news([entry("a", 7)]) == [("a", entry("a", 7))]
    assert watched.news([entry("a", 7)]) == []
    assert watched.news([entry("a", 2)]) == [("a", entry("a", 2))]


def test_of_one_key_absence_is_news_once() -> None:
    """It is said at first, and again when the key is gone; of a prefix only what was given can be gone."""
    one, below = Watched("v"), Watched("v.")
    assert one.news([]) == [("v", None)]
    assert one.news([]) == []
    assert below.news([]) == []
    for watched, key in ((one, "v"), (below, "v.a")):
        watched.news([entry(key, 1)])
        assert watched.news([], ["other"]) == []
        assert watched.news([], [key]) == [(key, None)]
        assert watched.news([]) == []
        assert watched.news([entry(key, 1)]) == [(key, entry(key, 1))]


def test_what_was_not_read_is_not_gone() -> None:
    """A reading of some keys says nothing of the others, and of keys that are not meant nothing at all."""
    watched = Watched("")
    watched.news([entry("v.a", 1), entry("v.b", 2)])
    assert watched.news([entry("v.b", 3)], ["v.b"]) == [("v.b", entry("v.b", 3))]
    assert watched.news([], ["v.b"]) == [("v.b", None)]
    assert Watched("v.").news([entry("v", 1), entry("vv", 2), entry("a", 3)]) == []
    assert Watched("v").news([], ["v.a"]) == []


@given(
    prefix=st.sampled_from(["", "v.", "v", "a"]),
    steps=st.lists(
        st.tuples(st.dictionaries(st.sampled_from(KEYS), st.integers(1, 4)), st.none() | st.sets(st.sampled_from(KEYS)))
    ),
)
def test_what_was_given_adds_up_to_what_is_there(
    prefix: str, steps: list[tuple[dict[str, int], set[str] | None]]
) -> None:
    """Whatever is read in which pieces, a watcher that keeps what it is given has what was read last of each key."""
    watched, has, there = Watched(prefix), dict[str, int](), dict[str, int]()
    for state, read in steps:
        keys = set(KEYS) if read is None else read
        there = {key: there[key] for key in there.keys() - keys} | {key: state[key] for key in state.keys() & keys}
        found = [entry(key, state[key]) for key in state.keys() & keys]
        given_ = watched.news(found, None if read is None else read)
        revisions = [new.revision for _, new in given_ if new is not None]
        assert revisions == sorted(revisions)
        for key, new in given_:
            if new is None:
                has.pop(key, None)
            else:
                has[key] = new.revision
        assert has == {key: revision for key, revision in there.items() if watched.means(key)}
