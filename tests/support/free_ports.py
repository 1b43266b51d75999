"""Free TCP ports for tests that must name a port before something listens on it.

They come from below the range that the kernel gives to outgoing connections (32768 and up on Linux), for a port of that
range may be taken by any connection between the choice and the listening. Each worker of pytest has a share of its own,
and no port is given twice until the share is used up.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

FIRST, BEHIND, WORKERS = 10_000, 32_000, 8


def _own_share() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    size = (BEHIND - FIRST) // WORKERS
    start = FIRST + worker * size
    # A random place to begin keeps two runs on one machine apart.
    offset = random.randrange(size)
    while True:
        yield start + offset % size
        offset += 1


_ports = _own_share()


def free_port() -> int:
    """A port that nobody listens on, on any address."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    found: list[int] = []
    while len(found) < count:
        port = next(_ports)
        if found and port != found[-1] + 1:
            found.clear()
        found.append(port)
        if not _is_free(port):
            found.clear()
    return found[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Without SO_REUSEADDR, a port whose last connections linger (TIME_WAIT) counts as taken.
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
