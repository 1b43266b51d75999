from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.placement.affinity import NEVER_FULL, choose
from trunkline.placement.backend import BackendSpec
from trunkline.placement.fleet import Fleet
from trunkline.placement.hashing import mix, point_of, seed_of
from trunkline.placement.homes import KEPT_S, MOST, Homes
from trunkline.placement.pick import place
from trunkline.placement.placing import Ask, Pick, Refusal
from trunkline.protocol.control import PickNotice
from trunkline.settings.balancer import BalancerSettings

KEYS = [f"match-{number}" for number in range(2000)]


def fleet_of(urls: list[str], bound: float = 100.0, weights: dict[str, float] | None = None) -> Fleet:
    fleet = Fleet(BalancerSettings(affinity_bound=bound, slow_start_ms=0), random.Random(1))
    fleet.set_backends([BackendSpec(url, weight=(weights or {}).get(url, 1.0)) for url in urls], 0.0)
    return fleet


def urls_of(count: int) -> list[str]:
    return [f"http://10.0.0.{number}:3001" for number in range(count)]


def owners(fleet: Fleet, keys: list[str] = KEYS) -> dict[str, str | None]:
    return {key: owner_of(fleet, key) for key in keys}


def owner_of(fleet: Fleet, key: str) -> str | None:
    found, _ = choose(fleet.pools[""].takers, key, fleet.settings.affinity_bound, 1.0, ())
    return None if found is None else found.url


def test_only_the_keys_of_a_backend_that_leaves_move() -> None:
    """The rest stay; those that move are about one in n and spread over all others."""
    urls = urls_of(8)
    before = owners(fleet_of(urls))
    after = owners(fleet_of(urls[:-1]))
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved == {key for key in KEYS if before[key] == urls[-1]}
    assert 0.7 < len(moved) / (len(KEYS) / 8) < 1.3
    assert len({after[key] for key in moved}) == 7


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 250), min_size=2, max_size=12), st.lists(st.text(max_size=30), max_size=30))
def test_keys_are_stable_for_any_fleet(hosts: set[int], keys: list[str]) -> None:
    """A backend that joins takes keys only to itself, and the order of the list is of no matter."""
    urls = [f"http://10.0.0.{host}:1" for host in sorted(hosts)]
    before, after = owners(fleet_of(urls[1:]), keys), owners(fleet_of(urls[::-1]), keys)
    assert all(after[key] in (before[key], urls[0]) for key in keys)


def test_weights_give_shares_of_keys() -> None:
    """Twice the weight, twice the keys."""
    urls = urls_of(3)
    counts = Counter(owners(fleet_of(urls, weights={urls[0]: 2.0})).values())
    assert 0.9 < counts[urls[0]] / (len(KEYS) / 2) < 1.1
    assert 0.85 < counts[urls[1]] / (len(KEYS) / 4) < 1.15


def test_nobody_gets_above_the_bound_and_a_spilled_key_has_one_place() -> None:
    """Everybody in one match: the next backend takes over at 1.25 times the mean, and so on."""
    urls = urls_of(4)
    fleet = fleet_of(urls, bound=1.25)
    rng = random.Random(2)
    reasons = Counter()
    for number in range(400):
        answer = place(fleet, Ask(f"k{number}", policy="affinity", affinity="one match"), 1.0, rng)
        assert isinstance(answer, Pick)
        reasons[answer.reason] += 1
    counts = sorted(backend.estimate for backend in fleet.backends.values())
    assert sum(counts) == 400
    assert counts[-1] <= 126
    assert reasons.keys() == {"affinity", "affinity_spill"}


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 9), st.lists(st.integers(0, 20), min_size=1, max_size=200), st.floats(1.01, 3))
def test_the_bound_holds_for_any_mix_of_keys(count: int, matches: list[int], bound: float) -> None:
    """No backend is above `bound` times the mean, rounded up, at any moment, but for a handful of clients."""
    fleet = fleet_of(urls_of(count), bound=bound)
    for placed, match in enumerate(matches, start=1):
        place(fleet, Ask("k", policy="affinity", affinity=str(match)), 1.0, random.Random(1))
        allowed = max(NEVER_FULL, bound * placed / count + 1)
        assert max(backend.estimate for backend in fleet.backends.values()) <= allowed


def test_players_of_a_match_stay_together_while_it_fills() -> None:
    """Matches that fill up side by side are on one node each, and no node is above 1.25 times the mean."""
    for seed in range(20):
        rng = random.Random(seed)
        fleet = fleet_of(urls_of(4), bound=1.25)
        players = [match for match in range(60) for _ in range(4)]
        rng.shuffle(players)
        homes: dict[int, set[str]] = {}
        for number, match in enumerate(players):
            answer = place(fleet, Ask(f"k{number}", policy="affinity", affinity=f"m{match}"), 1.0, rng)
            assert isinstance(answer, Pick)
            homes.setdefault(match, set()).add(answer.url)
        assert sum(len(urls) > 1 for urls in homes.values()) <= 3
        assert max(backend.estimate for backend in fleet.backends.values()) <= 1.25 * 60 + 1


def test_a_key_that_was_moved_lives_where_hashing_says() -> None:
    """After a move order the key's next client goes to its own backend, here and where the notice is heard."""
    urls = urls_of(3)
    rng = random.Random(1)
    for forget in (True, False):
        fleet = fleet_of(urls)
        own = owner_of(fleet, "m")
        assert own is not None
        other = next(url for url in urls if url != own)
        fleet.take_notice("peer", PickNotice("p", other, "k1", "m"), 1.0)
        if forget:
            fleet.take_notice("peer", PickNotice("m", other, "m"), 1.0)
        answer = place(fleet, Ask("k2", policy="affinity", affinity="m"), 1.0, rng)
        assert isinstance(answer, Pick)
        assert answer.url == (own if forget else other)


def test_old_keys_are_forgotten_and_their_number_is_bounded() -> None:
    """Memory of keys is bounded by time and by number, whatever clients send."""
    homes = Homes()
    homes.settle("", "old", "u", 0.0)
    assert homes.of("", "old", KEPT_S) == "u"
    assert homes.of("", "old", KEPT_S + 1) is None
    homes.settle("", "x" * 10_000, "u", 0.0)
    for number in range(MOST + 10):
        homes.settle("", str(number), "u", KEPT_S + 1)
    assert len(homes) == MOST


def test_other_processes_hash_the_same() -> None:
    """Python's own hash differs from process to process; ours must not."""
    code = "from trunkline.placement.hashing import *; print(mix(point_of('m'), seed_of('http://a:1')))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{mix(point_of('m'), seed_of('http://a:1'))}\n".encode()}


def test_a_key_of_any_characters_has_a_place() -> None:
    """Lone surrogates come out of careless decoding."""
    assert owner_of(fleet_of(urls_of(3)), "\ud800\x00" + "x" * 100_000) is not None
    ask = Ask("k", policy="affinity", affinity="m")
    assert isinstance(place(fleet_of([]), ask, 1.0, random.Random(1)), Refusal)
