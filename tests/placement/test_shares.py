"""Which groups get connections: by the traffic table nothing leads to a held one."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.placement import sticky
from trunkline.placement.backend import BackendSpec, short_id
from trunkline.placement.fleet import Fleet
from trunkline.placement.pick import place
from trunkline.placement.placing import Ask, Pick, Refusal
from trunkline.placement.shares import Shares, by_setting, by_table
from trunkline.protocol.control import LoadReport
from trunkline.protocol.traffic import TrafficTable
from trunkline.settings.balancer import BalancerSettings, GroupEntry

BLUE, GREEN = "http://10.0.0.1:3001", "http://10.0.0.2:3001"
POLICIES = ("least_connections", "affinity", "p2c", "round_robin", "random")


def table(**weights: float) -> Shares:
    return by_table(TrafficTable(1, weights, "2026-01-01T00:00:00Z"))


class Colours:
    """One backend of each colour, and the picks among them."""

    def __init__(self, shares: Shares | None, *specs: BackendSpec, sticky_cookie: str = "lb") -> None:
        self.rng = random.Random(1)
        settings = msgspec.structs.replace(BalancerSettings(), sticky_cookie=sticky_cookie)
        self.fleet = Fleet(settings, self.rng)
        self.fleet.set_backends(specs or (BackendSpec(BLUE, group="blue"), BackendSpec(GREEN, group="green")), 0.0)
        if shares is not None:
            self.fleet.set_shares(shares, 0.0)

    def answer(self, ask: Ask, now: float = 1.0) -> Pick | Refusal:
        return place(self.fleet, ask, now, self.rng)

    def burst(self, count: int) -> Counter[str]:
        answers = [self.answer(Ask("")) for _ in range(count)]
        return Counter(answer.group for answer in answers if isinstance(answer, Pick))


def test_without_a_table_every_colour_gets_connections_by_load() -> None:
    """Colours mean nothing as long as nobody has said so."""
    colours = Colours(None)
    colours.fleet.take_report(BLUE, LoadReport(5), asked_at=0.0, now=0.0)
    assert colours.burst(10) == {"green": 10}
    assert not colours.fleet.shares.split


def test_a_colour_that_the_table_does_not_name_is_held_and_seen() -> None:
    """It gets nothing, keeps its state, and says why it gets nothing; so does one with weight 0, and one without."""
    none = "http://10.0.0.3:3001"
    colours = Colours(
        table(blue=100, red=0),
        BackendSpec(BLUE, group="blue"),
        BackendSpec(GREEN, group="green"),
        BackendSpec("http://10.0.0.4:3001", group="red"),
        BackendSpec(none),
    )
    assert colours.burst(20) == {"blue": 20}
    rows = {row.url: row for row in colours.fleet.rows(1.0)}
    assert [row.held for row in rows.values()] == [False, True, True, True]
    assert {row.state for row in rows.values()} == {"up"}
    assert all(row.usable for row in rows.values())
    assert rows[GREEN].why.startswith("held")
    # A backend is held until it has said its colour, and no longer.
    colours.fleet.take_report(none, LoadReport(0, colour="blue"), asked_at=0.5, now=0.5)
    assert not colours.fleet.backends[none].held


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "leads",
    ["nothing", "backend cookie", "group cookie", "cookie of Traefik", "home", "tried", "full", "down", "tier"],
)
def test_nothing_leads_to_a_held_colour(leads: str, policy: str) -> None:
    """Neither cookies nor homes, nor that no other backend is left: rather a refusal."""
    tier = 1 if leads == "tier" else 0
    colours = Colours(
        None, BackendSpec(BLUE, group="blue", tier=tier), BackendSpec(GREEN, group="green", capacity=1_000)
    )
    fleet = colours.fleet
    cookie = {
        "backend cookie": sticky.render(short_id(BLUE), "blue"),
        "group cookie": sticky.render(short_id("http://10.9.9.9:1"), "blue"),
        "cookie of Traefik": short_id(BLUE),
    }.get(leads)
    if leads == "home":
        fleet.homes.settle("", "match", BLUE, 0.0)
    fleet.set_shares(table(green=100), 0.0)
    if leads == "full":
        fleet.take_report(GREEN, LoadReport(1_000), asked_at=0.0, now=0.0)
    if leads == "down":
        for _ in range(3):
            fleet.checked(GREEN, False, "no answer", 0.0)
    tried = (GREEN,) if leads == "tried" else ()
    for _ in range(10):
        answer = colours.answer(Ask("", policy=policy, affinity="match", sticky=cookie, tried=tried))
        if leads in ("tried", "full"):
            assert isinstance(answer, Refusal), answer
            assert answer.reason == {"tried": "all_tried", "full": "full"}[leads]
        else:
            assert isinstance(answer, Pick), answer
            assert answer.url == GREEN


def test_when_all_colours_are_held_clients_are_refused() -> None:
    """The refusal says so."""
    colours = Colours(table(blue=0))
    answer = colours.answer(Ask(""))
    assert isinstance(answer, Refusal)
    assert (answer.reason, "held" in answer.text) == ("all_down", True)


def test_weights_of_a_table_share_new_connections() -> None:
    """A canary gets exactly its part of new clients; those with a cookie of a colour that gets some go on there."""
    colours = Colours(table(blue=95, green=5))
    assert colours.burst(100) == {"blue": 95, "green": 5}
    answer = colours.answer(Ask("", sticky=sticky.render(short_id("http://10.9.9.9:1"), "green")))
    assert isinstance(answer, Pick)
    assert answer.group == "green"


def test_a_table_takes_effect_with_the_next_pick() -> None:
    """And replaces the setting, for which groups without a weight are not held but come last."""
    colours = Colours(by_setting((GroupEntry("blue", 1.0),)))
    assert colours.burst(5) == {"blue": 5}
    for _ in range(3):
        colours.fleet.checked(BLUE, False, "no answer", 0.0)
    assert colours.burst(5) == {"green": 5}
    colours.fleet.set_shares(table(blue=1), 0.0)
    # Its only backend is down by its checks: the last resort, which does not reach another colour.
    assert colours.burst(5) == {"blue": 5}
    colours.fleet.set_shares(table(green=100), 0.0)
    assert colours.burst(5) == {"green": 5}


def test_a_held_colour_has_no_part_in_the_imbalance() -> None:
    """It empties as it may; nobody evens it out."""
    colours = Colours(table(blue=1))
    assert list(colours.fleet.imbalance()) == [("", "blue")]


COLOURS = st.sampled_from(["blue", "green", "red", ""])


@given(
    backends=st.lists(
        st.tuples(COLOURS, st.integers(0, 1), st.sampled_from(["", "chat"]), st.booleans()), min_size=1, max_size=6
    ),
    weights=st.dictionaries(st.sampled_from(["blue", "green", "red"]), st.sampled_from([0.0, 0.5, 100.0])),
    asks=st.lists(
        st.tuples(
            st.sampled_from(POLICIES), st.integers(0, 5), COLOURS, st.integers(0, 5), st.sampled_from(["", "chat"])
        ),
        min_size=1,
        max_size=10,
    ),
)
def test_no_fleet_and_no_request_leads_to_a_held_colour(
    backends: list[tuple[str, int, str, bool]],
    weights: dict[str, float],
    asks: list[tuple[str, int, str, int, str]],
) -> None:
    """Whatever clients bring, and whatever is down."""
    urls = [f"http://10.0.1.{number}:1" for number in range(len(backends))]
    colours = Colours(
        None,
        *(
            BackendSpec(url, group=colour, tier=tier, pool=pool)
            for url, (colour, tier, pool, _) in zip(urls, backends, strict=True)
        ),
    )
    for url, (_, _, _, down) in zip(urls, backends, strict=True):
        for _ in range(3 if down else 0):
            colours.fleet.checked(url, False, "no answer", 0.0)
    colours.fleet.set_shares(Shares(weights, closed=True), 0.0)
    for policy, cookie_of, group, home_of, pool in asks:
        cookie = sticky.render(short_id(urls[cookie_of % len(urls)]), group)
        colours.fleet.homes.settle(pool, "match", urls[home_of % len(urls)], 1.0)
        answer = colours.answer(Ask("", pool=pool, policy=policy, affinity="match", sticky=cookie))
        assert isinstance(answer, Refusal) or weights.get(answer.group, 0) > 0
        allowed = any(weights.get(colour, 0) > 0 and its == pool for colour, _, its, _ in backends)
        assert isinstance(answer, Pick) == allowed
