from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from trunkline.placement.counting.keys import KeyTable, SeenKeys
from trunkline.placement.sticky import Sticky, parse, render


class Item(NamedTuple):
    key: str
    number: int


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9))))
def test_a_table_holds_what_a_list_would(steps: list[tuple[str, int]]) -> None:
    """Adding what is not there and removing what is; the first of a key is the oldest."""
    table: KeyTable[Item] = KeyTable()
    model: list[Item] = []
    for step in steps:
        item = next((each for each in model if each == step), None)
        if item is None:
            model.append(Item(*step))
            table.add(model[-1])
        else:
            model.remove(item)
            table.remove(item)
        for key in "ab":
            assert table.first(key) is next((each for each in model if each.key == key), None)


def test_seen_keys_are_counted_age_and_are_bounded() -> None:
    """Each is taken as often as it was seen, while it is young."""
    seen = SeenKeys(10.0, 3)
    seen.add("a", 0.0)
    seen.add("a", 1.0)
    assert [seen.take("a", 2.0) for _ in range(3)] == [True, True, False]
    seen.add("b", 0.0)
    assert not seen.take("b", 11.0)
    for key in "cdef":
        seen.add(key, 20.0)
    assert len(seen) == 3
    assert not seen.take("c", 20.0)
    seen.forget(40.0)
    assert len(seen) == 0


@given(st.text(max_size=60))
def test_a_cookie_brings_back_what_it_was_made_of(group: str) -> None:
    """Any group that fits; the value has no character that a cookie may not have."""
    group = group.encode("utf-8", "ignore").decode()
    value = render("0123456789abcdef", group)
    found = parse(value)
    assert found in (Sticky("0123456789abcdef", group), Sticky("0123456789abcdef", ""))
    assert not set(value) & set(' ",;\\')
    if len(group) < 16:
        assert found is not None
        assert found.group == group
