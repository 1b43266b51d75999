"""The verdict's page as text, and its plots: what is in them, and that no text of a fleet does anything there."""

from __future__ import annotations

from msgspec.structs import replace

from tests.support.deploy.example_facts import example_facts
from trunkline.deploy.verdict.page import page
from trunkline.deploy.verdict.plots import plots
from trunkline.deploy.verdict.verdict import make_verdict
from trunkline.load.output.plots import MAX_POINTS

FACTS = example_facts()
HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'


def test_the_page_has_everything() -> None:
    """How it ended, each threshold, each state and both kinds of numbers."""
    shown = page(make_verdict(FACTS)).decode()
    for part in (
        "<strong>Passed.</strong>", "blue → green", "never_back&lt;=1%", "11,800", "4,809", "<code>retiring</code>",
        "address_rate", "node blue-2 was resumed",
    ):  # fmt: skip
        assert part in shown


def test_what_is_unknown_is_no_number() -> None:
    """Without witnesses, and of foreign backends, the page says so."""
    clients = replace(FACTS.clients, returned=None, recovered=None, gaps=None, never_back=None, away_s={})
    facts = replace(FACTS, witnesses=None, clients=clients, rates=replace(FACTS.rates, accepts_from="unknown"))
    shown = page(make_verdict(facts)).decode()
    assert "whether a message was lost is unknown" in shown
    assert shown.count("<td class=\"n\">unknown</td>") == 7  # fmt: skip
    older = replace(facts, clients=replace(clients, refused=None), rates=replace(FACTS.rates, peak_per_s=None))
    shown = page(make_verdict(older)).decode()
    assert shown.count("<td class=\"n\">unknown</td>") == 8  # fmt: skip
    assert "<span>peak of reconnects</span> <strong>unknown</strong>" in shown
    assert [plot.title for plot in plots(older).over_time] == ["Clients on each colour", "Time away"]


def test_texts_do_nothing() -> None:
    """Reasons, notes and names come from the fleet and from applications."""
    facts = replace(
        FACTS, why=HOSTILE, notes=(HOSTILE,), version=HOSTILE, from_colour=HOSTILE, ended="rolled_back",
        witnesses=replace(FACTS.witnesses, why=HOSTILE),
        clients=replace(FACTS.clients, refused={HOSTILE: 1}, away_s={HOSTILE: 1.0}),
        spans=(replace(FACTS.spans[0], why=HOSTILE),), last_lines={HOSTILE: (HOSTILE,)},
        samples=(replace(FACTS.samples[0], clients={HOSTILE: 1}),),
    )  # fmt: skip
    shown = page(make_verdict(facts)).decode()
    assert shown.count("<script") == 2
    assert "<img" not in shown


def test_the_plots() -> None:
    """Each colour has a line, the two of the deploy first; what was not measured yet is a hole."""
    samples = (*FACTS.samples, replace(FACTS.samples[-1], at_s=142.0, clients={"green": 4812, "canary": 3}))
    drawn = plots(replace(FACTS, samples=samples))
    titles = [plot.title for plot in drawn.over_time]
    assert titles == ["Clients on each colour", "Reconnects", "Time away", "Witnesses", "Event-loop lag"]
    clients = drawn.over_time[0].lines
    assert [line.name for line in clients] == ["blue", "green", "canary"]
    assert clients[0].values[-2:] == [0, None]
    assert drawn.over_time[2].lines[1].values[:3] == [None, None, None]
    assert drawn.over_time[1].lines[1].values[:15] == [None] * 15
    assert [mark.name for mark in drawn.marks][:2] == ["planned", "starting"]


def test_a_long_deploy_has_points_of_several_seconds() -> None:
    """And the page says of how many."""
    facts = replace(FACTS, samples=FACTS.samples * 20)
    drawn = plots(facts)
    assert (drawn.step, len(drawn.times) <= MAX_POINTS) == (2, True)
    assert "each point covers 2 s: the greatest rate, lag" in page(make_verdict(facts)).decode()


def test_a_deploy_that_never_began() -> None:
    """Without samples there are no plots, and no fault."""
    shown = page(make_verdict(replace(FACTS, samples=(), spans=(), ended="refused"))).decode()
    assert 'id="over-time"' not in shown
    assert "<strong>Refused.</strong>" in shown
