"""The comparison with an earlier version stays runnable; here the earlier one is this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import ROOT
from tests.support.bench_smoke import quick


def test_quick_regression_has_a_row_for_each_hot_path(tmp_path: Path) -> None:
    """Both are measured, and every row is judged."""
    python = tmp_path / "earlier" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    rows = quick(tmp_path, "regression", "--base", str(tmp_path / "earlier"))
    paths = ("echo", "fan-out", "fan-out", "accept", "relayed", "idle")
    assert [each["what"].split()[0] for each in rows] == list(paths)
    # So few connections may fit into memory that the process has already: the last row has no least value.
    assert all(each["ours"] > 0 and each["theirs"] > 0 and each["target"] for each in rows[:-1])


def test_an_earlier_version_must_be_named(tmp_path: Path) -> None:
    """Without one, or with one that has no environment, the error says what to do."""
    for options in ((), ("--base", str(tmp_path))):
        done = subprocess.run(
            [sys.executable, "-m", "bench", "--quick", *options, "regression"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert ".venv" in done.stderr
