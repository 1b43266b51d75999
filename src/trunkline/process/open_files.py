"""How many files this process may open, and how a server shares them out: each socket is one.

Rules:

- The soft limit, usually 1,024, is raised to the hard one at the start: it is low for the sake of select(2), which
  nothing here uses.
- What is shared out never adds up to more than the limit. A server at its limit can accept nobody, not even to refuse.
- Connections that have not asked for anything yet get a share that no other connection gets, and the oldest of them
  makes room for a new one: so idle clients lock nobody out.
"""

from __future__ import annotations

import errno
import resource
from typing import Final

MOST: Final = 1 << 20
"""What is asked for at most: Linux grants no more without being configured. Where less is granted, as by macOS with its
infinite hard limit, half of it is asked for next."""

MOST_PENDING: Final = 2048
MOST_ADMIN: Final = 256
MOST_OTHERS: Final = 700
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC})


def raise_limit() -> int:
    """Let this process open as many files as it is allowed to; returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    while soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            wanted //= 2
        else:
            break
    return limit()


def limit() -> int:
    """How many files this process may open now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else min(soft, MOST)


def exhausted(error: BaseException) -> bool:
    """Whether this process, or its machine, has no room for another socket or its watch: no peer is to blame then."""
    return isinstance(error, OSError) and error.errno in _EXHAUSTED


class Shares:
    """How a server shares out `files` open files when each of its connections needs `each`.

    Attributes:
        connections: connections at most.
        admin: TCP connections to the admin port at most.
    """

    __slots__ = ("_each", "_free", "_kept", "_most", "admin", "connections", "files")

    def __init__(self, files: int, each: int = 1) -> None:
        self.files = files
        self.admin = max(min(MOST_ADMIN, files // 32), 4)
        self._each = each
        # The others are for the admin port, the bus, health checks and logs.
        self._free = files - min(MOST_OTHERS, files // 8)
        self._kept = max(min(MOST_PENDING, files // 16), 4)
        self._most = max(min(MOST_PENDING, files // 4), self._kept)
        self.connections = max((self._free - self._kept) // each, 1)

    def pending(self, connections: int) -> int:
        """TCP connections that may be in their handshake, or speak plain HTTP, beside so many `connections`.

        At most a quarter of all files; close to the limit a sixteenth, which connections leave alone.
        """
        # Called for each TCP connection that comes.
        left = self._free - connections * self._each
        if left >= self._most:
            return self._most
        return left if left > self._kept else self._kept
