"""What an order for traffic may say, and what is shown of it."""

from __future__ import annotations

import random

import pytest

from trunkline.balancer.peers import Peer
from trunkline.balancer.traffic.rules import next_table, peers_by_state, state_of, unready
from trunkline.placement.backend import BackendSpec
from trunkline.placement.fleet import Fleet
from trunkline.placement.shares import by_table
from trunkline.protocol.traffic import BalancerTraffic, TrafficOrder, TrafficTable
from trunkline.settings.balancer import BalancerSettings

BLUE, GREEN, CHAT = (f"http://10.0.0.{number}:3001" for number in (1, 2, 3))
TABLE = TrafficTable(4, {"green": 100.0}, "2026-01-01T00:00:00Z", "anna")


def fleet(*more: BackendSpec, green: str = "up") -> Fleet:
    """One blue backend, one green one in a state."""
    found = Fleet(BalancerSettings(), random.Random(1))
    found.set_backends(
        [BackendSpec(BLUE, group="blue"), BackendSpec(GREEN, group="green", draining=green == "draining"), *more], 0.0
    )
    for _ in range(3 if green == "down" else 0):
        found.checked(GREEN, False, "no answer", 0.0)
    return found


def why(found: Fleet, **weights: float) -> str:
    return unready(weights, found.backends.values(), 1.0)


def test_a_colour_with_ready_backends_may_have_connections() -> None:
    """One that is held by the table of now too: that is what a deploy changes."""
    found = fleet()
    found.set_shares(by_table(TrafficTable(1, {"blue": 1.0}, "")), 0.0)
    assert not why(found, green=100)
    assert not why(found, blue=90, green=10)
    assert not why(found, blue=100, red=0)


@pytest.mark.parametrize("green", ["down", "draining"])
def test_a_colour_without_a_ready_backend_may_not(green: str) -> None:
    """The refusal names it, and those that could."""
    found = fleet(green=green)
    assert why(found, green=100) == "the colour 'green' has no ready backend; ready are: blue"
    assert "'gren'" in why(found, gren=100)
    assert not why(found, blue=100, green=0)


def test_no_pool_is_left_without_backends() -> None:
    """Nor the whole fleet."""
    found = fleet(BackendSpec(CHAT, group="blue", pool="chat"))
    assert "the pool 'chat' would have no ready backend" in why(found, green=100)
    assert not why(found, green=100, blue=1)
    assert "the fleet would have" in why(fleet(), blue=0)
    assert "no colour has one" in why(Fleet(BalancerSettings(), random.Random(1)), blue=1)


def test_each_table_is_the_next_generation() -> None:
    """The first one is 1."""
    order = TrafficOrder(0, {"blue": 1.0}, "anna")
    assert next_table(order, None, "now") == TrafficTable(1, {"blue": 1.0}, "now", "anna")
    assert next_table(order, TABLE, "now").generation == 5


def test_the_state_names_held_colours_and_balancers() -> None:
    """Colours that there are; the answering balancer first, then those it hears and has heard."""
    found = fleet()
    found.set_shares(by_table(TABLE), 0.0)
    peers = {"b": Peer(99.0, 4, "host-b:8080"), "c": Peer(50.0, 3), "d": Peer(98.5, 3)}
    state = state_of(TABLE, found.shares, found.backends.values(), ("a", "host-a:8080"), peers, 100.0, "nats")
    assert state.generation == 4
    assert state.held == ("blue",)
    assert state.balancers == (
        BalancerTraffic("a", 4, 0.0, "host-a:8080"),
        BalancerTraffic("b", 4, 1.0, "host-b:8080"),
        BalancerTraffic("c", 3, 50.0),
        BalancerTraffic("d", 3, 1.5),
    )
    assert (state.changed_by, state.stored) == ("anna", "nats")
    assert peers_by_state(state, "a") == {"alike": 1, "differing": 1, "silent": 1}


def test_without_a_table_the_setting_is_shown() -> None:
    """Generation 0, and no colour that is held."""
    state = state_of(None, fleet().shares, fleet().backends.values(), ("a", ""), {}, 0.0, "file")
    assert (state.generation, state.weights, state.held, state.changed_at) == (0, {}, (), "")
