from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.net.limits import AddressLimiter, Bucket, address_key


def test_burst_then_steady_rate() -> None:
    """The burst goes at once, the next one after the time the bucket says, and not before."""
    bucket = Bucket(3, 2, 100.0)
    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    wait = bucket.take(100.0)
    assert wait == pytest.approx(0.5)
    assert bucket.take(100.0 + wait * 0.9) > 0
    assert bucket.take(100.0 + wait) == 0.0


def test_a_refusal_takes_nothing() -> None:
    """Asking in vain does not push the next one further away."""
    bucket = Bucket(1, 1, 0.0)
    bucket.take(0.0)
    assert [bucket.take(0.5) for _ in range(100)][-1] == pytest.approx(0.5)


def test_rate_zero_is_no_limit() -> None:
    """A rate of 0 lets everything through."""
    bucket = Bucket(1, 0, 0.0)
    assert {bucket.take(0.0) for _ in range(1000)} == {0.0}
    limiter = AddressLimiter(1, 0)
    assert {limiter.take("192.0.2.1", 0.0) for _ in range(1000)} == {0.0}
    assert len(limiter) == 0


def test_more_than_the_burst_is_taken_as_the_burst() -> None:
    """An amount that never fits waits for a full bucket instead of forever."""
    bucket = Bucket(5, 1, 0.0)
    assert bucket.take(0.0, 50) == 0.0
    assert bucket.take(0.0) == pytest.approx(1.0)
    assert bucket.take(0.0, 50) == pytest.approx(5.0)


def test_a_clock_that_steps_back_gives_nothing_away() -> None:
    """Time running backwards never refills."""
    bucket = Bucket(2, 1, 100.0)
    assert bucket.take(100.0) == 0.0
    assert bucket.take(100.0) == 0.0
    assert bucket.take(50.0) > 0


@given(
    burst=st.floats(1, 50),
    per_s=st.floats(0.1, 100),
    steps=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_never_more_than_burst_plus_rate(burst: float, per_s: float, steps: list[float]) -> None:
    """In any stretch of time no more passes than burst + rate x time."""
    bucket = Bucket(burst, per_s, 0.0)
    now = 0.0
    taken: list[float] = []
    for step in steps:
        now += step
        if bucket.take(now) == 0.0:
            taken.append(now)
    for first, begin in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + per_s * (taken[last] - begin) + 1e-3


@given(burst=st.floats(1, 50), per_s=st.floats(0.1, 100), steps=st.lists(st.floats(0, 1), max_size=100))
def test_waiting_as_told_always_succeeds(burst: float, per_s: float, steps: list[float]) -> None:
    """Whoever comes back after the announced time is let through."""
    bucket = Bucket(burst, per_s, 0.0)
    now = 0.0
    for step in steps:
        now += step
        wait = bucket.take(now)
        if wait:
            now += wait
            assert bucket.take(now) == 0.0


def test_addresses_do_not_share() -> None:
    """Each address has its own bucket."""
    limiter = AddressLimiter(1, 1)
    assert limiter.take("192.0.2.1", 0.0) == 0.0
    assert limiter.take("192.0.2.1", 0.0) > 0
    assert limiter.take("192.0.2.2", 0.0) == 0.0


def test_one_bucket_for_an_ipv6_network() -> None:
    """All addresses of a /64 share; the next /64 does not; a mapped IPv4 address is the IPv4 address."""
    assert address_key("2001:db8::1") == address_key("2001:db8::ffff:1")
    assert address_key("2001:db8::1") != address_key("2001:db8:0:1::1")
    assert address_key("::ffff:192.0.2.1") == "192.0.2.1"
    assert address_key("fe80::1%eth0") == address_key("fe80::2")
    assert address_key("not:an:address") == "not:an:address"


def test_exempt_networks() -> None:
    """Exempt addresses are never limited and never remembered."""
    limiter = AddressLimiter(1, 1, ["127.0.0.0/8", "::1", "10.1.0.0/16"])
    for address in ("127.0.0.1", "::1", "10.1.2.3", "::ffff:127.0.0.1"):
        assert {limiter.take(address, 0.0) for _ in range(50)} == {0.0}
    assert len(limiter) == 0
    with pytest.raises(ValueError, match="nonsense"):
        AddressLimiter(1, 1, ["nonsense"])


def test_full_buckets_are_forgotten() -> None:
    """Addresses that have been quiet long enough leave no trace, while a busy one stays."""
    limiter = AddressLimiter(2, 1)
    for number in range(1000):
        limiter.take(f"192.0.{number // 250}.{number % 250}", number * 0.01)
    assert len(limiter) < 250
    limiter.take("198.51.100.1", 1000.0)
    limiter.take("198.51.100.2", 1000.0)
    limiter.take("198.51.100.3", 1000.0)
    for number in range(200):
        limiter.take("203.0.113.1", 1000.0 + number * 10)
    assert len(limiter) == 1


def test_memory_is_bounded() -> None:
    """Above the cap the address that was quiet longest goes, not the busy one."""
    limiter = AddressLimiter(1, 0.001, max_addresses=100)
    assert limiter.take("203.0.113.9", 0.0) == 0.0
    for number in range(5000):
        limiter.take(f"10.{number // 65536}.{number // 256 % 256}.{number % 256}", 0.0)
        assert limiter.take("203.0.113.9", 0.0) > 0
    assert len(limiter) <= 101
