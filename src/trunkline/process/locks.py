"""Locks that keep a directory, or a file name in it, to one process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def take_lock(path: Path) -> int:
    """Take the lock of a file, which is made when missing, readable by this user alone.

    Closing the descriptor that is returned releases it, and so does the end of the process, even by a crash.

    Raises:
        BlockingIOError: another process has it.
        OSError: the file cannot be made or opened.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return lock
