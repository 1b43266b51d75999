"""Thresholds: what they say, what they refuse, and how a run is judged by them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import SettingsError
from trunkline.load.model.histogram import Counts, Recorder
from trunkline.load.model.report import Judged
from trunkline.load.model.tally import LATENCIES, Totals
from trunkline.load.scenario.comparison import NOTHING
from trunkline.load.scenario.thresholds import DEFAULTS, Facts, judge, parse, with_defaults


def latencies(*ms: float) -> Counts:
    recorder = Recorder()
    for each in ms:
        recorder.record(each / 1000)
    return recorder.take()


def judged(text: str, facts: Facts) -> Judged:
    return judge([parse(text)], facts)[-1]


GOOD = Facts(
    Totals(attempts=1000, opened=1000, sent=5000, received=5000),
    {"connect": latencies(*[20.0] * 1000), "message": latencies(*[5.0] * 5000)},
    peak_open=1000,
    lasted_s=10.0,
)
SLOW = latencies(*[10.0] * 94, *[2500.0] * 6)


@pytest.mark.parametrize(
    ("text", "metric", "comparison", "number", "unit"),
    [
        ("delivery_p99<50ms", "delivery_p99", "<", 50, "ms"),
        ("  connect_P95  <=  1.5 s ", "connect_p95", "<=", 1.5, "s"),
        ("round_trip_mean > .5us", "round_trip_mean", ">", 0.5, "us"),
        ("message_p99.9<1s", "message_p999", "<", 1, "s"),
        ("message_p9999<1s", "message_p9999", "<", 1, "s"),
        ("message_p9.5<1s", "message_p9.5", "<", 1, "s"),
        ("message_p100<1s", "message_max", "<", 1, "s"),
        ("success>=99.9%", "success", ">=", 99.9, "%"),
        ("errors < 1 %", "errors", "<", 1, "%"),
        ("lost==0", "lost", "==", 0, ""),
        ("connections>=5000", "connections", ">=", 5000, ""),
        ("received_rate>1000", "received_rate", ">", 1000, ""),
    ],
)  # fmt: skip
def test_what_can_be_written(text: str, metric: str, comparison: str, number: float, unit: str) -> None:
    """Spaces and capitals do not matter; a percentile has one name however it is written."""
    threshold = parse(text)
    assert (threshold.metric, threshold.comparison, threshold.number, threshold.unit) == (
        metric, comparison, number, unit,
    )  # fmt: skip
    assert threshold.text == " ".join(text.split())


def test_every_latency_and_count_can_be_named() -> None:
    """What is measured has a threshold."""
    for name in (*LATENCIES, "message"):
        assert parse(f"{name}_p50<1s").metric == f"{name}_p50"
    for name in set(Totals.__struct_fields__) - {"errors"}:
        assert parse(f"{name}<1").metric == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "delivery_p99<50ms"),
        ("delivery_p99", "delivery_p99<50ms"),
        ("lost<1<2", "delivery_p99<50ms"),
        ("delivry_p99<50ms", "did you mean delivery_p99?"),
        ("handshakes_max<50ms", "did you mean handshake_max?"),
        ("duplicate==0", "did you mean duplicates?"),
        ("latency_p95<50ms", "it names nothing that is measured"),
        ("p(95)<200", "it names nothing that is measured"),
        ("<50ms", "it names nothing that is measured"),
        ("delivery<50ms", "did you mean delivery_p95?"),
        ("delivery_p0<50ms", "delivery is a latency: add _p50"),
        ("delivery_p123<50ms", "delivery is a latency: add _p50"),
        ("delivery_p101.5<50ms", "delivery is a latency: add _p50"),
        ("delivery_p٩٩<50ms", "delivery is a latency: add _p50"),
        ("lost=0", "= is no comparison; they are < <= > >= =="),
        ("lost!=0", "!= is no comparison"),
        ("delivery_p99<50", "needs a unit: us, ms or s, as delivery_p99<50ms"),
        ("delivery_p99<50m", "needs a unit: us, ms or s"),
        ("delivery_p99<50%", "needs a unit: us, ms or s"),
        ("success>0.95", "success is a share and needs the unit %, as success>95%"),
        ("errors<5", "errors is a share and needs the unit %, as errors<1%"),
        ("success>150%", "success is a share of 0 to 100 %"),
        ("lost<5ms", "lost is a plain number without a unit, as lost==0"),
        ("lost<", "nothing is no number of 0 or more"),
        ("lost<-1", "-1 is no number of 0 or more"),
        ("lost<many", "many is no number of 0 or more"),
        ("delivery_p99<nan ms", "nan ms is no number of 0 or more"),
        ("connections>1_000", "1_000 is no number of 0 or more; write connections>=100"),
        ("lost<1" + "0" * 300, "delivery_p99<50ms"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_explained(text: str, says: str) -> None:
    """The message names the threshold and what is allowed, or the name that was meant."""
    with pytest.raises(SettingsError) as caught:
        parse(text)
    assert str(caught.value).startswith("setting threshold: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40) | st.text("dialost_p95<>=!.% ms", max_size=20))
def test_any_text_is_understood_or_refused(text: str) -> None:
    """Nothing but SettingsError comes out of bad text."""
    try:
        threshold = parse(text)
    except SettingsError:
        return
    assert parse(threshold.text) == threshold


def test_a_good_run_passes_the_defaults() -> None:
    """The seven defaults are judged, each marked as one."""
    verdicts = judge([], GOOD)
    assert [each.threshold for each in verdicts] == [
        "connect_p95<2s", "message_p95<1s", "success>95%", "errors<1%", "lost==0", "duplicates==0", "reordered==0",
        "corrupt==0", "crossed==0",
    ]  # fmt: skip
    assert all(each.passed and each.default for each in verdicts)
    assert [each.shown for each in verdicts[2:5]] == ["100 %", "0 %", "0"]


@pytest.mark.parametrize(
    ("facts", "failing"),
    [
        (msgspec.structs.replace(GOOD, latencies={"connect": SLOW}), "connect_p95<2s"),
        (msgspec.structs.replace(GOOD, latencies={"message": SLOW}), "message_p95<1s"),
        (msgspec.structs.replace(GOOD, totals=Totals(attempts=100, opened=95, sent=9000)), "success>95%"),
        (msgspec.structs.replace(GOOD, totals=Totals(attempts=1, opened=1, sent=99, errors=1)), "errors<1%"),
        (msgspec.structs.replace(GOOD, totals=Totals(lost=1)), "lost==0"),
        (msgspec.structs.replace(GOOD, totals=Totals(duplicates=1)), "duplicates==0"),
        (msgspec.structs.replace(GOOD, totals=Totals(reordered=1)), "reordered==0"),
    ],
)  # fmt: skip
def test_each_default_can_fail_alone(facts: Facts, failing: str) -> None:
    """Exactly at a strict limit it has failed."""
    assert [each.threshold for each in judge([], facts) if not each.passed] == [failing]


def test_an_own_threshold_replaces_the_default_that_points_the_same_way() -> None:
    """Same metric and direction; equality points both ways; another percentile replaces nothing."""

    def kept(*texts: str) -> set[str]:
        everything = with_defaults([parse(text) for text in texts])
        assert [each.text for each in everything[len(everything) - len(texts) :]] == list(texts)
        return {each.text for each in DEFAULTS} - {each.text for each in everything if each.default}

    assert kept() == set()
    assert kept("connect_p95<=5s", "lost<5", "success>=50%") == {"connect_p95<2s", "lost==0", "success>95%"}
    assert kept("connect_p95==5ms") == {"connect_p95<2s"}
    assert kept("connect_p95>1ms", "connect_p99<5s", "success<100%") == set()


def test_a_latency_that_nothing_measured_fails_only_an_own_threshold() -> None:
    """A run need not send messages, but a threshold of the user's proved nothing then."""
    quiet = Facts(Totals(), {}, lasted_s=0.0)
    assert all(each.passed for each in judge([], quiet))
    for text in ("delivery_p99<50ms", "success>1%", "errors<99%", "sent_rate<9"):
        assert judged(text, quiet) == Judged(text, None, NOTHING, False)
    assert judge([], quiet)[0] == Judged("connect_p95<2s", None, NOTHING, True, True)


def test_values_come_in_the_unit_of_the_threshold() -> None:
    """One latency, three units, shown in the one that reads best; mean, least and greatest are of the same counts."""
    facts = Facts(Totals(), {"delivery": latencies(*[50.0] * 99, 200.0)})
    for text, value, shown in (
        ("delivery_p50<60ms", 50, "50.0 ms"), ("delivery_p50<60000us", 50_000, "50.0 ms"),
        ("delivery_p50<.06s", 0.05, "50.0 ms"), ("delivery_max<201ms", 200, "200 ms"),
        ("delivery_min<51ms", 50, "50.0 ms"), ("delivery_mean<52ms", 51.5, "51.5 ms"),
        ("delivery_p99.5>150ms", 200, "200 ms"),
    ):  # fmt: skip
        came = judged(text, facts)
        assert came.passed
        assert came.value == pytest.approx(value, rel=0.002)
        assert came.shown == shown


def test_shares_rates_and_counts() -> None:
    """Their values are exact: 29 of 100 is 29 %."""
    facts = Facts(Totals(attempts=100, opened=29, sent=1500, lost=1234), {}, peak_open=29, lasted_s=3.0)
    assert judged("success>=29%", facts) == Judged("success>=29%", 29.0, "29.0 %", True)
    assert judged("sent_rate>=500", facts) == Judged("sent_rate>=500", 500.0, "500", True)
    assert judged("lost<1234", facts) == Judged("lost<1234", 1234.0, "1,234", False)
    assert judged("connections==29", facts).passed


def test_what_is_shown_does_not_contradict_the_verdict() -> None:
    """A value just beside its limit is shown with enough digits."""
    facts = Facts(Totals(attempts=1_000_000, opened=949_999), {})
    assert judged("success>=95%", facts) == Judged("success>=95%", 94.9999, "94.9999 %", False)
