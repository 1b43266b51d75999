"""The benchmark of scrapes stays runnable, and its bounds hold even in a smoke run."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_quick_scrape_is_small_and_grows_with_nothing(tmp_path: Path) -> None:
    """`scrape` gives time, size and CPU; 20 times the connections leave the size as it is; a peer is beside ours."""
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--json", str(figures), "scrape"],
        cwd=ROOT, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(figures.read_text())["scrape"]["rows"]
    assert all(row["ours"] > 0 for row in rows)
    sizes = [row for row in rows if row["what"].endswith("size")]
    assert len(sizes) == 3
    assert all(row["met"] for row in sizes)
    assert "prometheus_client" in {row["peer"] for row in rows}
