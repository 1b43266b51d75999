"""Several pods behind one URL: told apart, added up, forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from trunkline.placement.counting.ledger import Ledger
from trunkline.placement.counting.pods import MOST, PATIENCE, Pods
from trunkline.protocol.control import LoadReport


def heard(pods: Pods, *said: tuple[str, int], start: float = 0.0) -> Sequence[int | None]:
    """What counts after each report, a second apart."""
    found = []
    for now, (name, count) in enumerate(said):
        report = LoadReport(count, podName=name)
        counted = pods.take(report, report, start + now, start + now)
        found.append(None if counted is None else counted.agentsConnections)
    return found


def test_the_sum_counts_from_the_first_repetition_on() -> None:
    """Until then a new name may be a successor: nothing is counted twice for a restart."""
    assert heard(Pods(), ("a", 10), ("b", 20), ("a", 11), ("c", 5), ("b", 21)) == [10, 20, 31, 36, 37]


def test_a_restart_is_no_second_pod() -> None:
    """Each name is new and none comes back."""
    assert heard(Pods(), *((f"pod-{number}", number) for number in range(20))) == list(range(20))


def test_a_pod_that_is_gone_is_forgotten() -> None:
    """With the last but one the URL stands for one pod again."""
    pods = Pods()
    heard(pods, ("a", 10), ("b", 20), ("a", 10))
    counts = heard(pods, *((("b", 20),) * (2 * PATIENCE + 2)), start=10.0)
    assert counts[0] == 30
    assert counts[-1] == 20
    assert len(pods.reports) == 1


def test_a_late_report_of_an_earlier_run_changes_nothing() -> None:
    """It was requested before its successor was heard; the ledger refuses it by its run."""
    pods = Pods()
    for run, asked_at, now in (("one", 1.0, 1.0), ("two", 2.0, 3.0), ("one", 2.5, 4.0), ("two", 5.0, 5.0)):
        report = LoadReport(7, run=run, opened=0)
        assert pods.take(report, report, asked_at, now) is report


def test_nodes_that_share_a_url_are_told_apart_by_their_runs() -> None:
    """Two nodes behind one advertised address; what only one of them can know is left out."""
    pods = Pods()
    counted = None
    for now, run in enumerate(("one", "two", "one", "two")):
        report = LoadReport(5, run=run, opened=9, keys=("k",), state="draining" if run == "one" else "up", capacity=10)
        counted = pods.take(report, report, float(now), float(now))
    assert counted == LoadReport(10, state="up", capacity=20)


def test_pods_behind_a_url_have_a_version_when_they_agree() -> None:
    """In the middle of a rolling update the URL leads to both releases, so neither is its version."""
    pods = Pods()
    counted = []
    for now, (run, version) in enumerate((("a", "1"), ("b", "1"), ("a", "1"), ("b", "1"), ("c", "2"), ("a", "1"))):
        report = LoadReport(5, run=run, version=version)
        counted.append(pods.take(report, report, float(now), float(now)))
    assert [None if each is None else each.version for each in counted] == ["1", "1", "1", "1", None, None]


def test_an_older_report_of_a_pod_is_not_taken() -> None:
    """Answers overtake each other."""
    pods = Pods()
    heard(pods, ("a", 10), ("b", 20), ("a", 11))
    old = LoadReport(1, podName="a")
    assert pods.take(old, old, 1.5, 9.0) is None
    assert sum(report.agentsConnections for report in pods.reports) == 31


def test_what_is_remembered_is_bounded() -> None:
    """However many names there are."""
    pods = Pods()
    for _ in range(2):
        heard(pods, *((f"p{number}", 1) for number in range(MOST * 3)))
    assert len(pods.reports) <= MOST


def test_a_node_that_is_left_alone_behind_its_url_is_believed() -> None:
    """Its run came before another one's, which is not to say that it is over."""
    ledger = Ledger("http://service:80", True, 5.0, 5.0)
    pods = Pods()
    now = 0.0
    taken = []
    for opened, run in enumerate(["one", "two"] * 3 + ["one"] * 30):
        now += 1.0
        report = LoadReport(opened, run=run, opened=opened, keys=())
        counted = pods.take(report, report, now, now)
        assert counted is not None
        taken.append(ledger.report(counted, now, now))
    assert all(taken)
    assert ledger.estimate == 35
