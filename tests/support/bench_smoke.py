"""Smoke runs of the benchmarks, for the tests that keep them runnable; how long one takes is no concern of theirs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import ROOT


def quick(tmp_path: Path, name: str, *options: str) -> list[dict[str, Any]]:
    """Rows of a smoke run, which has to end well."""
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--json", str(figures), *options, name],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(figures.read_text())[name]["rows"]
    return rows


def row(rows: list[dict[str, Any]], words: str) -> dict[str, Any]:
    """The one row whose name holds `words`."""
    found = [each for each in rows if words in each["what"]]
    assert len(found) == 1, [each["what"] for each in rows]
    return found[0]
