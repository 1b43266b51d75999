"""The environment of programs under test."""

from __future__ import annotations

import os
from pathlib import Path

OWN_NAMES = ("PORT", "HOST", "LOG_LEVEL", "HEARTBEAT_INTERVAL", "CONNECTION_TIMEOUT", "MAX_CONNECTIONS")
"""Settings without the prefix."""


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """Nothing of the developer's own settings, state within `tmp_path`, and `more`."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_") and name not in OWN_NAMES
    }
    return kept | {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_RUNTIME_DIR": str(tmp_path / "run")} | more
