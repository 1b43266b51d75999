"""Thresholds of a deploy: the defaults of the contract, own ones, and what cannot be measured."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.support.deploy.example_facts import example_facts
from trunkline.deploy.verdict.facts import ClientFacts, DeployFacts, RateFacts, WitnessFacts
from trunkline.deploy.verdict.thresholds import DEFAULTS, METRICS, judge, parse, peak_percent
from trunkline.errors import SettingsError

FACTS = example_facts()
assert FACTS.witnesses is not None


def failed(facts: DeployFacts, *own: str) -> list[str]:
    return [each.threshold for each in judge(facts, [parse(text) for text in own]) if not each.passed]


def witnesses(**changes: object) -> DeployFacts:
    assert FACTS.witnesses is not None
    return replace(FACTS, witnesses=replace(FACTS.witnesses, **changes))


def clients(**changes: object) -> DeployFacts:
    return replace(FACTS, clients=replace(FACTS.clients, **changes))


def rates(**changes: object) -> DeployFacts:
    return replace(FACTS, rates=replace(FACTS.rates, **changes))


def test_the_example_passes() -> None:
    """A deploy that proved everything holds each default."""
    assert failed(FACTS) == []
    assert [each.text for each in DEFAULTS] == [
        "lost==0", "duplicated==0", "reordered==0", "witness_gaps==0", "absent==0", "gaps==0", "forced==0",
        "never_back<=1%", "away_p99<=10s", "peak<=80%",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "threshold"),
    [
        (witnesses(lost=1), "lost==0"),
        (witnesses(duplicated=1), "duplicated==0"),
        (witnesses(reordered=1), "reordered==0"),
        (witnesses(gaps=1), "witness_gaps==0"),
        (witnesses(absent=1), "absent==0"),
        (clients(gaps=1), "gaps==0"),
        (clients(forced=1), "forced==0"),
        (clients(never_back=51), "never_back<=1%"),
        (clients(away_s={"p99": 10.001}), "away_p99<=10s"),
        (rates(peak_per_s=0.81 * 1540), "peak<=80%"),
    ],
)
def test_each_default_can_fail(facts: DeployFacts, threshold: str) -> None:
    """One fault fails the one threshold that is about it."""
    assert failed(facts) == [threshold]


def test_who_would_have_left_anyway_is_not_held_against_it() -> None:
    """Only departures above the usual rate count, and their share is of those that were asked."""
    assert failed(clients(never_back=50, usual_departures=2.4)) == []
    assert failed(clients(never_back=148, usual_departures=100.0)) == []
    judged = judge(clients(never_back=2, usual_departures=5.0))
    assert [each.value for each in judged if each.threshold == "never_back<=1%"] == [0.0]


@pytest.mark.parametrize("peak", [0.8 * 1540, 1232.0])
def test_a_limit_that_is_just_reached_holds(peak: float) -> None:
    """No rounding error fails what is exactly at its limit."""
    assert failed(rates(peak_per_s=peak)) == []


def test_what_was_not_measured() -> None:
    """Foreign backends count nothing: defaults pass, and say that nothing was measured; own ones fail."""
    unknown = replace(
        FACTS,
        witnesses=None,
        clients=replace(
            FACTS.clients, returned=None, recovered=None, gaps=None, never_back=None, refused=None, away_s={}
        ),
        rates=replace(FACTS.rates, accepts_per_s=0.0, accepts_from="unknown"),
    )
    judged = judge(unknown)
    assert all(each.passed for each in judged)
    assert [each.threshold for each in judged if each.shown != "nothing measured"] == ["forced==0"]
    own = ["gaps==0", "refused==0", "peak<50%", "absent==0"]
    assert failed(unknown, *own) == own
    assert peak_percent(rates(peak_per_s=None)) is None


def test_an_own_threshold_replaces_the_default() -> None:
    """Of the same metric and direction; others stay."""
    judged = judge(FACTS, [parse("away_p99 < 500 ms"), parse("moving<=2000ms")])
    assert [each.threshold for each in judged if not each.passed] == ["away_p99 < 500 ms", "moving<=2000ms"]
    assert [each.shown for each in judged if not each.passed] == ["1.40 s", "60.0 s"]
    assert "away_p99<=10s" not in [each.threshold for each in judged]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lots==0", "lost"),
        ("lost", "write <metric><comparison>"),
        ("away_p99<=10", "away_p99 is written as away_p99<=10s"),
        ("peak<=0.8", "peak is written as peak<=1%"),
        ("lost==0ms", "lost is written as lost==0"),
        ("lost=>0", "=> is no comparison"),
    ],
)
def test_a_threshold_that_is_none(text: str, says: str) -> None:
    """The refusal names what is right."""
    with pytest.raises(SettingsError) as caught:
        parse(text)
    assert says in str(caught.value)


@pytest.mark.parametrize("metric", METRICS)
def test_each_metric_can_be_judged(metric: str) -> None:
    """Every name of the list can be written, and is measured by a whole deploy."""
    unit = {"peak": "%", "never_back": "%"}.get(metric, "s" if "away" in metric or metric in _TIMES else "")
    assert judge(FACTS, [parse(f"{metric}>=0{unit}")])[-1].value is not None


_TIMES = ("moving", "waited", "lasted")


def test_a_deploy_of_nobody() -> None:
    """Without a client to move there is nothing that could fail."""
    nobody = ClientFacts(0, 0, 0, 0, 0, 0, 0, 0.0, {}, {})
    facts = replace(
        FACTS,
        clients=nobody,
        rates=RateFacts(0.0, 0.0, "unknown", 0.0),
        witnesses=WitnessFacts(0, 0, 0, 0, 0, 0, 0, {}),
    )
    assert failed(facts) == []
