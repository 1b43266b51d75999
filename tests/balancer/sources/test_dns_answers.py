"""What answers of DNS mean: weights, backups, addresses of no use, and answers that hold a part alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.balancer.sources.dns_answers import MOST, PARTIAL_S, PATIENCE, Parts, Target, is_usable, weigh

TARGETS = st.builds(Target, st.integers(0, 3), st.integers(0, 65_535), st.just(1), st.sampled_from("abcdef"))


@given(st.lists(TARGETS, min_size=1))
def test_weights_are_beside_the_mean_of_their_priority(targets: list[Target]) -> None:
    """Equal weights are 1.0, none is 0 or above what a backend may weigh, a heavier record never weighs less."""
    used = weigh(targets)
    assert {each.target for each in used} == set(targets)
    assert all(0 < each.weight <= 1000 for each in used)
    for tier in {each.tier for each in used}:
        same = [each for each in used if each.tier == tier]
        assert len({each.target.priority for each in same}) == 1
        for one in same:
            assert all(one.weight <= other.weight for other in same if other.target.weight > one.target.weight)
        if len({each.target.weight for each in same}) == 1:
            assert {each.weight for each in same} == {1.0}


def test_lower_priority_numbers_are_lower_tiers() -> None:
    """The numbers themselves do not matter, their order does."""
    found = weigh([Target(700, 1, 1, "c"), Target(10, 1, 1, "a"), Target(20, 1, 1, "b")])
    assert [(each.target.host, each.tier) for each in found] == [("a", 0), ("b", 1), ("c", 2)]


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1%eth0"]
)
def test_addresses_that_no_backend_has(address: str) -> None:
    """What a sinkhole answers, groups, and what no URL can name."""
    assert not is_usable(address)


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "fd00::1", "::1", "::ffff:10.0.0.1"])
def test_addresses_that_a_backend_may_have(address: str) -> None:
    """Private and loopback ones included."""
    assert is_usable(address)


def test_what_is_missing_stays_for_a_few_answers() -> None:
    """Nobody knows yet whether answers are complete; with bad checks it goes at once."""
    parts: Parts[str] = Parts()
    parts.take(["a", "b", "c"], 0.0, lambda _: True)
    kept = [parts.take(["a"], float(now), lambda item: item != "c") for now in range(1, PATIENCE + 1)]
    assert kept == [["a", "b"]] * (PATIENCE - 1) + [["a"]]


def test_a_random_part_of_the_addresses_is_all_of_them() -> None:
    """Four of ten in each answer: all ten stay while their checks are good, and go when these are bad."""
    rng = random.Random(1)
    every = [f"10.0.0.{number}" for number in range(10)]
    parts: Parts[str] = Parts()
    for now in range(200):
        found = parts.take(rng.sample(every, 4), now * 10.0, lambda _: True)
        assert now < 20 or sorted(found) == every
    found = parts.take(every[:4], 2000.0, lambda item: item != "10.0.0.9")
    assert sorted(found) == every[:9]


def test_a_name_that_gives_parts_no_more_is_believed_again() -> None:
    """When nothing has come back for long, what is missing was taken out."""
    parts: Parts[str] = Parts()
    for now, answer in enumerate((["a", "b"], ["a"], ["b"], ["a"])):
        parts.take(answer, float(now), lambda _: True)
    assert parts.take(["a"], PARTIAL_S - 10, lambda _: True) == ["a", "b"]
    assert parts.take(["a"], PARTIAL_S + 10, lambda _: True) == ["a"]


def test_what_is_kept_is_bounded() -> None:
    """A resolver that answers another address each time fills no memory."""
    parts: Parts[int] = Parts()
    for now in range(5 * MOST):
        parts.take([now, now % 2], 0.0, lambda _: True)
    assert len(parts.take([1], 0.0, lambda _: True)) <= MOST + 1
