"""The benchmarks of the load tester stay runnable, and what they count is right even in a smoke run."""

from pathlib import Path

from tests.support.bench_smoke import quick, row


def test_quick_load_cost_measures_ours_beside_the_peers_that_are_installed(tmp_path: Path) -> None:
    """`load_cost` gives the CPU of a message, pushed or echoed, beside a plain client's; missing peers are left out."""
    rows = quick(tmp_path, "load_cost")
    for kind in ("pushed message", "echo"):
        added = [each for each in rows if each["what"] == f"{kind}, CPU that messages add"]
        assert {"websockets", "websockets on uvloop"} <= {each["peer"] for each in added}
    # What is added by a smoke run's messages is less than a start varies by; the whole is not.
    whole = [each for each in rows if each["what"].endswith("all CPU from start to end")]
    assert all(each["ours"] > 0 and each["theirs"] > 0 for each in whole)


def test_quick_load_capacity_loses_no_connection(tmp_path: Path) -> None:
    """`load_capacity` holds its connections with several processes, and each of them echoes."""
    rows = quick(tmp_path, "load_capacity")
    for words in ("not open at once", "not sent a message", "failed, closed, lost"):
        found = [each for each in rows if words in each["what"]]
        assert [each["ours"] for each in found] == [0], found
    assert row(rows, "connects at once, one generator process: failed")["ours"] == 0


def test_quick_load_omission_shows_the_stall(tmp_path: Path) -> None:
    """`load_omission` gives the p99 of ours beside that of a closed loop, and how far ours is off the true one."""
    rows = quick(tmp_path, "load_omission")
    (p99,) = [each for each in rows if each["what"].endswith("p99") and each["peer"]]
    assert p99["ours"] > 0 < p99["theirs"]
    assert row(rows, ": p99 off the true")["target"] == 0.1


def test_quick_load_targets_hold_at_a_small_size(tmp_path: Path) -> None:
    """`load_targets` runs its three scenarios through a whole fleet, and nothing fails or is missing."""
    rows = quick(tmp_path, "load_targets")
    assert [each["ours"] for each in rows if "lost" in each["what"]] == [0, 0, 0]
    assert [each["ours"] for each in rows if "failed" in each["what"]] == [0, 0, 0]
