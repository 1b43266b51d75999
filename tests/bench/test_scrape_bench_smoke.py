"""The benchmark of scrapes stays runnable, and its bounds hold even in a smoke run."""

from pathlib import Path

from tests.support.bench_smoke import quick


def test_quick_scrape_is_small_and_grows_with_nothing(tmp_path: Path) -> None:
    """`scrape` gives time, size and CPU; 20 times the connections leave the size as it is; a peer is beside ours."""
    rows = quick(tmp_path, "scrape")
    assert all(row["ours"] > 0 for row in rows)
    sizes = [row for row in rows if row["what"].endswith("size")]
    assert len(sizes) == 3
    assert all(row["met"] for row in sizes)
    assert "prometheus_client" in {row["peer"] for row in rows}
