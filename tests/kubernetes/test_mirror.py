"""The mirror of a list against a store whose watches are cut at any byte, expire, and end in errors."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.kubernetes.store import Store, TooOld, status
from trunkline.kubernetes.failures import ApiExpired, ApiFailed, Request
from trunkline.kubernetes.mirror import MOST_BYTES, Mirror
from trunkline.kubernetes.objects import PODS, Listed, Meta

REQUEST = Request("watch", PODS, "live")
LABELS = "app=ws"
NAMES = st.sampled_from(["a", "b", "c", "d", "e"])


class Thing(msgspec.Struct, frozen=True):
    metadata: Meta
    value: int = 0


def thing(name: str, value: int, *, selected: bool = True) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"app": "ws" if selected else "other"}}, "value": value}


def line(kind: str, found: object) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode() + b"\n"


class Watched(RuleBasedStateMachine):
    """Writes and reads in any order.

    At every moment the mirror has the objects exactly as they were at the version that it names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.mirror: Mirror[Thing] = Mirror(Thing)
        self.states: dict[int, dict[str, int]] = {self.store.version: {}}
        self.shown: dict[str, int] = {}
        self.stream: bytes | None = None
        self.sent_to = 0

    @initialize(values=st.lists(st.tuples(NAMES, st.integers(0, 9)), max_size=6))
    def begin(self, values: list[tuple[str, int]]) -> None:
        for name, value in values:
            self.write(name, value, True)

    def _note(self) -> None:
        rows = self.store.all("things", "live", LABELS)
        self.states[self.store.version] = {row["metadata"]["name"]: row["value"] for row in rows}

    @rule(name=NAMES, value=st.integers(0, 9), selected=st.booleans())
    def write(self, name: str, value: int, selected: bool) -> None:
        self.store.put("things", "live", thing(name, value, selected=selected))
        self._note()

    @rule(name=NAMES)
    def write_elsewhere(self, name: str) -> None:
        """Other kinds of objects take versions too."""
        self.store.put("others", "live", thing(name, self.store.version))
        self._note()

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if any(row["metadata"]["name"] == name for row in self.store.all("things", "live")):
            self.store.delete("things", "live", name)
            self._note()

    @rule()
    def compact(self) -> None:
        """A watch that is open and has not read everything is answered as one that is too old."""
        if self.stream is not None and self.sent_to < self.store.version:
            self.stream += line("ERROR", status(410, "Expired", "too old resource version"))
            self.sent_to = self.store.version
        self.store.compact()

    @precondition(lambda self: not self.mirror.position)
    @rule(limit=st.integers(0, 3))
    def list_a_page(self, limit: int) -> None:
        self.stream = None
        try:
            page = self.store.page("things", "live", LABELS, limit, self.mirror.page)
        except TooOld:
            self.mirror.list_again()
            return
        self.mirror.listed(msgspec.convert(page, Listed[Thing], strict=False))

    @precondition(lambda self: self.mirror.position and self.stream is None)
    @rule(as_event=st.booleans())
    def watch(self, as_event: bool) -> None:
        self.mirror.watching()
        self.sent_to = int(self.mirror.position)
        try:
            self.store.since(self.sent_to, "things", "live", LABELS)
            self.stream = b""
        except TooOld as error:
            if as_event:
                self.stream = line("ERROR", status(410, "Expired", str(error)))
                self.sent_to = self.store.version
            else:
                self.mirror.list_again()

    @precondition(lambda self: self.stream is not None)
    @rule(count=st.integers(1, 400))
    def read(self, count: int) -> None:
        """Some bytes of the stream arrive, and end wherever they end."""
        self._serve()
        assert self.stream is not None
        chunk, self.stream = self.stream[:count], self.stream[count:]
        try:
            self.mirror.received(chunk, REQUEST)
        except ApiFailed:
            assert not self.mirror.position
            self.stream = None

    def _serve(self) -> None:
        assert self.stream is not None
        if self.sent_to >= self.store.compacted:
            events, self.sent_to = self.store.since(self.sent_to, "things", "live", LABELS)
            self.stream += b"".join(line(event["type"], event["object"]) for event in events)

    @precondition(lambda self: self.stream is not None)
    @rule()
    def bookmark(self) -> None:
        self._serve()
        assert self.stream is not None
        self.stream += line("BOOKMARK", {"metadata": {"resourceVersion": str(self.sent_to)}})

    @precondition(lambda self: self.stream is not None)
    @rule()
    def cut(self) -> None:
        """What was sent and not read is lost."""
        self.stream = None

    @precondition(lambda self: self.stream is not None)
    @rule(
        broken=st.sampled_from([b"<html>\n", b'{"type":"ADDED"}\n', line("ERROR", status(500, "", "etcd")), b"\xff\n"])
    )
    def break_the_stream(self, broken: bytes) -> None:
        assert self.stream is not None
        self.stream += broken

    @invariant()
    def it_shows_one_moment(self) -> None:
        found = {name: each.value for name, each in self.mirror.objects.items()}
        if self.mirror.position:
            assert found == self.states[int(self.mirror.position)]
            self.shown = found
        else:
            # While it lists again it shows a state that it has had, or one of the events before the failure.
            assert found in self.states.values()

    def teardown(self) -> None:
        """Left alone, it comes to what there is."""
        for _ in range(60):
            if not self.mirror.position:
                self.list_a_page(2)
            elif self.stream is None:
                self.watch(True)
            else:
                self.read(10_000)
        found = {name: each.value for name, each in self.mirror.objects.items()}
        assert found == self.states[self.store.version]


TestWatched = Watched.TestCase
TestWatched.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


def listed(mirror: Mirror[Thing], *things: dict[str, Any], version: str = "7") -> None:
    assert mirror.listed(msgspec.convert({"metadata": {"resourceVersion": version}, "items": things}, Listed[Thing]))


def test_the_objects_stay_while_a_list_is_fetched_again() -> None:
    """They are replaced at once, with the last page."""
    mirror = Mirror(Thing)
    listed(mirror, thing("a", 1), thing("b", 2))
    with pytest.raises(ApiExpired):
        mirror.received(line("ERROR", status(410, "Expired", "too old resource version: 7 (90)")), REQUEST)
    assert set(mirror.objects) == {"a", "b"}
    page = {"metadata": {"resourceVersion": "91", "continue": "more"}, "items": [thing("c", 3)]}
    assert not mirror.listed(msgspec.convert(page, Listed[Thing]))
    assert (set(mirror.objects), mirror.page) == ({"a", "b"}, "more")
    listed(mirror, thing("d", 4), version="91")
    assert (set(mirror.objects), mirror.position, mirror.page) == ({"c", "d"}, "91", "")


def test_half_a_line_of_a_cut_watch_is_not_joined_to_the_next() -> None:
    mirror = Mirror(Thing)
    listed(mirror)
    event = line("ADDED", {"metadata": {"name": "a", "resourceVersion": "8"}})
    assert not mirror.received(event[:20], REQUEST)
    mirror.watching()
    assert mirror.received(event, REQUEST)
    assert (set(mirror.objects), mirror.position) == ({"a"}, "8")


def test_null_is_an_empty_list() -> None:
    mirror = Mirror(Thing)
    assert mirror.listed(msgspec.convert({"metadata": {"resourceVersion": "5"}, "items": None}, Listed[Thing]))
    assert mirror.objects == {}


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"\n{\n", "sent what is no event"),
        (line("RENAMED", {}), "an event of the unknown type 'RENAMED'"),
        (b"x" * (MOST_BYTES + 1), "a line of watch pods in namespace live has more than 16,777,216 bytes"),
        (line("ERROR", status(500, "InternalError", "etcdserver: leader changed")), "500 InternalError: etcdserver"),
    ],
)
def test_what_is_no_event_begins_a_new_list(sent: bytes, why: str) -> None:
    """What was missed is unknown."""
    mirror = Mirror(Thing)
    listed(mirror, thing("a", 1))
    with pytest.raises(ApiFailed, match=why):
        mirror.received(sent, REQUEST)
    assert (mirror.position, set(mirror.objects)) == ("", {"a"})
