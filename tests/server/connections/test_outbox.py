"""The outbox of a slow client: bounded, in order, and every dropped publication is told of exactly once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trunkline.server.connections.outbox import HARD_FACTOR, Dropped, Outbox

LIMIT = 400
CHANNELS = ("a", "b", "c")


class SlowClient(RuleBasedStateMachine):
    """A client that reads now and then, channels that publish, and answers in between."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(LIMIT, 5.0)
        self.next = dict.fromkeys(CHANNELS, 1)
        self.queued: list[bytes] = []
        self.sent: list[bytes] = []
        self.dropping: dict[str, list[int]] = {}
        self.controls = 0

    def queue(self, frame: bytes) -> None:
        self.queued.append(frame)

    @rule(size=st.integers(1, 120))
    def answer(self, size: int) -> None:
        """A control message is queued, whatever the bound says."""
        self.controls += 1
        frame = f"control {self.controls} ".encode().ljust(size, b".") + b"\n"
        held = self.outbox.size + len(frame)
        alone = not self.queued
        self.queue(frame)
        assert self.outbox.put(frame, 0, 0.0) is (held <= LIMIT * HARD_FACTOR or alone)

    @rule(channel=st.sampled_from(CHANNELS), count=st.integers(1, 3), size=st.integers(10, 150), step=st.integers(1, 3))
    def publish(self, channel: str, count: int, size: int, step: int) -> None:
        """A tick's publications of a channel are queued together or dropped together."""
        prev = self.next[channel] - 1
        offsets = [prev + step * (number + 1) for number in range(count)]
        self.next[channel] = offsets[-1] + 1
        frame = f"{channel} {prev} {offsets[-1]} ".encode().ljust(size, b".") + b"\n"
        fits = self.outbox.size + len(frame) <= LIMIT
        kept = self.outbox.put_publications(frame, channel, "e", prev, offsets[-1], 0, 0.0)
        assert kept is (fits and channel not in self.dropping)
        if kept:
            self.queue(frame)
        else:
            self.dropping.setdefault(channel, [prev, 0])[1] = offsets[-1] + 1

    @rule(most=st.integers(1, 500))
    def read(self, most: int) -> None:
        """The client takes some; gaps are announced once half is free."""
        taken = self.outbox.take(most)
        frames = taken.split(b"\n")[:-1]
        assert [frame + b"\n" for frame in frames] == self.queued[: len(frames)]
        assert bool(frames) is bool(self.queued)
        assert len(taken) <= most or len(frames) == 1
        del self.queued[: len(frames)]
        self.sent += frames
        half_free = self.outbox.size <= LIMIT // 2
        gaps = self.outbox.gaps_due(0)
        expected = self.dropping if half_free else {}
        assert gaps == [Dropped(channel, "e", after, before) for channel, (after, before) in expected.items()]
        for gap in gaps:
            del self.dropping[gap.channel]
            frame = f"{gap.channel} {gap.after} {(gap.before or 0) - 1} gap\n".encode()
            self.queue(frame)
            self.outbox.put(frame, 0, 0.0)

    @precondition(lambda self: bool(self.dropping))
    @rule(channel=st.sampled_from(CHANNELS))
    def leave(self, channel: str) -> None:
        """A client that left a channel hears of no gap in it; it may join again, from where the channel is."""
        self.outbox.forget(channel)
        if self.dropping.pop(channel, None) is not None:
            self.queue(f"{channel} rejoin {self.next[channel] - 1}\n".encode())
            self.outbox.put(self.queued[-1], 0, 0.0)

    @invariant()
    def size_is_right(self) -> None:
        """The size is that of what waits, and tells when nothing waits."""
        assert self.outbox.size == sum(map(len, self.queued))
        assert bool(self.outbox) is (bool(self.queued) or bool(self.dropping))

    def teardown(self) -> None:
        """At the end the client has heard of every offset, in order: by a publication or by one gap."""
        while self.queued or self.dropping:
            self.read(10_000)
        seen = dict.fromkeys(CHANNELS, 0)
        controls = 0
        for frame in self.sent:
            name, first, second, *_ = [*frame.decode().split(" "), ""]
            if name == "control":
                controls += 1
                assert int(first) == controls
            elif first == "rejoin":
                seen[name] = int(second)
            else:
                assert int(first) == seen[name], "publications and gaps of a channel follow each other without a hole"
                seen[name] = int(second)
        assert controls == self.controls
        assert seen == {channel: following - 1 for channel, following in self.next.items()}


TestSlowClient = SlowClient.TestCase
TestSlowClient.settings = settings(max_examples=60, stateful_step_count=40)


def test_bound_counts_what_the_transport_holds() -> None:
    """Bytes that the kernel has not taken count against the bound."""
    outbox = Outbox(100, 5.0)
    assert outbox.put_publications(b"x" * 40, "a", "e", 0, 1, 60, 0.0)
    assert not outbox.put_publications(b"x" * 40, "b", "e", 0, 1, 61, 0.0)
    assert outbox.gaps_due(11) == []
    assert outbox.gaps_due(10) == [Dropped("b", "e", 0, 2)]
    assert outbox.gaps_due(0) == []


def test_too_slow_after_the_grace() -> None:
    """The grace time runs from the first byte over the bound, and later ones do not extend it."""
    outbox = Outbox(100, 5.0)
    assert outbox.put_publications(b"x" * 100, "a", "e", 0, 1, 0, 10.0)
    assert not outbox.too_slow(1000.0)
    outbox.put_publications(b"x", "a", "e", 1, 2, 0, 20.0)
    outbox.put(b"x", 0, 24.0)
    assert not outbox.too_slow(24.9)
    assert outbox.too_slow(25.0)


def test_control_messages_start_the_grace_too() -> None:
    """A client that only asks and never reads is too slow as well."""
    outbox = Outbox(100, 5.0)
    outbox.put(b"x" * 101, 0, 10.0)
    assert outbox.too_slow(15.0)


def test_draining_to_half_ends_the_grace() -> None:
    """Below the bound is not enough, half of it is; then the grace time begins again."""
    outbox = Outbox(100, 5.0)
    for _ in range(4):
        outbox.put(b"x" * 30, 0, 10.0)
    outbox.take(30)
    assert outbox.gaps_due(0) == []
    assert outbox.too_slow(15.0)
    outbox.take(60)
    outbox.gaps_due(0)
    assert not outbox.too_slow(100.0)
    outbox.put(b"x" * 101, 0, 200.0)
    assert not outbox.too_slow(204.9)
    assert outbox.too_slow(205.0)


def test_hard_bound() -> None:
    """Control messages may exceed the bound, but not without end; one large answer alone always may."""
    outbox = Outbox(100, 5.0)
    assert outbox.put(b"x" * 1000, 0, 0.0)
    assert not outbox.put(b"x", 0, 0.0)
    outbox = Outbox(100, 5.0)
    assert [outbox.put(b"x" * 100, 0, 0.0) for _ in range(5)] == [True] * HARD_FACTOR + [False]


def test_channels_without_history() -> None:
    """Their gap has no offsets."""
    outbox = Outbox(10, 5.0)
    assert not outbox.put_publications(b"x" * 11, "a", None, None, None, 0, 0.0)
    assert not outbox.put_publications(b"x" * 11, "a", None, None, None, 0, 0.0)
    assert outbox.gaps_due(0) == [Dropped("a", None, None, None)]


def test_new_epoch_begins_a_new_gap() -> None:
    """Offsets of two epochs are never joined into one gap."""
    outbox = Outbox(10, 5.0)
    outbox.put_publications(b"x" * 11, "a", "old", 4, 5, 0, 0.0)
    outbox.put_publications(b"x" * 11, "a", "new", 0, 1, 0, 0.0)
    assert outbox.gaps_due(0) == [Dropped("a", "new", 0, 2)]


def test_clear() -> None:
    """Nothing is left for the last words to wait behind."""
    outbox = Outbox(10, 5.0)
    outbox.put(b"x" * 20, 0, 0.0)
    outbox.put_publications(b"x", "a", "e", 0, 1, 0, 0.0)
    outbox.clear()
    assert not outbox
    assert (outbox.size, outbox.take(100)) == (0, b"")


@given(st.lists(st.integers(1, 50)), st.integers(1, 100))
def test_take_hands_out_whole_frames(sizes: list[int], most: int) -> None:
    """Frames come out whole, in order, at least one at a time and not more than asked for."""
    frames = [bytes([65 + number % 26]) * size for number, size in enumerate(sizes)]
    outbox = Outbox(10, 5.0)
    for frame in frames:
        outbox.put(frame, 0, 0.0)
    taken = []
    while piece := outbox.take(most):
        taken.append(piece)
        assert len(piece) <= max(most, 50)
    assert b"".join(taken) == b"".join(frames)
