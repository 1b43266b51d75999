"""How many files this process may open, and how a server shares them out: each socket is one.

Rules:

- The soft limit, usually 1,024, is raised to the hard one at the start: it is low for the sake of select(2), which
  nothing here uses.
- What is shared out never adds up to more than the limit. A server at its limit can accept nobody, not even to refuse.
- Connections that have not asked for anything yet get a share that no other connection gets, and the oldest of them
  makes room for a new one: so idle clients lock nobody out.
"""

from __future__ import annotations

import contextlib
import errno
import resource
from typing import Final, NamedTuple

MOST: Final = 1 << 20
"""What is asked for where the limit is infinite: more than this the kernel does not grant without being configured."""

MOST_PENDING: Final = 2048
MOST_ADMIN: Final = 256
MOST_OTHERS: Final = 700
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC})


def raise_limit() -> int:
    """Let this process open as many files as it is allowed to; returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Where the kernel grants less, the soft limit stays, and what depends on it is fitted to it.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return limit()


def limit() -> int:
    """How many files this process may open now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else min(soft, MOST)


def exhausted(error: BaseException) -> bool:
    """Whether this process, or its machine, has no room for another socket or its watch: no peer is to blame then."""
    return isinstance(error, OSError) and error.errno in _EXHAUSTED


class Shares(NamedTuple):
    """How a server shares out `files` open files when each of its connections needs `each`."""

    files: int
    each: int = 1

    @property
    def connections(self) -> int:
        """Connections at most."""
        return max((self.files - self._others - self._kept) // self.each, 1)

    def pending(self, connections: int) -> int:
        """TCP connections that may be in their handshake, or speak plain HTTP, beside so many `connections`.

        At most a quarter of all files; close to the limit a sixteenth, which connections leave alone.
        """
        left = self.files - self._others - connections * self.each
        return max(self._kept, min(MOST_PENDING, self.files // 4, left))

    @property
    def admin(self) -> int:
        """TCP connections to the admin port at most."""
        return max(min(MOST_ADMIN, self.files // 32), 4)

    @property
    def _kept(self) -> int:
        return max(min(MOST_PENDING, self.files // 16), 4)

    @property
    def _others(self) -> int:
        """For everything else: the admin port, the bus, health checks, logs."""
        return min(MOST_OTHERS, self.files // 8)
