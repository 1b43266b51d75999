"""Where a process keeps what its user's other commands have to find, and nobody else may read.

Rules: XDG Base Directory Specification 0.8. A user without a home (a container with a bare user number, a service
account) has the runtime directory alone, or nothing at all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path


def private_dirs(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Directories of this user for Trunkline's own small files, best first; they may not exist, or not be writable."""
    bases: list[Path] = []
    # A relative path is to be ignored: it would lead elsewhere from each directory.
    if (state := environ.get("XDG_STATE_HOME", "")).startswith("/"):
        bases.append(Path(state))
    else:
        with contextlib.suppress(RuntimeError):  # no HOME, and the user has no entry in the password database
            bases.append(Path.home() / ".local" / "state")
    run = environ.get("XDG_RUNTIME_DIR", "")
    bases.append(Path(run if run.startswith("/") else f"/run/user/{os.getuid()}"))
    return tuple(base / "trunkline" for base in bases)
