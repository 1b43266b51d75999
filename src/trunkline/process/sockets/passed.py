"""Listening sockets that a service manager hands over at the start: `LISTEN_FDS`, as sd_listen_fds(3) describes it."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Final

from trunkline.errors import StartError

FIRST: Final = 3
"""The number of the first descriptor, SD_LISTEN_FDS_START."""

_HINT: Final = "In the socket unit, name TCP ports with ListenStream= and leave out Accept=yes."


def passed_sockets(environ: MutableMapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """The sockets by the name that the socket unit gives them (FileDescriptorName=); empty when none were passed.

    The variables are taken out of `environ`, for they mean this process alone.

    Raises:
        StartError: one of them is no TCP socket that listens.
    """
    mine = environ.get("LISTEN_PID") == str(os.getpid())
    count = environ.get("LISTEN_FDS", "0")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {}
    if not mine or not count.isdigit():
        return found
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    for number in range(int(count)):
        name = names[number] if number < len(names) else ""
        try:
            sock = socket.socket(fileno=FIRST + number)
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise StartError(f"socket {name or number} of LISTEN_FDS is no socket: {error.strerror}", _HINT) from None
        if not listens or sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise StartError(f"socket {name or number} of LISTEN_FDS is no TCP socket that listens", _HINT)
        sock.set_inheritable(False)
        sock.setblocking(False)
        found.setdefault(name, []).append(sock)
    return found
