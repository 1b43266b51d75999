"""SIGHUP of a server: it asks for a reload, or says that the terminal has gone from which the server was started.

A server takes it from its first moment on: one that comes while the program is still being loaded would end it.
"""

from __future__ import annotations

import os
import signal
from typing import NamedTuple


class Held(NamedTuple):
    """What `hold` has seen.

    Attributes:
        terminal: whether the process had a terminal.
        came: whether SIGHUP has come since.
    """

    terminal: bool = False
    came: bool = False


_held = Held()


def hold() -> None:
    """Keep a SIGHUP that comes from now on for `held`, unless it is ignored already, as `nohup` has it."""
    global _held
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        _held = Held(has_terminal())
        signal.signal(signal.SIGHUP, lambda *_: _keep())


def held() -> Held:
    """What was kept."""
    return _held


def _keep() -> None:
    global _held
    _held = _held._replace(came=True)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal; the kernel takes it away when the terminal is closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
