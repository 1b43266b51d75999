"""The benchmarks stay runnable."""

import subprocess
import sys
from pathlib import Path

from tests.support.bench_smoke import ROOT, quick
from tests.support.patience import patient


def test_quick_echo_measures_ours_and_a_peer(tmp_path: Path) -> None:
    """`python -m bench --quick echo` ends well, and its figures are positive with a peer beside ours."""
    rows = quick(tmp_path, "echo")
    assert "websockets" in {row["peer"] for row in rows}
    assert all(row["ours"] > 0 and row["theirs"] > 0 for row in rows)


def test_unknown_benchmark_is_refused_with_the_names() -> None:
    """A name that is no benchmark ends with exit code 2 and the names there are."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "nonsense"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patient(30),
        check=False,
    )
    assert done.returncode == 2
    assert "fanout_single" in done.stderr
