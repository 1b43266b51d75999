"""The line of each table, key and item of a TOML text."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trunkline.settings.reading.toml_places import Place, toml_lines, toml_places

TRICKY = '''\
# [[stages]] in a comment
title = """
[[stages]]
duration = "in a text"
""""
other = \'\'\'
a'' = 1'\'\'\'
empty = ""
"quoted key" . 'inner' = 5
[[stages]]   # [[stages]]
duration = "a # b"
[stages.more."x.y"]
deep = [ [1, 2], # ]
  [3,
   { a = 1, b = [
     4 ] } ], ]
[[stages.items]]
one = 1
[[stages.items]]
two = 'C:\\'

[[ stages ]]
"dur\\u0061tion" = 1
[[stages.items]]
three = {}
[ plain . table ]
date = 2020-01-01T00:00:00Z
'''


def test_lines_of_a_tricky_file():
    """Comments, texts of several lines, quoted and dotted keys, inline tables and lists in lists lead nobody astray."""
    places = toml_places(TRICKY)
    assert {place: places.get(place) for place in WANTED} == WANTED
    # With the line ends of another system they are the same.
    assert toml_places(TRICKY.replace("\n", "\r\n")) == places


WANTED: dict[Place, int] = {
    ("title",): 2, ("other",): 6, ("empty",): 8, ("quoted key", "inner"): 9, ("stages",): 10, ("stages", 0): 10,
    ("stages", 0, "duration"): 11, ("stages", 0, "more", "x.y"): 12, ("stages", 0, "more", "x.y", "deep"): 13,
    ("stages", 0, "more", "x.y", "deep", 0, 1): 13, ("stages", 0, "more", "x.y", "deep", 1): 14,
    ("stages", 0, "more", "x.y", "deep", 1, 1, "a"): 15, ("stages", 0, "more", "x.y", "deep", 1, 1, "b", 0): 16,
    ("stages", 0, "items", 0, "one"): 18, ("stages", 0, "items", 1, "two"): 20, ("stages", 1): 22,
    ("stages", 1, "duration"): 23, ("stages", 1, "items", 0, "three"): 25, ("plain", "table"): 26,
    ("plain", "table", "date"): 27,
}  # fmt: skip


def leaves(value: Any, place: Place = ()) -> set[Place]:
    """The places of everything that is in what was read."""
    inner = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )  # fmt: skip
    return {place, *(leaf for key, item in inner for leaf in leaves(item, (*place, key)))}


def test_every_place_of_a_tricky_file_has_a_line():
    """What the reader finds and what the scan finds are the same places."""
    assert leaves(tomllib.loads(TRICKY)) - {()} == set(toml_places(TRICKY))


PIECES = st.sampled_from(
    ["[[a]]\n", "[[a.b]]\n", "[c]\n", "[c.d]\n", "x = 1\n", "y = [1, [2,\n3]]\n", "z.w = {q = 1, r.s = ''}\n",
     "'k' = '''\n'a' ''''\n", 'm = """\n\\""" "" """\n', "# [e]\n", "\n", "  u = ']' # }\n", "v = \"#\\\"\"\n"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12))
def test_the_scan_finds_what_the_reader_finds(pieces: list[str]):
    """In any valid text each place has the line on which its name or its item stands."""
    text = "".join(pieces)
    try:
        wanted = leaves(tomllib.loads(text)) - {()}
    except tomllib.TOMLDecodeError:
        return
    places = toml_places(text)
    assert set(places) == wanted
    written = text.splitlines()
    for place, number in places.items():
        if isinstance(place[-1], str):
            assert place[-1] in written[number - 1]


@given(st.text(alphabet="[]{}=.,\"'\\#\n ab1", max_size=60))
def test_the_scan_ends_and_raises_nothing(text: str):
    """Whatever it is handed, it comes back."""
    toml_places(text)


def test_lines_by_the_names_of_messages():
    """Messages name a place by dots and indices."""
    assert toml_lines("[[a.b]]\nc = 1\n") == {"a": 1, "a.b": 1, "a.b[0]": 1, "a.b[0].c": 2}
