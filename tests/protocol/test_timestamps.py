"""A moment as text."""

from __future__ import annotations

import re
from pathlib import Path

import trunkline
from trunkline.protocol.timestamps import utc


def test_utc_with_milliseconds() -> None:
    """Also at a whole second, so that texts sort as their moments do."""
    assert utc(1_769_860_800.0) == "2026-01-31T12:00:00.000Z"
    assert utc(1_769_860_800.2509) == "2026-01-31T12:00:00.250Z"


def test_moments_are_written_in_one_place() -> None:
    """No module formats a time of its own; a day alone, which names a log file, is no moment."""
    own = re.compile(r"(?<!from)isoformat\(|strftime\((?!\"%Y-%m-%d\")|TimeStamper")
    root = Path(trunkline.__file__).parent
    found = [str(file.relative_to(root)) for file in root.rglob("*.py") if own.search(file.read_text())]
    assert found == ["protocol/timestamps.py"]
