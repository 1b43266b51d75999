"""The benchmark of starts stays runnable, and its limits of memory hold even in a smoke run."""

from __future__ import annotations

from pathlib import Path

from tests.support.bench_smoke import quick, row


def test_quick_startup_has_a_row_for_each_limit(tmp_path: Path) -> None:
    """CPU beside the bare programs, and memory within its limits, which does not depend on the machine's load."""
    rows = quick(tmp_path, "startup")
    assert {each["peer"] for each in rows if each["peer"]} == {"a bare typer app", "import msgspec"}
    assert all(each["ours"] > 0 and each["target"] for each in rows)
    assert row(rows, "trunkline serve")["met"]
    assert row(rows, "trunkline up")["met"]
