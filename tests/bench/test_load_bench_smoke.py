"""The benchmarks of the load tester stay runnable, and what they count is right even in a smoke run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 115


def quick(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    """Rows of a smoke run, which has to end well."""
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--json", str(figures), name],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(figures.read_text())[name]["rows"]
    return rows


def row(rows: list[dict[str, Any]], words: str) -> dict[str, Any]:
    """The one row whose name holds `words`."""
    found = [each for each in rows if words in each["what"]]
    assert len(found) == 1, [each["what"] for each in rows]
    return found[0]


def test_quick_load_cost_measures_ours_beside_the_peers_that_are_installed(tmp_path: Path) -> None:
    """`load_cost` gives the CPU of a message, pushed or echoed, beside a plain client's; missing peers are left out."""
    rows = quick(tmp_path, "load_cost")
    for kind in ("pushed message", "echo"):
        added = [each for each in rows if each["what"] == f"{kind}, CPU that messages add"]
        assert {"websockets", "websockets on uvloop"} <= {each["peer"] for each in added}
        # Artillery's start varies by more than a smoke run's messages cost.
        assert all(each["ours"] > 0 and each["theirs"] > 0 for each in added if "artillery" not in each["peer"])


def test_quick_load_capacity_loses_no_connection(tmp_path: Path) -> None:
    """`load_capacity` holds its connections with one process and with several, and each of them echoes."""
    rows = quick(tmp_path, "load_capacity")
    for words in ("not open at once", "not sent a message", "failed, closed, lost"):
        found = [each for each in rows if words in each["what"]]
        assert [each["ours"] for each in found] == [0, 0], found
    assert row(rows, "connects at once, one generator process: failed")["ours"] == 0


def test_quick_load_omission_shows_the_stall(tmp_path: Path) -> None:
    """`load_omission` reports a p99 near the length of the stall."""
    rows = quick(tmp_path, "load_omission")
    assert row(rows, ": p99 off the true")["ours"] < 0.5


def test_quick_load_targets_hold_at_a_small_size(tmp_path: Path) -> None:
    """`load_targets` runs its three scenarios through a whole fleet, and nothing fails or is missing."""
    rows = quick(tmp_path, "load_targets")
    assert [each["ours"] for each in rows if "lost" in each["what"]] == [0, 0, 0]
    assert [each["ours"] for each in rows if "failed" in each["what"]] == [0, 0, 0]
