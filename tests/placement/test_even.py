"""Even placement and exact counts, whatever the timing: drawn histories in a simulated fleet."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.balancer.fleet_world import Balancer, World, urls
from trunkline.settings.balancer import BalancerSettings

PAUSES = st.sampled_from([0.0, 0.0, 0.001, 0.05, 0.4, 2.0])
ACTIONS = st.lists(st.tuples(PAUSES, st.sampled_from(["connect"] * 5 + ["poll", "poll", "push", "close", "fail"]),
                             st.integers(0, 999)), min_size=1, max_size=80)  # fmt: skip


def play(world: World, actions: list[tuple[float, str, int]], *, ending: bool) -> None:
    """Do what was drawn, then let everything arrive."""
    known = urls(world)
    for pause, what, number in actions:
        world.run(world.now + pause)
        balancer = world.balancers[number % len(world.balancers)]
        if what == "poll":
            world.poll(balancer, known[number % len(known)])
        elif what == "push":
            world.push(known[number % len(known)])
        elif what == "connect" or not ending:
            world.connect(balancer)
        elif what == "fail":
            world.connect(balancer, fails=True)
        else:
            world.close(number)
    world.run()


def made_world(*, balancers: int, mode: str, ours: bool, seed: int, scale: float, backends: int, others: int) -> World:
    rng = random.Random(seed)
    return World(
        backends=backends, balancers=balancers, ours=ours, mode=mode, others=others,
        delay=lambda most: rng.random() * most * scale, seed=seed,
    )  # fmt: skip


WORLDS = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["relay", "steer"]),
        "ours": st.booleans(),
        "seed": st.integers(0, 2**32),
        "scale": st.sampled_from([0.0, 0.01, 0.3, 1.0]),
        "backends": st.integers(1, 6),
        "others": st.sampled_from([0, 5, 50]),
    }
)


@settings(max_examples=200, deadline=None)
@given(WORLDS, ACTIONS)
def test_one_balancer_stays_within_one_of_even(drawn: dict[str, object], actions: list[tuple[float, str, int]]) -> None:
    """N picks over equal backends end within 1, and the count is the truth, for any age and order of reports."""
    actions = [(min(pause, 0.5), what, number) for pause, what, number in actions]
    world = made_world(balancers=1, **drawn)  # type: ignore[arg-type]
    play(world, actions, ending=False)
    assert world.spread <= 1
    assert world.estimates(world.balancers[0]) == world.counts


@settings(max_examples=200, deadline=None)
@given(WORLDS, ACTIONS)
def test_a_relay_knows_the_count_while_connections_come_and_go(
    drawn: dict[str, object], actions: list[tuple[float, str, int]]
) -> None:
    """Failures and ends, seen earlier or later than in the reports, leave the count exact."""
    world = made_world(balancers=1, **{**drawn, "mode": "relay"})  # type: ignore[arg-type]
    play(world, actions, ending=True)
    assert world.estimates(world.balancers[0]) == world.counts


@settings(max_examples=200, deadline=None)
@given(WORLDS, ACTIONS)
def test_two_balancers_of_our_nodes_both_know_the_count(
    drawn: dict[str, object], actions: list[tuple[float, str, int]]
) -> None:
    """Notices that are late, reports that overtake them: both end with the truth."""
    world = made_world(balancers=2, **{**drawn, "ours": True, "mode": "relay"})  # type: ignore[arg-type]
    play(world, actions, ending=True)
    for balancer in world.balancers:
        assert world.estimates(balancer) == world.counts


@settings(max_examples=60, deadline=None)
@given(WORLDS, st.integers(1, 300), st.integers(0, 2**32))
def test_a_burst_over_two_balancers_ends_within_two(drawn: dict[str, object], size: int, seed: int) -> None:
    """Both place at once, on old reports, and hear of each other a moment later."""
    world = made_world(balancers=2, **{**drawn, "scale": 0.02})  # type: ignore[arg-type]
    rng = random.Random(seed)
    world.run(world.now + 30.0)
    for _ in range(size):
        world.run(world.now + 0.003)
        world.connect(rng.choice(world.balancers))
        if rng.random() < 0.05:
            world.poll(rng.choice(world.balancers), rng.choice(urls(world)))
    world.run()
    assert world.spread <= 2


@settings(max_examples=60, deadline=None)
@given(WORLDS, ACTIONS, st.integers(0, 100))
def test_a_restarted_balancer_is_right_again(
    drawn: dict[str, object], actions: list[tuple[float, str, int]], more: int
) -> None:
    """A fresh fleet and one report each: the count is the truth, and the next burst evens out what there was."""
    world = made_world(balancers=1, **drawn)  # type: ignore[arg-type]
    play(world, actions, ending=drawn["mode"] == "relay")
    restarted = Balancer(BalancerSettings(), 7)
    world.start(restarted)
    assert world.estimates(restarted) == world.counts
    before = world.counts
    for _ in range(more):
        world.connect(restarted)
    world.run()
    short = sum(max(before) - count for count in before)
    if more >= short:
        assert world.spread <= 1
