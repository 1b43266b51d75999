"""What is concluded from JetStream's answers, against a model of a stream that changes while it is read."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trunkline.bus.base import Retention
from trunkline.bus.nats.jetstream import (
    Seen,
    epoch_of,
    floor_of,
    ms_of,
    needs_first_seq,
    place_of,
    profile_of,
    stream_config,
    time_of,
)
from trunkline.errors import SettingsError
from trunkline.nats.address import parse_address
from trunkline.settings.sections import BusSettings


class Stream:
    """A stream with a count per channel that evicts from its front at will."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.last = 0
        self.published: list[int] = []  # of the channel "c", ever
        self.held: list[tuple[int, str]] = []

    def apply(self, event: str) -> None:
        if event == "evict":
            del self.held[:2]
            return
        self.last += 1
        self.held.append((self.last, event))
        if event == "c":
            self.published.append(self.last)
        own = [each for each in self.held if each[1] == event]
        if len(own) > self.count:
            self.held.remove(own[0])

    def next(self, seq: int) -> int | None:
        return next((at for at, channel in self.held if channel == "c" and at >= seq), None)

    def pending(self, seq: int) -> int:
        return sum(1 for at, channel in self.held if channel == "c" and at >= seq)

    @property
    def first_seq(self) -> int:
        return self.held[0][0] if self.held else self.last + 1 if self.last else 0


EVENTS = st.lists(st.sampled_from(["c", "c", "other", "evict"]), max_size=8)


@settings(max_examples=1500, deadline=None)
@given(
    before=st.lists(st.sampled_from(["c", "c", "other", "evict"]), max_size=14),
    during=st.lists(EVENTS, max_size=12),
    count=st.integers(1, 6),
    after=st.one_of(st.just(0), st.integers(0, 14)),
    limit=st.integers(1, 8),
)
# The second message is pushed out while the first was read and the third was not.
@example(before=["other", "c", "c"], during=[["c", "c", "c"]], count=3, after=0, limit=1)
def test_nothing_above_the_floor_is_missing(
    before: list[str], during: list[list[str]], count: int, after: int, limit: int
) -> None:
    """Whatever is published and evicted between any two steps of a reading, all above the floor was read."""
    stream = Stream(count)
    for event in before:
        stream.apply(event)
    between = iter(during)

    def meanwhile() -> None:
        for event in next(between, []):
            stream.apply(event)

    start = max(after, 1)
    pending = stream.pending(start)
    stored: list[int] = []
    while len(stored) <= limit:
        seq = stream.next(stored[-1] + 1 if stored else start)
        if seq is None:
            break
        stored.append(seq)
        meanwhile()
    pending = max(0, pending - len(stored))
    meanwhile()
    oldest = stream.next(1)
    if not stored and oldest is not None and oldest > after:
        return  # asked for again
    meanwhile()
    seen = Seen(stored[0] if stored else None, len(stored) + pending, oldest)
    first_seq = stream.first_seq if needs_first_seq(seen, after, count) else None
    floor = floor_of(seen, count=count, first_seq=first_seq)
    top = stored[-1] if stored else max((at for at in stream.published if at <= after), default=0)
    wanted = [at for at in stream.published if max(floor, after) < at <= top]
    assert [at for at in stored if at > max(floor, after)] == wanted
    # A client at the position, when it is not below the floor, has missed nothing before the page.
    if after >= floor and stored:
        assert [at for at in stream.published if after < at <= top] == [at for at in stored if at > after]


def test_client_that_saw_the_oldest_message_is_safe() -> None:
    """A message that is still held proves the rest, with no need to ask for the stream's state."""
    seen = Seen(first=7, held=3, oldest=7)
    assert not needs_first_seq(seen, after=7, count=3)
    assert floor_of(seen, count=3, first_seq=None) == 6


def test_young_channel_has_its_whole_history() -> None:
    """A channel below its count, in a stream that has lost nothing, begins at 0 however late its first message came."""
    seen = Seen(first=500, held=2, oldest=500)
    assert needs_first_seq(seen, after=0, count=10)
    assert floor_of(seen, count=10, first_seq=1) == 0
    assert floor_of(seen, count=10, first_seq=400) == 399


def test_epoch_tells_creation_times_apart_to_the_nanosecond() -> None:
    """Different creation times never share an epoch, and the server's spelling does not matter."""
    times = [
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.5Z",
        "2026-01-01T00:00:00.05Z",
        "2026-01-01T00:00:00.500000001Z",
    ]
    assert len({epoch_of(each) for each in times}) == len(times)
    assert epoch_of("2026-01-01T00:00:00.5Z") == epoch_of("2026-01-01T00:00:00.500000000Z")


def test_times_of_the_server() -> None:
    """Timestamps are read to the ms whatever their number of digits, and written so that the server reads the same."""
    for text in ("2026-11-21T03:46:39.5Z", "2026-11-21T03:46:39.500999999Z", "2026-11-21T03:46:39.50Z"):
        assert ms_of(text) == 1795232799500
    assert ms_of(time_of(1795232799501)) == 1795232799501


def test_stream_of_a_retention() -> None:
    """Each retention has its own stream and subjects; the log outlives what is served from it."""
    config = stream_config(BusSettings(prefix="fleet-1"), Retention(1000, 300.0))
    assert (config.name, config.subjects) == ("FLEET-1_1000_300S", ["fleet-1.log.1000_300s.>"])
    assert config.max_age == 86_400 * 10**9
    assert stream_config(BusSettings(keep_s=5.0), Retention(1, 10.0)).max_age == 10 * 10**9
    assert profile_of(Retention(5, 0.25)) == "5_250ms"


@pytest.mark.parametrize(
    ("address", "servers", "login"),
    [
        ("nats://localhost", ("nats://localhost:4222",), (None, None, None)),
        ("nats://a:1,b:2, nats://c", ("nats://a:1", "nats://b:2", "nats://c:4222"), (None, None, None)),
        ("tls://me:p%40ss@h:5", ("tls://h:5",), ("me", "p@ss", None)),
        ("nats://t0ken@[::1]:7", ("nats://[::1]:7",), (None, None, "t0ken")),
    ],
)
def test_addresses(address: str, servers: tuple[str, ...], login: tuple[str | None, ...]) -> None:
    """Servers and log-in are told apart, and what is shown holds no secret."""
    parsed = parse_address(address)
    assert parsed.servers == servers
    assert (parsed.user, parsed.password, parsed.token) == login
    for secret in filter(None, login):
        assert secret not in f"{parsed!r} {parsed}"


@pytest.mark.parametrize(
    "address",
    [
        "nats://",
        "http://h:1",
        "nats://u:s3cret@h:port",
        "nats://u:s3cret@h:1/path",
        "nats://u:s3cret@h,tls://h",
        "nats://a,,b",
    ],
)
def test_unusable_addresses_are_refused_without_their_secrets(address: str) -> None:
    """A mistyped address is refused with what is allowed, and the error does not repeat it."""
    with pytest.raises(SettingsError) as caught:
        parse_address(address)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_headers_that_are_not_the_servers() -> None:
    """Whatever is missing or wrong in them is one kind of error."""
    good = {"Nats-Sequence": "7", "Nats-Last-Sequence": "0", "Nats-Time-Stamp": "2026-01-01T00:00:00Z"}
    assert place_of(good) == (7, 0, 1_767_225_600_000)
    for name in good:
        for value in (None, "", "x", "-1", "9" * 40, "9" * 5000):
            wrong = {key: text for key, text in {**good, name: value}.items() if text is not None}
            with pytest.raises(ValueError):  # noqa: PT011 - which words is of no interest
                place_of(wrong)
