"""The package that speaks to the Docker daemon, which is an extra."""

from __future__ import annotations

import importlib.util

from trunkline.errors import StartError


def require(what: str) -> None:
    """Raise StartError unless aiodocker is installed; `what` needs it."""
    if importlib.util.find_spec("aiodocker") is None:
        raise StartError(f"{what} needs the package aiodocker", "Install it with: pip install 'trunkline[docker]'")
