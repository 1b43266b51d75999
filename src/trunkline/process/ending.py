"""How a process ended, as text. Pure."""

from __future__ import annotations

import signal


def ended(exit_code: int) -> str:
    """`ended with exit code 3`, `was ended by SIGKILL`; an exit code is negative for a signal, as in `subprocess`."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"
