"""Two runs beside each other: a regression is found, noise is not, and unlike runs are called so first."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.load.example_report import example_report, faulty_report, measured
from trunkline.errors import SettingsError
from trunkline.load.model.histogram import encode, quantiles
from trunkline.load.model.report import FORMAT, Machine, Measured, Report, Second, decode
from trunkline.load.model.report import encode as encode_report
from trunkline.load.model.tally import Totals
from trunkline.load.output.compare import Comparison, Outcome, compare, comparison_text

WORSE = """\
A  ramp  run q7x2m4ka  2026-03-01T09:30:00Z  ws://127.0.0.1:8080/ws  passed
B  ramp  run q7x2m4ka  2026-03-01T09:30:00Z  ws://127.0.0.1:8080/ws  failed
note: in B the generator was late 27 times: its latencies hold its own lag
                                     A             B      B/A
dial p50                      0.205 ms      0.205 ms     1.00
dial p95                      0.485 ms      0.485 ms     1.00
dial p99                      0.690 ms      0.690 ms     1.00
handshake p50                  1.38 ms       1.38 ms     1.00
handshake p95                  2.74 ms       2.74 ms     1.00
handshake p99                  3.63 ms       3.63 ms     1.00
connect p50                    1.86 ms       1.86 ms     1.00
connect p95                    4.39 ms       4.39 ms     1.00
connect p99                    6.24 ms       6.24 ms     1.00
first message p50             0.783 ms      0.783 ms     1.00
first message p95              1.85 ms       1.85 ms     1.00
first message p99              2.63 ms       2.63 ms     1.00
round trip p50                 1.37 ms       1.37 ms     1.00
round trip p95                 3.16 ms       3.16 ms     1.00
round trip p99                 4.27 ms       4.27 ms     1.00
delivery p50                   2.29 ms       27.6 ms    12.02  WORSE
delivery p95                   5.17 ms        172 ms    33.29  WORSE
delivery p99                   7.05 ms        349 ms    49.45  WORSE
reconnect p50                        -        1.12 s        -
reconnect p95                        -        1.52 s        -
reconnect p99                        -        1.82 s        -
generator lag p50             0.067 ms      0.067 ms     1.00
generator lag p95             0.217 ms      0.217 ms     1.00
generator lag p99             0.325 ms      0.325 ms     1.00
opened per second               50.0/s        50.0/s     1.00
sent per second                  225/s         225/s     1.00
received per second            1,892/s       1,892/s     1.00
error rate                         0 %       0.158 %        -  WORSE
failed connects                    0 %       0.791 %        -  WORSE
lost                                 0             3        -  WORSE
duplicates                           0             2        -  WORSE
reordered                            0             1        -  WORSE
corrupt                              0             0        -
crossed                              0             0        -
dropped                              0            40        -
generator cpu                   30.5 %        30.5 %     1.00
server cpu                      41.8 %         201 %     4.81
server memory                  163 MiB       163 MiB     1.00
Worse: grown by more than 10 % and 1 ms; p99 is judged from 1,000 samples on.
REGRESSED: delivery p50, delivery p95, delivery p99, error rate, failed connects, lost, duplicates,
           reordered
"""


def _with_delivery(delivery: Measured) -> Report:
    report = example_report()
    return msgspec.structs.replace(report, latencies={**report.latencies, "delivery": delivery})


def _always(ms: float, times: int) -> Measured:
    counts = {round(ms * 1000): times}
    return Measured(quantiles(counts), encode(counts))


def _outcomes(comparison: Comparison) -> dict[str, Outcome]:
    return {each.what: each.outcome for each in (*comparison.latencies, *comparison.numbers)}


def test_a_worse_run_in_whole() -> None:
    """The whole text of a comparison with a regression."""
    comparison = compare(example_report(), faulty_report())
    assert comparison_text(comparison) == WORSE
    assert comparison.regressed
    assert comparison.comparable


def test_a_run_compared_with_itself() -> None:
    """It is the same experiment and no regression."""
    comparison = compare(example_report(), example_report())
    assert comparison.comparable
    assert not comparison.regressed
    assert {each.ratio for each in comparison.latencies} == {1.0}
    assert comparison_text(comparison).endswith("\nno regression\n")


@pytest.mark.parametrize(
    ("before", "after", "times", "outcome"),
    [
        (10.0, 10.9, 1000, "same"),  # less than the ratio
        (10.0, 11.5, 1000, "worse"),
        (11.5, 10.0, 1000, "better"),
        (0.5, 1.4, 1000, "same"),  # nearly three times as much, but below a millisecond
        (0.4, 1.5, 1000, "worse"),
        (100.0, 109.0, 1000, "same"),  # many milliseconds, but within the ratio
        (10.0, 20.0, 999, "few"),
    ],
)
def test_the_rule_of_noise(before: float, after: float, times: int, outcome: Outcome) -> None:
    """A p99 is worse only above the ratio and by a millisecond, with a thousand samples on both sides."""
    one, other = _with_delivery(_always(before, 1000)), _with_delivery(_always(after, times))
    comparison = compare(one, other)
    assert _outcomes(comparison)["delivery_p99"] == outcome
    assert comparison.regressed == (outcome == "worse" or times < 1000)  # p50 and p95 need fewer samples


def test_the_ratio_can_be_chosen() -> None:
    """What is worse by a quarter is noise where a half is allowed."""
    one, other = _with_delivery(_always(10.0, 1000)), _with_delivery(_always(12.5, 1000))
    assert compare(one, other).regressed
    assert not compare(one, other, ratio=1.5).regressed
    assert "Worse: grown by more than 50 % and 1 ms" in comparison_text(compare(one, other, ratio=1.5))


def test_the_generators_own_lag_is_no_regression_of_the_server() -> None:
    """It is shown, and lateness is a caution."""
    report = example_report()
    late = msgspec.structs.replace(
        report, latencies={**report.latencies, "lag": measured(300.0)},
        totals=msgspec.structs.replace(report.totals, late=500),
    )  # fmt: skip
    comparison = compare(report, late)
    assert not comparison.regressed
    assert comparison.cautions == ("in B the generator was late 500 times: its latencies hold its own lag",)


def busier(sent: int = 225, target: int = 1_000) -> list[Second]:
    """The seconds of a run with as much as this in each."""
    return [msgspec.structs.replace(each, target=target, totals=Totals(sent=sent)) for each in example_report().seconds]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"scenario": "spike"}, "the scenario is ramp in A and spike in B"),
        ({"protocol": "echo"}, "the protocol is feed in A and echo in B"),
        ({"seconds": busier(target=2_000)}, "A wants 1,000 connections and B 2,000"),
        ({"planned_s": 600.0}, "A is planned for 60 s and B for 10 min"),
        ({"lasted_s": 20.0, "verdict": "interrupted"}, "A lasted 61.2 s and B 20 s"),
        ({"seconds": busier(sent=450)}, "A sent 225 messages a second and B 450"),
        ({"latencies": {}}, "delivery was measured in A only"),
    ],
)
def test_unlike_runs_are_called_so_first(changes: dict[str, object], difference: str) -> None:
    """What makes two runs different experiments stands before every number."""
    comparison = compare(example_report(), example_report(**changes))
    assert not comparison.comparable
    assert difference in comparison.differences
    lines = comparison_text(comparison).splitlines()
    assert lines[2].startswith("These runs are not the same experiment")
    assert f"  {difference}" in lines[3:]


def test_cautions_name_what_may_mislead() -> None:
    """Another machine and an interruption are told; they are no difference of the experiment."""
    other = example_report(machine=Machine(64, "3.13.1", "Linux"), verdict="interrupted")
    comparison = compare(example_report(), other)
    assert comparison.comparable
    assert comparison.cautions == (
        "the load came from different machines, or from another number of processes",
        "B was interrupted after 61.2 s",
    )


@pytest.mark.parametrize("what", ["lost", "duplicates", "reordered"])
def test_one_more_lost_message_is_a_regression(what: str) -> None:
    """There is no noise in what must not happen at all."""
    report = example_report()
    one = msgspec.structs.replace(report, totals=msgspec.structs.replace(report.totals, **{what: 7}))
    two = msgspec.structs.replace(report, totals=msgspec.structs.replace(report.totals, **{what: 8}))
    assert _outcomes(compare(one, two))[what] == "worse"
    assert _outcomes(compare(two, one))[what] == "better"
    assert not compare(two, one).regressed


def test_a_few_errors_more_are_noise_and_many_are_not() -> None:
    """A tenth of a percentage point and the ratio are needed."""
    assert not compare(example_report(error_rate=0.0), example_report(error_rate=0.0009)).regressed
    assert compare(example_report(error_rate=0.0), example_report(error_rate=0.0011)).regressed
    assert not compare(example_report(error_rate=0.05), example_report(error_rate=0.054)).regressed
    assert compare(example_report(success=1.0), example_report(success=0.99)).regressed


def test_a_broken_histogram_names_itself() -> None:
    """The latency and the run are in the message."""
    with pytest.raises(SettingsError, match=r"q7x2m4ka.*histogram of delivery cannot be read: not an HDR histogram"):
        compare(_with_delivery(Measured(measured(1.0).quantiles, "nonsense")), example_report())


def test_the_comparison_is_json() -> None:
    """It goes through JSON and is the same."""
    comparison = compare(example_report(), faulty_report(seconds=[]))
    assert msgspec.json.decode(msgspec.json.encode(comparison), type=Comparison) == comparison


@settings(max_examples=20)
@given(st.lists(st.sampled_from([0.2, 1.0, 1.9, 12.0, 400.0, 20_000.0]), min_size=2, max_size=2), st.integers(1, 5000))
def test_no_pair_is_worse_both_ways(values: list[float], times: int) -> None:
    """If B is worse than A, A is better than B."""
    one, other = (example_report(latencies={"delivery": _always(value, times)}) for value in values)
    there, back = _outcomes(compare(one, other)), _outcomes(compare(other, one))
    opposite: dict[Outcome, Outcome] = {"worse": "better", "better": "worse"}
    for what, outcome in there.items():
        assert back[what] == opposite.get(outcome, outcome)


def test_a_server_that_takes_fewer_connections_was_asked_the_same() -> None:
    """What was wanted makes the experiment, not what the server let happen."""
    assert compare(example_report(), example_report(peak=500)).comparable


def test_a_report_of_a_newer_version_says_so() -> None:
    """Whatever else has changed in it, its format is what is told."""
    newer = encode_report(example_report()).replace(b'"format": 1', b'"format": %d' % (FORMAT + 1))
    newer = newer.replace(b'"verdict": "passed"', b'"verdict": ["passed"]')
    with pytest.raises(msgspec.ValidationError, match=r"it has format 2, and this version reads 1 at most"):
        decode(newer)
