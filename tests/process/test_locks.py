"""Locks that keep a directory to one process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trunkline.process.locks import take_lock


def test_a_lock_is_had_once(tmp_path: Path) -> None:
    """A second one is refused until the first descriptor is closed; the file is its user's alone."""
    lock = take_lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError):
        take_lock(tmp_path / "lock")
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    os.close(lock)
    os.close(take_lock(tmp_path / "lock"))
    with pytest.raises(FileNotFoundError):
        take_lock(tmp_path / "missing" / "lock")
