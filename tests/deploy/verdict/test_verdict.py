"""The verdict: when a deploy passes, what it says, and that it is read as it was written."""

from __future__ import annotations

from typing import get_args
from xml.etree import ElementTree as ET

import msgspec
import pytest
from msgspec.structs import replace

from tests.support.deploy.example_facts import example_facts
from trunkline.deploy.verdict.facts import Sample, StateSpan, turned_back
from trunkline.deploy.verdict.junit import junit
from trunkline.deploy.verdict.samples import thinned
from trunkline.deploy.verdict.text import WIDTH, history_text, text
from trunkline.deploy.verdict.thresholds import parse
from trunkline.deploy.verdict.verdict import decode, encode, make_verdict, words
from trunkline.protocol.deploys import DeployState

FACTS = example_facts()
LOST = replace(FACTS, witnesses=replace(FACTS.witnesses, lost=2, why="offset 41 of public.a never came to witness 3"))


def test_what_a_good_deploy_says() -> None:
    """Witnesses and everybody else stand apart, with the rate beside what was accepted and where that is from."""
    assert words(FACTS) == (
        "lost 0 of 11,800 to 50 witnesses; 4,809 of 4,812 moved clients came back; 9,618 channels recovered; 0 told of "
        "a gap; 0 forced; away p50 0.210 s, p99 1.40 s; peak 388/s of 1,540/s measured"
    )


def test_what_is_unknown_is_said_to_be() -> None:
    """Foreign backends count no returns, and no number stands in for that."""
    clients = replace(FACTS.clients, returned=None, recovered=None, gaps=None, never_back=None, away_s={})
    facts = replace(FACTS, clients=clients, witnesses=None, rates=replace(FACTS.rates, accepts_from="unknown"))
    assert words(facts) == (
        "no witnesses; 4,812 clients asked to move, whether they came back is unknown; recovery is unknown; "
        "unknown told of a gap; 0 forced; peak 388/s, of a limit that is unknown"
    )
    older = replace(facts, clients=replace(clients, refused=None), rates=replace(FACTS.rates, peak_per_s=None))
    assert words(older).endswith("0 forced; peak of reconnects unknown")
    assert "refused: unknown" in " ".join(text(make_verdict(older)).split())


def test_each_fault_that_witnesses_saw_is_in_the_words() -> None:
    """Also those that are no loss."""
    assert FACTS.witnesses is not None
    facts = replace(FACTS, witnesses=replace(FACTS.witnesses, duplicated=2, gaps=1, reordered=3, absent=1))
    assert words(facts).startswith(
        "lost 0 of 11,800 to 50 witnesses; 2 came twice to them; told of a gap 1 time; 3 came to them behind later "
        "ones; 1 witness did not come back; "
    )


def test_in_the_text_what_is_unknown_is_no_zero() -> None:
    """Of foreign backends neither refusals nor usual departures are known."""
    clients = replace(FACTS.clients, returned=None, recovered=None, gaps=None, never_back=None, away_s={}, refused=None)
    shown = " ".join(text(make_verdict(replace(FACTS, clients=clients))).split())
    assert "(unknown would have left anyway)" in shown
    assert "refused: unknown" in shown


@pytest.mark.parametrize("state", get_args(DeployState))
def test_only_a_deploy_that_is_done_can_pass(state: DeployState) -> None:
    """However good its numbers are."""
    verdict = make_verdict(replace(FACTS, ended=state))
    assert verdict.passed is (state == "done")
    assert (verdict.result == "passed") is verdict.passed


def test_a_threshold_that_fails_fails_the_deploy() -> None:
    """One is enough."""
    assert make_verdict(LOST).result == "failed"
    assert not make_verdict(FACTS, [parse("peak<1%")]).passed


def test_it_is_read_as_it_was_written() -> None:
    """JSON there and back; what a newer release wrote is refused by its number."""
    verdict = make_verdict(LOST)
    assert decode(encode(verdict)) == verdict
    with pytest.raises(msgspec.ValidationError, match="format 2 is of a newer release"):
        decode(encode(verdict).replace(b'"format": 1', b'"format": 2'))


def test_the_text() -> None:
    """Failed thresholds come first, no line is too long, and other encodings get other marks."""
    shown = text(make_verdict(LOST))
    lines = shown.splitlines()
    assert lines[0] == "deploy d-7f3a: blue -> green, version 1.5.0: failed"
    assert lines[3].split() == ["✗", "lost==0", "2"]
    assert max(map(len, lines)) <= WIDTH
    assert "never came to witness 3" in " ".join(shown.split())
    assert "FAIL lost==0" in text(make_verdict(LOST), "ascii")


def test_what_went_back_says_why() -> None:
    """The first state that was left for it counts, whatever came between; and what its nodes wrote last is shown."""
    states = (("starting", "taken over"), ("verifying", "500s"), ("returning", "cut off"), ("stuck", "again"))
    spans = tuple(StateSpan(state, 0, 1, why) for state, why in states)
    spans = (*spans, StateSpan("returning", 1, 2), StateSpan("rolled_back", 2, 2))
    assert turned_back(spans) == spans[1]
    assert turned_back(FACTS.spans) is None
    facts = replace(FACTS, ended="rolled_back", last_lines={"green-1": ("Traceback", "x" * 200 + "\x1b[31m")})
    shown = text(make_verdict(facts)).splitlines()
    assert shown[-3:-1] == ["green-1 wrote last:", "  Traceback"]
    assert "\x1b" not in shown[-1]


def test_the_history() -> None:
    """One deploy a line, with the reason of one that was not carried through."""
    back = make_verdict(replace(FACTS, id="d-2", ended="rolled_back", why="smoking: green-1 answered wrongly"))
    lines = history_text([back, make_verdict(FACTS)]).splitlines()
    assert len(lines) == 3
    assert "rolled back  smoking: green-1 answered wrongly" in lines[1]
    assert "passed" in lines[2]


def test_junit() -> None:
    """Each threshold is a test, and so is the end; what was not measured is skipped."""
    unknown = replace(LOST, clients=replace(LOST.clients, gaps=None), ended="stuck", why="green is not ready")
    suite = ET.fromstring(junit(make_verdict(unknown))).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("11", "2", "1")
    failures = [each.get("message") for each in suite.iter("failure")]
    assert failures == ["stuck: green is not ready", "lost==0: 2"]
    assert suite.get("name") == "trunkline deploy green"


def test_junit_holds_what_others_wrote() -> None:
    """Control characters of notes and reasons, which XML has no place for, are escaped."""
    facts = replace(FACTS, ended="stuck", why="a\x00b", version="\x1b[31m]]>", notes=("c\x08d", "<e>&"), id="\ud800")
    root = ET.fromstring(junit(make_verdict(facts)))
    failure = next(root.iter("failure"))
    assert (failure.get("message"), failure.text) == ("stuck: a\\x00b", "c\\x08d\n<e>&")


def test_thinned_samples_keep_their_peaks() -> None:
    """A second with a peak shows, however many stand for one."""
    samples = [
        Sample(float(at), "moving", {"blue": 100 - at}, 9.0 if at == 57 else 1.0, 50.0, 0.0, 2 if at == 57 else 5, 0.1,
               0.2, 700.0 if at == 57 else 1.0)
        for at in range(100)
    ]  # fmt: skip
    few = thinned(samples, 10)
    assert len(few) == 10
    assert [each.opened_per_s for each in few] == [1.0] * 5 + [9.0] + [1.0] * 4
    assert (few[5].witnesses, few[5].lag_ms, few[5].at_s, few[5].clients) == (2, 700.0, 59.0, {"blue": 41})
    assert thinned(samples, 100) == tuple(samples)
    assert len(thinned(samples, 99)) == 50
    assert thinned([], 10) == ()
